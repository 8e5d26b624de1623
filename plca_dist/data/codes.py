"""Codes as a person writes them in a label-set file: `7`, `[0, 3-5]`, `[128, 64, 128]`, `"#804080"`."""

import colorsys
import re
from typing import Any

from plca_dist.data.coding import MOST_NUMBER
from plca_dist.errors import UserError, short

_RANGE = re.compile(r"\s*(\d{1,6})\s*-\s*(\d{1,6})\s*")
_HEX = re.compile(r"#([0-9a-fA-F]{6})")


def numbers(value: Any, where: str) -> tuple[int, ...]:
    """Numbers and ranges, ends included, one by one. Raises UserError for anything else."""
    found: list[int] = []
    for item in value if isinstance(value, list | tuple) else [value]:
        ends = _RANGE.fullmatch(item) if isinstance(item, str) else None
        low, high = (int(ends[1]), int(ends[2])) if ends else (item, item)
        if type(low) is not int or not 0 <= low <= high <= MOST_NUMBER:
            raise UserError(f"{where}: value {short(item)}: give whole numbers from 0 to {MOST_NUMBER}, or ranges 3-5.")
        found += range(low, high + 1)
    return tuple(found)


def colours(value: Any, where: str) -> tuple[int, ...]:
    """One colour or a list of them, as 0xRRGGBB. Raises UserError for anything else."""
    single = isinstance(value, str) or (isinstance(value, list | tuple) and any(type(v) is int for v in value))
    found = [colour(item, where) for item in ([value] if single or not isinstance(value, list | tuple) else value)]
    return tuple(red << 16 | green << 8 | blue for red, green, blue in found)


def colour(value: Any, where: str) -> tuple[int, int, int]:
    """Red, green and blue, each from 0 to 255. Raises UserError for what is no colour."""
    if isinstance(value, str) and (found := _HEX.fullmatch(value)):
        number = int(found[1], 16)
        return number >> 16, number >> 8 & 255, number & 255
    if isinstance(value, list | tuple) and len(value) == 3 and all(type(v) is int and 0 <= v <= 255 for v in value):
        return value[0], value[1], value[2]
    raise UserError(f'{where}: colour {short(value)}: give [red, green, blue], each from 0 to 255, or "#rrggbb".')


def drawn_palette(classes: int) -> tuple[tuple[int, int, int], ...]:
    """Distinct colours, neither black nor white; neighbours differ in hue."""
    shades = ((0.75, 0.9), (0.5, 0.6), (0.95, 0.65), (0.35, 0.95))  # saturation, brightness
    drawn = []
    for k in range(classes):
        red, green, blue = colorsys.hsv_to_rgb(k * 0.618034 % 1, *shades[k % len(shades)])
        drawn.append((round(255 * red), round(255 * green), round(255 * blue)))
    return tuple(drawn)
