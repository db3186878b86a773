"""Encoders and the face pack: ArcFace as one encoder among others, and the aligned crop that others may look at."""

from collections.abc import Iterator, Sequence
from typing import Any, Self

from PIL import Image

from imagelab.arcface import FaceEncoder
from imagelab.config import Profile
from imagelab.encoders.base import EncoderId, Reading, check_pictures, combine_sha256, settings_sha256
from imagelab.errors import ImageFileError, InvalidValueError
from imagelab.face_crops import alignment
from imagelab.faces import Face, FaceLimits, FaceReading, FacesFound, SeveralFaces, read_found
from imagelab.rgb import Picture, Rgb, to_rgb

_CHUNK = 8  # pictures a thread looks at: `looks` is given a network's batch, which two threads should share
ALIGNED_PX = 112  # side of the frame that insightface aligns faces to


class ArcFaceEncoder:
    """A face pack as an encoder: the face that a picture is judged by, embedded by the pack's recogniser."""

    def __init__(
        self, profile: Profile, device: str = "auto", *, limits: FaceLimits, several: SeveralFaces = "require_one"
    ) -> None:
        self._faces = FaceEncoder(profile, device)
        self._limits, self._several = limits, several

    @property
    def id(self) -> EncoderId:
        """Return what its embeddings are marked with; the label is that of verdicts by the same pack."""
        pack = self._faces.encoder
        weights = {"detector": pack.detector_sha256, "recogniser": pack.recogniser_sha256}
        return EncoderId(
            label=pack.label,
            kind="arcface",
            region="face",
            weights_sha256=combine_sha256(weights),
            preprocessing_sha256=settings_sha256(pack.to_dict()),
        )

    def embed(self, pictures: Sequence[Picture]) -> list[Reading]:
        """Return a reading for each picture, as IdentityEncoder says."""
        readings = [self._read(found) for found in self._faces.faces_in(check_pictures(pictures))]
        return [Reading(status=reading.status, embedding=reading.embedding) for reading in readings]

    def looks(
        self, pictures: Sequence[Picture], side_px: int, margin: float
    ) -> Iterator[tuple[FaceReading, Image.Image | None]]:
        """Yield the face that each picture is judged by, cut out and turned upright; None where there is none.

        The pictures are in memory at once: give a batch of them.
        """
        opened = [_open(picture) for picture in pictures]
        shown = [rgb for rgb in opened if rgb is not None]
        found = self._faces.faces_in(shown, chunk=_CHUNK)
        for rgb in opened:
            if rgb is None:
                yield FaceReading(status="decode_error"), None
                continue
            reading = self._read(next(found))
            usable = reading.embedding is not None and reading.face is not None
            yield reading, crop_face(rgb, reading.face, side_px, margin) if usable else None  # type: ignore[arg-type]

    @property
    def settings(self) -> dict[str, Any]:
        """Return all that decides which face is looked at."""
        return {"pack": self._faces.encoder.to_dict(), "limits": str(self._limits), "several": self._several}

    def _read(self, found: FacesFound) -> FaceReading:
        if isinstance(found.fault, InvalidValueError):  # no picture at all
            raise found.fault
        return read_found(found, self._limits, self._several)

    def close(self) -> None:
        """Give the models' memory back."""
        self._faces.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def _open(picture: Picture) -> Rgb | None:
    try:
        return to_rgb(picture)
    except ImageFileError:
        return None


def crop_face(rgb: Rgb, face: Face, side_px: int, margin: float) -> Image.Image | None:
    """Cut a face out, turned upright and scaled as ArcFace aligns it, with more around it.

    `margin`: how much more on each side, in sides of ArcFace's own crop; 0 is that crop. Black beyond the picture.
    None for landmarks that no face has.
    """
    import cv2

    to_aligned = alignment(face.landmarks, ALIGNED_PX)  # px of the picture to px of the frame
    if to_aligned is None:
        return None
    scale = side_px / (ALIGNED_PX * (1 + 2 * margin))
    matrix = to_aligned * scale
    matrix[:, 2] += margin * ALIGNED_PX * scale
    return Image.fromarray(cv2.warpAffine(rgb, matrix, (side_px, side_px)))
