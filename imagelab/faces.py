"""Faces as values: how good each one is, which of several counts, and why a picture has none to be judged by."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from imagelab.checks import check_number
from imagelab.errors import ImageFileError, InvalidValueError
from imagelab.head_pose import head_pose
from imagelab.records import Record
from imagelab.results import FaceStatus
from imagelab.similarity import Embedding

SeveralFaces = Literal["require_one", "largest", "most_central", "best_match"]

SEVERAL_FACES: tuple[SeveralFaces, ...] = get_args(SeveralFaces)
MIN_VISIBLE_FRACTION = 0.5  # of a face's box: less of it inside the picture says little about who it is


@dataclass(frozen=True, kw_only=True, slots=True)
class FaceEncoderId(Record):
    """What made an embedding: embeddings of two different encoders mean nothing to each other."""

    pack: str
    detector_sha256: str
    recogniser_sha256: str
    detector_size_px: tuple[int, int]  # width, height
    detection_threshold: float
    insightface: str  # version: it aligns the faces

    @property
    def label(self) -> str:
        """Return it in one short line, `puppet_face/0123abcd@128x128`."""
        width, height = self.detector_size_px
        return f"{self.pack}/{self.recogniser_sha256[:8]}@{width}x{height}"


@dataclass(frozen=True, kw_only=True, slots=True)
class FaceQuality(Record):
    """What an embedding of a face can be trusted for; None where it can't be measured."""

    detector_score: float  # 0 to 1
    face_px: float  # shorter side of the box
    visible_fraction: float  # of the box, inside the picture
    sharpness: float | None  # of the aligned crop, by `face_crops.sharpness`
    yaw_degrees: float | None  # of the head, as `head_pose` has them: 0 when it looks into the camera
    pitch_degrees: float | None
    roll_degrees: float | None


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Face:
    """A face in a picture; pixels count from the upper left corner, x right, y down."""

    box: tuple[float, float, float, float]  # x0, y0, x1, y1; may reach over the picture's border
    landmarks: NDArray[np.float32]  # (5, 2): eyes, nose, mouth corners, image left first
    score: float  # the detector's, 0 to 1
    visible_fraction: float  # of the box, inside the picture
    embedding: Embedding | None  # (d,), norm 1; None when the recogniser gave no direction (zero or NaN)
    off_centre: float = 0.0  # from the picture's centre to the box's; 1 is half of the picture's diagonal
    sharpness: float | None = None  # of the aligned crop; None where there is none

    @property
    def size_px(self) -> float:
        """Return the shorter side of the box."""
        x0, y0, x1, y1 = self.box
        return min(x1 - x0, y1 - y0)

    @property
    def quality(self) -> FaceQuality:
        """Return what is known of how well it can be recognised."""
        known = np.isfinite(self.landmarks).all()
        yaw, pitch, roll = head_pose(self.landmarks) if known else (None, None, None)
        return FaceQuality(
            detector_score=self.score,
            face_px=self.size_px,
            visible_fraction=self.visible_fraction,
            sharpness=self.sharpness,
            yaw_degrees=yaw,
            pitch_degrees=pitch,
            roll_degrees=roll,
        )


