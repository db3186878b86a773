"""What a session says of its drawing."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from imagelab.explorer.history import Entry

if TYPE_CHECKING:
    from PIL.Image import Image

State = Literal["idle", "loading", "drawing", "cancelling", "cancelled", "failed", "done"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """How far the drawing is."""

    state: State
    picture: int = 0  # the one that is being drawn, counted from 1
    pictures: int = 0
    step: int = 0
    steps: int = 0
    seconds_left: float | None = None  # None: not known yet
    preview: "Image | None" = None  # None: the last one still stands
    message: str = ""  # of what failed, in words


@dataclass(frozen=True, kw_only=True, slots=True)
class Drawn:
    """A picture is done, and in the history."""

    entry: Entry


@dataclass(frozen=True, kw_only=True, slots=True)
class MapMade:
    """The map of the control is made."""

    image: "Image"


Event = Progress | Drawn | MapMade
