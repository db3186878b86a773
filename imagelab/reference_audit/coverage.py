"""Which poses and which light a character's references show, and which they don't."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from imagelab.records import Record
from imagelab.reference_store import CharacterReferences, ReferencePicture


class Bin(NamedTuple):
    """A range of a measure, from `low` up to but without `high`."""

    name: str
    low: float
    high: float


class Aspect(NamedTuple):
    """One respect in which references can differ, and its bins in ascending order."""

    name: str
    bins: tuple[Bin, ...]


_ENDLESS = float("inf")
# Left and right are the picture's. Beyond 45 degrees one eye begins to hide, and recognisers lose most of their power.
YAW = Aspect(
    "yaw",
    (
        Bin("left profile", -_ENDLESS, -45),
        Bin("turned left", -45, -15),
        Bin("frontal", -15, 15),
        Bin("turned right", 15, 45),
        Bin("right profile", 45, _ENDLESS),
    ),
)
PITCH = Aspect("pitch", (Bin("looking down", -_ENDLESS, -12), Bin("level", -12, 12), Bin("looking up", 12, _ENDLESS)))
BRIGHTNESS = Aspect("brightness", (Bin("dark", 0, 0.25), Bin("medium", 0.25, 0.6), Bin("bright", 0.6, _ENDLESS)))
SIDE = Aspect(
    "light",
    (
        Bin("lit from the left", -_ENDLESS, -0.1),
        Bin("lit from the front", -0.1, 0.1),
        Bin("lit from the right", 0.1, _ENDLESS),
    ),
)
HEIGHT = Aspect(
    "light's height",
    (Bin("lit from below", -_ENDLESS, -0.1), Bin("lit evenly", -0.1, 0.1), Bin("lit from above", 0.1, _ENDLESS)),
)
ASPECTS = (YAW, PITCH, BRIGHTNESS, SIDE, HEIGHT)


@dataclass(frozen=True, kw_only=True, slots=True)
class Coverage(Record):
    """How many references fall into each bin of pose and light."""

    counts: Mapping[str, int]  # {bin: references}, all bins of ASPECTS in their order

    @property
    def missing(self) -> tuple[str, ...]:
        """Return the bins that no reference falls into."""
        return tuple(name for name, count in self.counts.items() if not count)


def measures(picture: ReferencePicture) -> tuple[float | None, ...]:
    """Return what a picture has in each of ASPECTS."""
    face, light = picture.face, picture.light
    return face.yaw_degrees, face.pitch_degrees, light.brightness, light.from_right, light.from_above


def measure_coverage(references: CharacterReferences) -> Coverage:
    """Count the references in each bin of pose and light."""
    columns = zip(*map(measures, references.provenance.pictures), strict=True)
    return Coverage(
        counts={
            each.name: sum(value is not None and each.low <= value < each.high for value in column)
            for aspect, column in zip(ASPECTS, columns, strict=True)
            for each in aspect.bins
        }
    )
