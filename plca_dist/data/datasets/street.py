"""A street in metres, painted through a pinhole camera: the geometry of both domains of toytown.

Image and label are painted together, shape by shape from far to near, so the label is exact.

Legend: X metres to the right of the street's middle, Y metres above the ground, Z metres ahead of the camera.
"""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
from PIL import Image, ImageDraw

from plca_dist.data.labels import LABEL_SETS

Colour = tuple[float, float, float]

_CLASSES = LABEL_SETS["cityscapes"].classes
#: The mean colour of each class. Buildings, persons and cars have several, below.
_COLOURS: dict[str, Colour] = {
    "road": (84, 82, 92),
    "sidewalk": (188, 172, 176),
    "pole": (52, 60, 62),
    "traffic sign": (238, 196, 44),
    "vegetation": (66, 128, 52),
    "sky": (138, 190, 240),
}
_WALLS: tuple[Colour, ...] = ((172, 104, 84), (196, 160, 112), (150, 126, 108), (206, 186, 150))
_CLOTHES: tuple[Colour, ...] = ((206, 44, 66), (226, 92, 140), (168, 40, 110))
_PAINTS: tuple[Colour, ...] = ((38, 62, 168), (30, 110, 186), (84, 60, 170))
_SKIN: Colour = (232, 186, 160)
_GLASS: Colour = (58, 66, 84)
_RUBBER: Colour = (30, 30, 34)
_FAR = 90.0
_NEAR = 1.5


