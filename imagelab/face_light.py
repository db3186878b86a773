"""How a face is lit: how bright it is, and from which side."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imagelab.errors import InvalidValueError
from imagelab.records import Record

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, what Pillow's "L" is


@dataclass(frozen=True, kw_only=True, slots=True)
class FaceLight(Record):
    """The light on a face, of the pixels in its box."""

    brightness: float  # mean luma, 0 black to 1 white
    from_right: float  # (right half - left half) / (right + left), -1 to 1: positive where the right is brighter
    from_above: float  # likewise of the upper and the lower half


def face_light(rgb: NDArray[np.uint8], box: Sequence[float]) -> FaceLight:
    """Measure the light in a box (x0, y0, x1, y1) of a picture (h, w, 3), as far as it lies inside the picture.

    Raises InvalidValueError for a box of which fewer than 2 x 2 pixels do.

    >>> face_light(np.full((8, 8, 3), 51, np.uint8), (0, 0, 8, 8))
    FaceLight(brightness=0.2, from_right=0.0, from_above=0.0)
    """
    height, width = rgb.shape[:2]
    x0, x1 = (round(min(max(x, 0), width)) for x in (box[0], box[2]))
    y0, y1 = (round(min(max(y, 0), height)) for y in (box[1], box[3]))
    if x1 - x0 < 2 or y1 - y0 < 2:
        raise InvalidValueError("box", tuple(box), f"of 2 x 2 pixels or more inside {width} x {height}")
    luma = rgb[y0:y1, x0:x1] @ np.array(_LUMA) / 255
    across, down = luma.shape[1] // 2, luma.shape[0] // 2
    return FaceLight(
        brightness=round(float(luma.mean()), 6),
        from_right=_contrast(luma[:, -across:], luma[:, :across]),
        from_above=_contrast(luma[:down], luma[-down:]),
    )


def _contrast(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Return Michelson's contrast of two means, 0 where both are black."""
    bright, dark = float(a.mean()), float(b.mean())
    return round((bright - dark) / (bright + dark), 6) if bright + dark else 0.0