_LARGEST = {  # that a limit can be
    "min_face_px": 100_000,
    "min_score": 1,
    "min_visible_fraction": 1,
    "min_sharpness": 64,  # of a chessboard of single pixels
    "max_yaw_degrees": 180,
    "max_pitch_degrees": 180,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class FaceLimits(Record):
    """What a face must have to be compared with another; None: it isn't looked at.

    Raises InvalidValueError for a limit that no measure can have.
    """

    min_face_px: float = 16.0
    min_score: float = 0.0
    min_visible_fraction: float = MIN_VISIBLE_FRACTION
    min_sharpness: float | None = None
    max_yaw_degrees: float | None = None  # to either side
    max_pitch_degrees: float | None = None  # up or down

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if value is not None or item.default is not None:
                check_number(value, item.name, 0, _LARGEST[item.name])

    def admit(self, face: Face) -> bool:
        """Say whether a face is good enough."""
        return not self.refusal(face)

    def refusal(self, face: Face) -> str:
        """Say which limit refuses a face, and by how much; nothing for a face that is good enough."""
        if face.embedding is None:
            return "the recogniser gave no embedding"
        quality = face.quality
        for name, measured, limit in (
            ("min_face_px", quality.face_px, self.min_face_px),
            ("min_score", quality.detector_score, self.min_score),
            ("min_visible_fraction", quality.visible_fraction, self.min_visible_fraction),
            ("min_sharpness", quality.sharpness, self.min_sharpness),
            ("max_yaw_degrees", quality.yaw_degrees, self.max_yaw_degrees),
            ("max_pitch_degrees", quality.pitch_degrees, self.max_pitch_degrees),
        ):
            if limit is not None and not _keeps(measured, limit, largest=name.startswith("max_")):
                return f"{name} {limit:g}, measured {'nothing' if measured is None else f'{measured:.3g}'}"
        return ""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class FacesFound:
    """All faces of one picture of many, or why it can't be looked at."""

    faces: tuple[Face, ...] = ()  # the surest first
    fault: ImageFileError | InvalidValueError | None = None


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class FaceReading:
    """The one face that a picture is judged by, or why there is none."""

    status: FaceStatus
    embedding: Embedding | None = None  # (d,), norm 1; there if and only if status is ok
    face: Face | None = None  # that is judged; of low quality, the largest that was refused
    reason: str = ""  # why the status isn't ok, where there is more to say


def face_choice(several: SeveralFaces, limits: FaceLimits) -> str:
    """Say in a line which face of a picture counts: a threshold fitted to one choice holds for no other.

    >>> face_choice("largest", FaceLimits(min_score=0.6))
    'largest with min_face_px 16, min_score 0.6, min_visible_fraction 0.5'
    """
    asked = {item.name: getattr(limits, item.name) for item in fields(limits)}
    return f"{several} with {', '.join(f'{name} {value:g}' for name, value in asked.items() if value is not None)}"


def read_faces(
    faces: Sequence[Face],
    limits: FaceLimits,
    several: SeveralFaces = "require_one",
    similarity: Callable[[Embedding], float] | None = None,
) -> FaceReading:
    """Choose the face that a picture is judged by.

    Faces that `limits` refuse don't count, unless there are no others: then the status is low_quality. Of several that
    are left, `several` takes none (require_one), the largest, the most_central, or the best_match: the one of the
    highest `similarity`, as CharacterReferences.similarity gives it. Of equal ones it is the surest, then the leftmost,
    then the topmost, in whatever order they come. Raises InvalidValueError for best_match without `similarity`.
    """
    if several == "best_match" and similarity is None:
        raise InvalidValueError("similarity", None, "given for best_match: the nearest to what?")
    if not faces:
        return FaceReading(status="no_face")
    good = [face for face in faces if limits.admit(face)]
    if not good:
        largest = _first(faces, lambda face: face.size_px)
        return FaceReading(status="low_quality", face=largest, reason=limits.refusal(largest))
    if len(good) > 1 and several == "require_one":
        return FaceReading(status="several_faces", reason=f"{len(good)} faces that could be compared")
    chosen = _first(good, _merit(several, similarity))
    return FaceReading(status="ok", embedding=chosen.embedding, face=chosen)


def read_found(
    found: FacesFound,
    limits: FaceLimits,
    several: SeveralFaces = "require_one",
    similarity: Callable[[Embedding], float] | None = None,
) -> FaceReading:
    """Choose as `read_faces`; a picture that can't be looked at has the status decode_error."""
    if found.fault is not None:
        return FaceReading(status="decode_error", reason=str(found.fault))
    return read_faces(found.faces, limits, several, similarity)


def _keeps(measured: float | None, limit: float, *, largest: bool) -> bool:
    """Say whether a measure keeps a limit; what couldn't be measured, None or NaN, doesn't."""
    if measured is None:
        return False
    return abs(measured) <= limit if largest else measured >= limit


def _merit(several: SeveralFaces, similarity: Callable[[Embedding], float] | None) -> Callable[[Face], float]:
    merits: Mapping[str, Callable[[Face], float]] = {
        "largest": lambda face: face.size_px,
        "most_central": lambda face: -face.off_centre,
        "best_match": lambda face: -1.0 if face.embedding is None or similarity is None else similarity(face.embedding),
    }
    return merits.get(several, merits["largest"])


def _first(faces: Sequence[Face], merit: Callable[[Face], float]) -> Face:
    return max(faces, key=lambda face: (merit(face), face.score, -face.box[0], -face.box[1]))