class Street:
    """One street and the camera on it; `paint` fills `image` (RGB) and `label` (Cityscapes train ids)."""

    def __init__(self, rng: np.random.Generator, height: int, width: int, windows: bool) -> None:
        self.image = Image.new("RGB", (width, height))
        self.label = Image.new("L", (width, height))
        self._brush, self._stencil = ImageDraw.Draw(self.image), ImageDraw.Draw(self.label)
        self._rng, self._windows = rng, windows
        self._height, self._width = height, width
        self._focal = 1.2 * height
        self._vanishing = width * rng.uniform(0.38, 0.62)
        self.horizon = height * rng.uniform(0.38, 0.5)
        self._eye = rng.uniform(1.4, 2.0)
        self._road = rng.uniform(3.2, 4.6)
        self._kerb = self._road + rng.uniform(1.8, 3.2)
        self._left = rng.uniform(-0.5, 0.5) * self._road

    def paint(self) -> None:
        self._ground_and_sky()
        for side in (-1, 1):
            self._house_fronts(side)
        things: list[tuple[float, Callable[[float], None]]] = []
        kinds: tuple[tuple[Callable[[float], None], int, int, float], ...] = (
            (self._tree, 1, 5, 7.0),
            (self._pole, 3, 6, 5.0),
            (self._car, 2, 6, 6.0),
            (self._person, 3, 8, 4.5),
        )
        for draw, low, high, nearest in kinds:
            # Uniform in 1/Z: as many things in the near half of the picture as in the far one.
            count = self._rng.integers(low, high + 1)
            things += [(1 / z, draw) for z in self._rng.uniform(1 / 40, 1 / nearest, count)]
        for z, draw in sorted(things, key=lambda thing: -thing[0]):
            draw(z)

    def _ground_and_sky(self) -> None:
        h, w, y = self._height, self._width, self.horizon
        self._shape([(0, 0), (w, 0), (w, y), (0, y)], self._tint(_COLOURS["sky"], 10), "sky")
        self._shape([(0, y), (w, y), (w, h), (0, h)], self._tint(_COLOURS["sidewalk"], 10), "sidewalk")
        x = -_FAR
        while x < _FAR:
            span, tall = self._rng.uniform(4, 14), self._rng.uniform(3, 11)
            if self._rng.random() < 0.6:
                self._upright(x, span, 0, tall, _FAR, self._pick(_WALLS), "building")
            else:
                self._upright(x, span, 0, 0.6 * tall, _FAR, self._tint(_COLOURS["vegetation"], 16), "vegetation")
            x += span
        road = self._tint(_COLOURS["road"], 9)
        self._flat(-self._road, self._road, _NEAR, _FAR, road, "road")
        for z in np.arange(2.0, 50.0, 6.0):
            self._flat(-0.08, 0.08, z, z + 2.5, (205, 205, 205), "road")

    def _house_fronts(self, side: int) -> None:
        """A row of houses and gaps along one side, painted from far to near."""
        plots = [_NEAR]
        while plots[-1] < 75:
            plots.append(plots[-1] + self._rng.uniform(6, 15))
        for near, far in reversed(list(pairwise(plots))):
            x = side * (self._kerb + self._rng.uniform(0, 1.2))
            if self._rng.random() < 0.22:
                green = self._tint(_COLOURS["vegetation"], 16)
                self._wall(x, near, far, self._rng.uniform(1.2, 3.0), green, "vegetation")
                continue
            colour, tall = self._pick(_WALLS), self._rng.uniform(5, 15)
            gable = (0.82 * colour[0], 0.82 * colour[1], 0.82 * colour[2])
            self._upright(min(x, x + 12 * side), 12, 0, tall, near, gable, "building")
            self._wall(x, near, far, tall, colour, "building")
            if self._windows and near < 45:
                self._window_rows(x, near, far, tall)

    def _window_rows(self, x: float, near: float, far: float, tall: float) -> None:
        for y in np.arange(1.2, tall - 1.8, 3.0):
            for z in np.arange(near + 0.8, far - 1.4, 2.6):
                self._wall(x, z, z + 1.3, y + 1.6, self._tint(_GLASS, 18), "building", bottom=y)

    def _tree(self, z: float) -> None:
        x = self._beside_road(0.4)
        tall, green = self._rng.uniform(4, 7.5), self._tint(_COLOURS["vegetation"], 18)
        self._upright(x - 0.18, 0.36, 0, 0.5 * tall, z, (92, 70, 50), "vegetation")
        for _ in range(4):
            dx, y = self._rng.uniform(-0.8, 0.8), tall * self._rng.uniform(0.55, 0.85)
            shade = self._rng.uniform(0.85, 1.15)
            leaf = (green[0] * shade, green[1] * shade, green[2] * shade)
            self._disc(x + dx, y, z, self._rng.uniform(0.9, 1.5), leaf, "vegetation")

    def _pole(self, z: float) -> None:
        x, tall, grey = self._beside_road(0.3), self._rng.uniform(2.6, 6.0), self._tint(_COLOURS["pole"], 10)
        self._upright(x - 0.11, 0.22, 0, tall, z, grey, "pole")
        if tall > 4.8:
            self._upright(min(x, 0.7 * x), abs(0.3 * x), tall, 0.2, z, grey, "pole")
        if self._rng.random() < 0.75:
            yellow, y = self._tint(_COLOURS["traffic sign"], 16), self._rng.uniform(2.2, min(tall, 3.4))
            if self._rng.random() < 0.5:
                self._disc(x, y, z, 0.45, yellow, "traffic sign")
            else:
                self._upright(x - 0.45, 0.9, y - 0.4, 0.8, z, yellow, "traffic sign")

    def _car(self, z: float) -> None:
        parked = self._rng.random() < 0.6
        x = self._side() * (self._road - 1.1 if parked else 0.5 * self._road)
        paint = self._pick(_PAINTS)
        dark = (0.75 * paint[0], 0.75 * paint[1], 0.75 * paint[2])
        inner = x - 0.9 * np.sign(x - self._left)
        self._wall(inner, z, z + 4.0, 0.95, dark, "car", bottom=0.25)
        self._wall(inner * 0.97, z + 0.6, z + 3.0, 1.45, _GLASS, "car", bottom=0.95)
        for wheel in (x - 0.85, x + 0.55):
            self._upright(wheel, 0.3, 0, 0.5, z, _RUBBER, "car")
        self._upright(x - 0.9, 1.8, 0.25, 0.7, z, paint, "car")
        self._upright(x - 0.75, 1.5, 0.95, 0.5, z, paint, "car")
        self._upright(x - 0.6, 1.2, 1.0, 0.34, z, _GLASS, "car")

    def _person(self, z: float) -> None:
        x = self._beside_road(0.9) if self._rng.random() < 0.8 else self._rng.uniform(-0.8, 0.8) * self._road
        tall, coat = self._rng.uniform(1.5, 1.95), self._pick(_CLOTHES)
        legs = (0.55 * coat[0], 0.55 * coat[1], 0.55 * coat[2])
        for leg in (x - 0.22, x + 0.04):
            self._upright(leg, 0.18, 0, 0.5 * tall, z, legs, "person")
        self._upright(x - 0.28, 0.56, 0.42 * tall, 0.42 * tall, z, coat, "person")
        self._disc(x, 0.91 * tall, z, 0.16, self._tint(_SKIN, 12), "person")

    def _side(self) -> int:
        return 1 if self._rng.random() < 0.5 else -1

    def _beside_road(self, margin: float) -> float:
        return self._side() * (self._road + self._rng.uniform(margin, self._kerb - self._road))

    def _tint(self, colour: Colour, spread: float) -> Colour:
        """A colour of its own for one thing: brightness and hue both vary."""
        r, g, b = np.asarray(colour) * self._rng.normal(1, 0.06) + self._rng.normal(0, 0.6 * spread, 3)
        return float(r), float(g), float(b)

    def _pick(self, colours: tuple[Colour, ...]) -> Colour:
        return self._tint(colours[self._rng.integers(len(colours))], 16)

    def _flat(self, left: float, right: float, near: float, far: float, colour: Colour, name: str) -> None:
        """A rectangle on the ground."""
        corners = ((left, near), (left, far), (right, far), (right, near))
        self._shape([self._project(x, 0, z) for x, z in corners], colour, name)

    def _wall(
        self, x: float, near: float, far: float, top: float, colour: Colour, name: str, bottom: float = 0.0
    ) -> None:
        """A rectangle along the street, seen at a slant."""
        corners = ((bottom, near), (top, near), (top, far), (bottom, far))
        self._shape([self._project(x, y, z) for y, z in corners], colour, name)

    def _upright(self, x: float, wide: float, bottom: float, tall: float, z: float, colour: Colour, name: str) -> None:
        """A rectangle that faces the camera, at least a pixel wide."""
        corners = ((x, bottom), (x, bottom + tall), (x + wide, bottom + tall), (x + wide, bottom))
        self._shape([self._project(x, y, z) for x, y in corners], colour, name)

    def _disc(self, x: float, y: float, z: float, radius: float, colour: Colour, name: str) -> None:
        (u, v), r = self._project(x, y, z), radius * self._focal / z
        box = (u - r, v - r, u + r, v + r)
        self._brush.ellipse(box, fill=_rgb(colour))
        self._stencil.ellipse(box, fill=_CLASSES.index(name))

    def _shape(self, points: list[tuple[float, float]], colour: Colour, name: str) -> None:
        self._brush.polygon(points, fill=_rgb(colour))
        self._stencil.polygon(points, fill=_CLASSES.index(name))

    def _project(self, x: float, y: float, z: float) -> tuple[float, float]:
        scale = self._focal / z
        return self._vanishing + (x - self._left) * scale, self.horizon + (self._eye - y) * scale


def _rgb(colour: Colour) -> tuple[int, int, int]:
    r, g, b = (min(255, max(0, round(c))) for c in colour)
    return r, g, b
