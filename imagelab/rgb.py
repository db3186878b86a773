"""Pictures as models see them: RGB in a type of its own, so that no array of another order is taken for one."""

import os
from typing import NewType

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from imagelab.errors import InvalidValueError
from imagelab.imagefiles import open_image, upright_rgb

Picture = str | os.PathLike[str] | Image.Image | NDArray[np.uint8]  # a file, a PIL picture or (h, w, 3) RGB
Rgb = NewType("Rgb", NDArray[np.uint8])  # (h, w, 3), red first; `to_rgb` alone makes one


def to_rgb(picture: Picture) -> Rgb:
    """Return a picture as (h, w, 3) RGB: the same whether it is given as a file or opened by PIL.

    An array is taken to be RGB: one of OpenCV's, which is BGR, has to be turned round before. May be called by several
    threads. Raises ImageFileError for a file that isn't a picture, InvalidValueError for any other thing.
    """
    if isinstance(picture, str | os.PathLike):
        return Rgb(np.asarray(open_image(picture)))
    if isinstance(picture, Image.Image):
        return Rgb(np.asarray(upright_rgb(picture)))
    if isinstance(picture, np.ndarray) and picture.dtype == np.uint8 and picture.ndim == 3 and picture.shape[2] == 3:
        return Rgb(picture)
    shown = f"array {picture.shape} of {picture.dtype}" if isinstance(picture, np.ndarray) else picture
    raise InvalidValueError("picture", shown, "a file, a PIL picture or an RGB array (h, w, 3) of uint8")
