"""Scores of pictures against a character's references, as a calibration wants them."""

import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from imagelab.calibration import Calibration, Scores
from imagelab.errors import InvalidValueError
from imagelab.faces import FaceReading
from imagelab.records import Record
from imagelab.reference_audit import copy_kind
from imagelab.reference_pictures import hash_picture
from imagelab.reference_store import CharacterReferences, PictureHashes
from imagelab.rgb import Picture, Rgb, to_rgb
from imagelab.similarity import Embedding, check_threshold


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibrationRun(Record):
    """A calibration, and what became of the pictures that were given for it."""

    calibration: Calibration
    genuine: Mapping[str, int] = field(default_factory=dict)  # {status: pictures}; those not ok have no score
    impostor: Mapping[str, int] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)  # {picture: of which reference it looks like a copy}


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoredPictures:
    """Scores of those pictures that have one, and what became of the others."""

    scores: Scores
    statuses: Mapping[str, int]  # {status: pictures}
    left_out: Mapping[str, str]  # {picture: why}, which have a status no more


class Probe:
    """A picture that is to be scored; the thread that looks for its faces calls `decode`, then `hashes` are there."""

    __slots__ = ("_picture", "character", "fault", "hashes", "name")

    def __init__(self, picture: Picture, name: str, character: str) -> None:
        self._picture = picture
        self.name = name
        self.character = character
        self.hashes: PictureHashes | None = None  # None: it couldn't be read
        self.fault: InvalidValueError | None = None  # it is no picture at all

    def decode(self) -> Rgb:
        """Return the picture as `to_rgb`, and hash it; raises as that does."""
        try:
            rgb = to_rgb(self._picture)
        except InvalidValueError as error:
            self.fault = error
            raise
        self.hashes = hash_picture(rgb)
        return rgb


def score_pictures(
    references: CharacterReferences,
    pictures: Mapping[str, Sequence[Picture]],
    read: Callable[[Iterable[Probe]], Iterable[FaceReading]],
) -> ScoredPictures:
    """Score pictures, by the character whom they show, against references; only those whose status is ok have a score.

    `read` calls `Probe.decode` of each, and gives the readings in order. A copy of a reference scores better than a new
    picture can. The very same pixels are a mistake, and raise InvalidValueError; what only looks like a copy,
    re-encoded, resized or mirrored, is left out and named. The same pixels given twice are one picture.
    """
    own = {picture.pixels_sha256: picture.name for picture in references.provenance.pictures}
    statuses: Counter[str] = Counter()
    left_out: dict[str, str] = {}
    scored: list[tuple[float, str, str]] = []
    probes: deque[Probe] = deque()  # grows as `read` takes the pictures, of which it may be some ahead
    for reading in read(_take(pictures, probes)):
        probe = probes.popleft()
        if probe.fault:
            raise probe.fault
        if probe.hashes and (same := own.get(probe.hashes.pixels_sha256)):
            raise InvalidValueError("pictures", f"{probe.name}, which is reference {same}", "other pictures than these")
        if reading.embedding is None or probe.hashes is None:
            statuses[reading.status] += 1
        elif why := _copied_from(references, probe.hashes, reading.embedding):
            left_out[probe.name] = why
        else:
            statuses[reading.status] += 1
            score = references.similarity(reading.embedding)
            scored.append((score, probe.hashes.pixels_sha256, probe.character))
    if not scored:
        found = f"{dict(statuses)}, {len(left_out)} copies of references"
        raise InvalidValueError("pictures", found, "of which at least one shows one clear face, and is no copy")
    scores = Scores(
        values=np.array([score for score, *_ in scored]),
        pictures=np.array([[pixels] for _, pixels, _ in scored]),
        characters=np.array([[character] for *_, character in scored]),
    )
    return ScoredPictures(scores=scores, statuses=dict(statuses), left_out=left_out)


def _take(pictures: Mapping[str, Sequence[Picture]], probes: deque[Probe]) -> Iterator[Probe]:
    """Yield a probe of each picture, and put it in `probes`."""
    for character, given in pictures.items():
        for index, picture in enumerate(given):
            name = os.fspath(picture) if isinstance(picture, str | os.PathLike) else f"picture {index} of {character}"
            probes.append(Probe(picture, name, character))
            yield probes[-1]


def _copied_from(references: CharacterReferences, hashes: PictureHashes, embedding: Embedding) -> str:
    """Say of which reference a picture looks like a copy; nothing for a picture of its own."""
    for picture, row in zip(references.provenance.pictures, references.embeddings, strict=True):
        if kind := copy_kind(hashes, picture, float(row @ embedding)):
            return f"{kind} of {picture.name}"
    return ""


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
    doubt = "" if calibration.tells_apart else f", not surely apart (AUROC {calibration.auroc})"
    return f"{calibration.policy} at {calibration.threshold.value:.3f} on {counts}{doubt}"
