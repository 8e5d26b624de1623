"""Files of pictures, opened without trust: which formats are read, how large they may be, how their pixels are held."""

import io
import re
import warnings

import numpy as np
from PIL import ExifTags, Image, ImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from plca_dist.data import png
from plca_dist.errors import first_line

# Such data turn nothing (`upright`). It is for no one to act on, and Pillow would write it for every decoding.
warnings.filterwarnings("ignore", "Corrupt EXIF data", UserWarning)

#: The most pixels of an image. While it is decoded it takes 10 to 17 bytes a pixel, in every thread that decodes.
MOST_PIXELS = 178_956_970

#: Endings of names of files that are read, and of pictures that are not. Upper case counts as lower case.
SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".tif", ".tiff", ".webp", ".bmp")
OTHER_SUFFIXES = (".gif", ".jp2", ".heic", ".heif", ".avif", ".ppm", ".pgm", ".tga")
#: Of label files: formats that keep every value.
LABEL_SUFFIXES = (".png", ".tif", ".tiff", ".bmp", ".webp")

_JPEG = b"\xff\xd8\xff"
#: How files begin -> the format, and who reads it.
_READERS: dict[bytes, tuple[str, type[ImageFile.ImageFile]]] = {
    png.SIGNATURE: ("PNG", PngImageFile),
    _JPEG: ("JPEG", JpegImageFile),
    b"II*\0": ("TIFF", TiffImageFile),
    b"MM\0*": ("TIFF", TiffImageFile),
    b"RIFF": ("WebP", WebPImageFile),
    b"BM": ("BMP", BmpImageFile),
}
#: How files of other formats begin.
_OTHERS = {b"II+\0": "BigTIFF", b"MM\0+": "BigTIFF", b"GIF8": "GIF", b"\0\0\0\x0cjP": "JPEG 2000"}
READ = "PNG, JPEG, TIFF, WebP and BMP"
#: Raw modes of samples that Pillow inverts, such as "L;I" of a TIFF whose 0 is white.
_INVERTED = re.compile(r";\d*I")


class RefusedError(ValueError):
    """A sound file that is not read; says why, and what to do."""


def format_of(data: bytes) -> str | None:
    """The name of the format, by the first bytes; None for those that are not read."""
    return next((name for start, (name, _) in _READERS.items() if data.startswith(start)), None)


def opened(data: bytes) -> ImageFile.ImageFile:
    """The image, its pixels not decoded yet. `Image.open` would warn of large images, and call the largest no image."""
    reader = next((reader for start, (_, reader) in _READERS.items() if data.startswith(start)), None)
    if reader is None:
        kind = next((name for start, name in _OTHERS.items() if data.startswith(start)), None)
        what = (
            f"it is {kind}, and {READ} are read; convert it" if kind else f"it is no {READ.replace('and', 'or')} image"
        )
        raise RefusedError(what if kind else f"{what}; replace the file")
    image = reader(io.BytesIO(data))
    width, height = image.size
    if width * height > MOST_PIXELS:
        most = f"at most {MOST_PIXELS // 1_000_000} million are read"
        raise RefusedError(f"it has {width} x {height} pixels, and {most}; cut it into tiles")
    if (frames := getattr(image, "n_frames", 1)) > 1 and not isinstance(image, JpegImageFile | PngImageFile):
        raise RefusedError(f"it holds {frames} pictures; give each a file of its own")
    return image


def raw_mode(image: ImageFile.ImageFile) -> str:
    """How the file holds its samples, in Pillow's words: `L;2` are grey samples of 2 bits."""
    if not image.tile:
        return image.mode
    arguments = image.tile[0].args
    return str(arguments if isinstance(arguments, str) else arguments[0] if arguments else image.mode)


def check_label_format(data: bytes, image: ImageFile.ImageFile) -> None:
    """Raise RefusedError for a format that does not keep the values of a label, or holds them otherwise."""
    lossy = isinstance(image, JpegImageFile) or (isinstance(image, WebPImageFile) and b"VP8L" not in data[:4096])
    if lossy or (isinstance(image, TiffImageFile) and image.info.get("compression") in ("jpeg", "tiff_jpeg", "webp")):
        kind = format_of(data)
        raise RefusedError(f"it is a {kind} whose compression changes values; write labels as PNG")
    if _INVERTED.search(raw_mode(image)):
        raise RefusedError("it is a TIFF whose 0 is white, so that its values are inverted; write labels as PNG")


def orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 where nothing is to be turned."""
    try:
        found = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # Pillow has no single error for EXIF data that are no EXIF data; viewers pass over them
        return 1
    return found if found in range(1, 9) else 1


def upright(pixels: np.ndarray, image: ImageFile.ImageFile) -> np.ndarray:
    """The decoded pixels (H, W, …) of the image, turned as its EXIF orientation says. Pillow turns TIFF itself."""
    turn = orientation(image)
    if turn == 1 or isinstance(image, TiffImageFile):
        return pixels
    turned = pixels.swapaxes(0, 1) if turn > 4 else pixels
    rows = -1 if turn in (3, 4, 7, 8) else 1
    columns = -1 if turn in (2, 3, 6, 7) else 1
    return np.ascontiguousarray(turned[::rows, ::columns])


def damaged(data: bytes, error: Exception) -> str:
    """Why the file cannot be decoded, and what to do."""
    return f"it is a damaged {format_of(data)} ({first_line(error)}); replace the file"


def changes(data: bytes) -> tuple[str, ...]:
    """What reading does to the pixels of an image beyond decoding, in words; for what `opened` takes."""
    image = opened(data)
    found = []
    if orientation(image) != 1:
        found.append("turned as its EXIF orientation says")
    if sixteen_bits(image):
        found.append("16 bits a sample, of which the high byte is taken")
    if image.mode in ("CMYK", "LAB", "HSV"):
        found.append(f"{image.mode} colours converted to RGB")
    if "transparency" in image.info or ("A" in image.getbands() and np.asarray(image.getchannel("A")).min() < 255):
        found.append("transparency left out")
    profile = image.info.get("icc_profile")
    if profile and b"sRGB" not in profile and b"s\0R\0G\0B" not in profile:
        found.append("a colour profile other than sRGB, which is not applied")
    return tuple(found)


def sixteen_bits(image: ImageFile.ImageFile) -> bool:
    """Whether samples have 16 bits. Pillow gives the high byte of colours, and grey samples as they are."""
    return image.mode.startswith("I") or ";16" in raw_mode(image)
