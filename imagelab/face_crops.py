"""The crop of a face that the recogniser looks at, and how sharp it is."""

from typing import Any, NewType

import numpy as np
from numpy.typing import NDArray

from imagelab.rgb import Rgb

Bgr = NewType("Bgr", NDArray[np.uint8])  # (h, w, 3), blue first, as OpenCV and insightface want it
_CROP_PX = 112  # of the sides that insightface's landmark positions are for


def to_bgr(rgb: Rgb) -> Bgr:
    """Return a picture as (h, w, 3) BGR: the one place where the order changes."""
    return Bgr(np.ascontiguousarray(rgb[:, :, ::-1]))


def alignment(landmarks: NDArray[np.float32], side_px: int) -> NDArray[np.float64] | None:
    """Return the (2, 3) map from a picture to the upright crop of a face; None for landmarks that no face has.

    `landmarks` (5, 2) in px; the crop is `side_px` wide and high. It is the similarity transform of
    `insightface.utils.face_align.estimate_norm`, to the bit, by the name that scikit-image hasn't deprecated: a warning
    for every face could only be silenced for all threads at once.
    """
    from insightface.utils.face_align import arcface_dst
    from skimage.transform import SimilarityTransform

    if not np.isfinite(landmarks).all():
        return None
    ratio, shift = (side_px / 112, 0.0) if side_px % _CROP_PX == 0 else (side_px / 128, 8.0 * side_px / 128)
    with np.errstate(all="ignore"):
        found = SimilarityTransform.from_estimate(landmarks, arcface_dst * ratio + np.array([shift, 0], np.float32))
    matrix: NDArray[np.float64] | None = found.params[:2] if found else None
    return matrix if matrix is not None and np.isfinite(matrix).all() else None


def crop(bgr: Bgr, matrix: NDArray[np.float64], side_px: int) -> Bgr:
    """Cut a face out, upright; black where the picture ends, as insightface does it."""
    import cv2

    return Bgr(np.asarray(cv2.warpAffine(bgr, matrix, (side_px, side_px), borderValue=0.0), np.uint8))


def sharpness(crop: Bgr, matrix: NDArray[np.float64], picture_px: tuple[int, int]) -> float:
    """Return the variance of the Laplacian of an aligned crop's grey levels over their own variance.

    At the recogniser's resolution: the size of the picture doesn't matter, and a small face that was enlarged is the
    blur that it is to the recogniser. Over the variance: a dim picture isn't a blurred one. 0 for one colour. Only what
    lies inside the picture, (width, height), counts, because its border is an edge that isn't the face's.
    """
    import cv2

    grey: Any = cv2.cvtColor(crop, cv2.COLOR_BGR2GRAY)
    inside = _inside(matrix, grey.shape[0], picture_px)
    if not inside.any():
        return 0.0
    edges = cv2.Laplacian(grey, cv2.CV_64F)
    return float(edges[inside].var() / max(float(grey[inside].var()), 1.0))


def _inside(matrix: NDArray[np.float64], side_px: int, picture_px: tuple[int, int]) -> NDArray[np.bool_]:
    """Return where in the crop (side, side) the Laplacian sees nothing but the picture."""
    import cv2

    rows, columns = np.mgrid[:side_px, :side_px]
    to_picture = np.asarray(cv2.invertAffineTransform(matrix), np.float64)
    points = np.stack([columns, rows, np.ones_like(rows)]).reshape(3, -1)
    x, y = to_picture @ points
    width, height = picture_px
    there = ((x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)).reshape(side_px, side_px)
    return np.asarray(cv2.erode(there.astype(np.uint8), np.ones((3, 3), np.uint8)), np.bool_)
