"""A picture brought to the size of the one to be drawn, before its map is made of it: the map is sharp then."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from imagelab.controls import map_background
from imagelab.results import Resize

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True, kw_only=True, slots=True)
class Fitted:
    """A picture at its new size, and the canvas that its map belongs on."""

    content: "Image"  # RGB
    size: tuple[int, int]  # (width, height) of the canvas in px; larger than the content where that was filled up
    background: tuple[int, int, int]

    def on_canvas(self, made: "Image") -> "Image":
        """Put the content's map on the canvas, in the middle."""
        from PIL import Image

        if made.size == self.size:
            return made
        canvas = Image.new("RGB", self.size, self.background)
        canvas.paste(made, ((self.size[0] - made.width) // 2, (self.size[1] - made.height) // 2))
        return canvas


def fit_picture(picture: "Image", size: tuple[int, int], resize: Resize, *, control_type: str, is_map: bool) -> Fitted:
    """Bring a picture to a size (width, height) in px.

    `stretch` ignores its proportions, `crop` keeps the middle, `fill` keeps all of it; what lies around it then is
    added to the map, for in the picture its border would be an edge.
    """
    from PIL import Image, ImageOps

    # A map of parts has colours that mean something; one in between would mean something else.
    method = Image.Resampling.NEAREST if is_map and control_type == "seg" else Image.Resampling.LANCZOS
    content = picture
    if picture.size != size and resize == "stretch":
        content = picture.resize(size, method)
    elif picture.size != size and resize == "crop":
        content = ImageOps.fit(picture, size, method)
    elif picture.size != size:
        content = picture.resize(_contained(picture, size), method)
    return Fitted(content=content, size=size, background=map_background(control_type))


def _contained(picture: "Image", size: tuple[int, int]) -> tuple[int, int]:
    """Return the largest size of a picture's proportions within another one, of 1 px at least: a line is left of it."""
    factor = min(size[0] / picture.width, size[1] / picture.height)
    return max(1, round(picture.width * factor)), max(1, round(picture.height * factor))
