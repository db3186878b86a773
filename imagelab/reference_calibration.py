"""Scores of pictures against a character's references, as a calibration wants them."""

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from imagelab.calibration import Calibration, Scores
from imagelab.errors import ImageFileError, InvalidValueError
from imagelab.faces import FaceReading
from imagelab.imagefiles import pixels_sha256
from imagelab.reference_store import CharacterReferences
from imagelab.results import Record
from imagelab.rgb import Picture, to_rgb
from imagelab.similarity import check_threshold


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibrationRun(Record):
    """A calibration, and what became of the pictures that were given for it."""

    calibration: Calibration
    genuine: Mapping[str, int] = field(default_factory=dict)  # {status: pictures}; those not ok have no score
    impostor: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoredPictures:
    """Scores of those pictures that have one, and how many pictures had which status."""

    scores: Scores
    statuses: Mapping[str, int]


def score_pictures(
    references: CharacterReferences,
    pictures: Mapping[str, Sequence[Picture]],
    read: Callable[[Any], FaceReading],
) -> ScoredPictures:
    """Score pictures, by the character whom they show, against references; only those whose status is ok have a score.

    Raises InvalidValueError for a picture that is one of the references: it would score better than a new one can.
    """
    own = {picture.pixels_sha256: picture.name for picture in references.provenance.pictures}
    statuses: Counter[str] = Counter()
    values, names, whose = [], [], []
    for character, given in pictures.items():
        for index, picture in enumerate(given):
            name = os.fspath(picture) if isinstance(picture, str | os.PathLike) else f"picture {index}"
            reading = _read(picture, name, own, read)
            statuses[reading.status] += 1
            if reading.embedding is not None:
                values.append(references.similarity(reading.embedding))
                names.append([name])
                whose.append([character])
    if not values:
        raise InvalidValueError("pictures", dict(statuses), "of which at least one shows one clear face")
    return ScoredPictures(
        scores=Scores(values=values, pictures=names, characters=whose),  # type: ignore[arg-type]  # it makes arrays
        statuses=dict(statuses),
    )


def _read(picture: Picture, name: str, own: Mapping[str, str], read: Callable[[Any], FaceReading]) -> FaceReading:
    try:
        rgb = to_rgb(picture)
    except ImageFileError:
        return FaceReading(status="decode_error")
    if reference := own.get(pixels_sha256(Image.fromarray(rgb))):
        raise InvalidValueError("pictures", f"{name}, which is reference {reference}", "other pictures than references")
    return read(rgb)


@dataclass(frozen=True, kw_only=True, slots=True)
class ThresholdInForce(Record):
    """From which cosine on a picture shows a character, and what that was fitted by."""

    value: float
    calibration: Calibration | None = None  # None: it was given, or configured, and fitted by nothing

    @property
    def label(self) -> str | None:
        """Return in a few words which calibration it is of; None where it is of none."""
        return None if self.calibration is None else calibration_label(self.calibration)


def as_threshold(given: float | ThresholdInForce) -> ThresholdInForce:
    """Return a cosine as a threshold; raises InvalidValueError."""
    return given if isinstance(given, ThresholdInForce) else ThresholdInForce(value=check_threshold(given))


def calibration_label(calibration: Calibration) -> str:
    """Return in a few words which calibration a verdict was made with."""
    counts = f"{calibration.genuine.scores} genuine, {calibration.impostor.scores} impostor"
    return f"{calibration.policy} at {calibration.threshold.value:.3f} on {counts}"
