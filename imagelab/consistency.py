"""Is it the same face? Embeds and compares pictures, one by one or in batches."""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from imagelab.acceptance import configured_limits, configured_threshold
from imagelab.arcface import CHUNK, FaceEncoder, PictureT
from imagelab.config import Configs, Profile, load_configs, pick
from imagelab.errors import InvalidValueError, shorten
from imagelab.faces import (
    SEVERAL_FACES,
    Face,
    FaceEncoderId,
    FaceLimits,
    FaceReading,
    FacesFound,
    SeveralFaces,
    read_faces,
    read_found,
)
from imagelab.reference_calibration import ThresholdInForce, as_threshold
from imagelab.reference_store import CharacterReferences
from imagelab.results import Verdict
from imagelab.rgb import Picture, Rgb, to_rgb
from imagelab.similarity import METRICS, Embedding, Similarity, check_threshold, compare, nearest, unit


class CharacterConsistencyChecker:
    """Compares faces; the face pack of `profile` (None: the default one) loads at the first picture.

    Several usable faces in one picture can't be told apart by name: by default (`require_one`) such a picture isn't
    compared; `several` may choose the largest, the most_central or the best_match, the one nearest to the reference.
    `limits` says what makes a face usable; None is what is configured for the character, where one is named. A context
    manager; `cleanup` may be called twice.
    """

    def __init__(
        self,
        device: str = "auto",
        profile: str | None = None,
        configs: Configs | None = None,
        *,
        several: SeveralFaces = "require_one",
        limits: FaceLimits | None = None,
    ) -> None:
        pick("policy for several faces", {name: name for name in SEVERAL_FACES}, several)
        if limits is not None and not isinstance(limits, FaceLimits):
            raise InvalidValueError("limits", limits, "a FaceLimits, or None")
        self.configs: Configs = configs or load_configs()
        self.profile: Profile = self.configs.profile(profile)
        self.several: SeveralFaces = several
        self.limits: FaceLimits | None = limits
        self.device = device
        self._encoder = FaceEncoder(self.profile, device)

    @property
    def encoder(self) -> FaceEncoderId:
        """Return what its embeddings are marked with; loads the models."""
        return self._encoder.encoder

    @property
    def providers(self) -> tuple[str, ...]:
        """Return what onnxruntime really runs on; loads the models."""
        return self._encoder.providers

    def faces(self, image: Picture) -> tuple[Face, ...]:
        """Return all faces of a picture, the surest first; raises as FaceEncoder.faces."""
        return self._encoder.faces(image)

    def faces_in(
        self,
        images: Iterable[PictureT],
        *,
        chunk: int = CHUNK,
        read: Callable[[PictureT], Rgb] = to_rgb,  # type: ignore[assignment]  # without it they are what to_rgb takes
    ) -> Iterator[FacesFound]:
        """Yield all faces of each of many pictures, as FaceEncoder.faces_in."""
        return self._encoder.faces_in(images, chunk=chunk, read=read)

    def read(self, image: Picture, similarity: Callable[[Embedding], float] | None = None) -> FaceReading:
        """Return the face that a picture is judged by, or the status that says why there is none.

        `similarity` is what best_match goes by, CharacterReferences.similarity say. Raises ImageFileError or
        InvalidValueError for the picture itself; InvalidValueError for best_match without `similarity`.
        """
        return read_faces(self.faces(image), self.limits or FaceLimits(), self.several, similarity)

    def readings(
        self,
        images: Iterable[Picture],
        similarity: Callable[[Embedding], float] | None = None,
        limits: FaceLimits | None = None,
    ) -> Iterator[FaceReading]:
        """Yield `read` of each of many pictures, in their order; much faster than one by one, and in little memory.

        A picture that can't be looked at has the status decode_error. `limits` None takes the checker's. Raises
        InvalidValueError for what is no picture at all.
        """
        used = limits or self.limits or FaceLimits()
        for found in self.faces_in(images):
            if isinstance(found.fault, InvalidValueError):
                raise found.fault
            yield read_found(found, used, self.several, similarity)

    def embed(self, image: Picture) -> Embedding:
        """Return the embedding (d,) of norm 1 of a picture's face.

        A picture by itself has no best_match: there it needs exactly one face. Raises InvalidValueError, with the
        status, for a picture without one that can be compared.
        """
        policy = "require_one" if self.several == "best_match" else self.several
        reading = read_faces(self.faces(image), self.limits or FaceLimits(), policy)
        if reading.embedding is None:
            shown = os.fspath(image) if isinstance(image, str | os.PathLike) else "a picture"
            why = f"{reading.status}: {reading.reason}" if reading.reason else reading.status
            raise InvalidValueError("image", f"{shown} ({why})", "a picture with exactly one clear face")
        return reading.embedding

    def compare(
        self, a: Picture | NDArray[np.floating], b: Picture | NDArray[np.floating], metric: str = "cosine"
    ) -> Similarity:
        """Compare two faces, each a picture or an embedding (d,), by cosine or euclidean distance.

        Raises UnknownNameError for the metric; else as `embed`.
        """
        pick("metric", METRICS, metric)  # before anything loads
        return compare(self._embedding(a), self._embedding(b), metric)

    def check_batch(
        self,
        images: Iterable[Picture],
        reference: CharacterReferences | Picture | NDArray[np.floating],
        threshold: float | ThresholdInForce | None = None,
        *,
        metric: str = "cosine",
        character_name: str = "",
    ) -> list[Verdict]:
        """Judge pictures by one reference: a character's references, a picture or an embedding (d,).

        `threshold` is in the metric's units; None takes the cosine that is configured for the character (0.65 for one
        that isn't), converted: a checker knows of no store. CharacterReferenceManager.threshold, which may be that of
        a calibration, is converted too, and the verdicts name it. A file that can't be read, or a face that can't be
        compared, is a status of its picture and ends nothing. Raises InvalidValueError for the threshold and for what
        is no picture at all, UnknownNameError for the metric and as `embed` for the reference; InvalidValueError for
        references that another encoder made.
        """
        if not isinstance(images, Iterable) or isinstance(images, str | os.PathLike):
            raise InvalidValueError("images", images, "a list of pictures")
        if isinstance(reference, CharacterReferences):
            character_name = character_name or reference.character_name
        in_force = self._in_force(threshold, metric, character_name)
        limits = self.limits or configured_limits(self.configs, character_name)
        templates = self._templates(reference)
        readings = self.readings(images, lambda embedding: nearest(templates, embedding).cosine, limits)
        return [self._judge(reading, templates, in_force, metric, character_name) for reading in readings]

    def verdict(
        self, reading: FaceReading, references: CharacterReferences, threshold: float | ThresholdInForce
    ) -> Verdict:
        """Judge a face that was read by a character's references; `threshold` is a cosine.

        Raises InvalidValueError for the threshold, and for references that another encoder made.
        """
        templates = self._templates(references)
        return self._judge(reading, templates, as_threshold(threshold), "cosine", references.character_name)

    def cleanup(self) -> None:
        """Give back the memory of the models; the checker can't be used again."""
        self._encoder.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.cleanup()

    def _in_force(
        self, threshold: float | ThresholdInForce | None, metric: str, character_name: str
    ) -> ThresholdInForce:
        """Return the threshold in the metric's units."""
        if threshold is None:
            threshold = ThresholdInForce(value=configured_threshold(self.configs, character_name))
        if isinstance(threshold, ThresholdInForce):
            return replace(threshold, value=pick("metric", METRICS, metric).from_cosine(threshold.value))
        return ThresholdInForce(value=check_threshold(threshold, metric))

    def _judge(
        self, reading: FaceReading, templates: NDArray[np.float32], in_force: ThresholdInForce, metric: str, name: str
    ) -> Verdict:
        score = None if reading.embedding is None else nearest(templates, reading.embedding, metric).value
        return Verdict(
            character_name=name,
            status=reading.status,
            similarity_score=score,
            threshold=in_force.value,
            metric="euclidean" if metric == "euclidean" else "cosine",
            encoder=self.encoder.label,
            calibrated=in_force.calibration is not None,
            calibration=in_force.label,
            reason=reading.reason,
        )

    def _embedding(self, given: Picture | NDArray[np.floating]) -> Embedding:
        if isinstance(given, np.ndarray) and given.ndim == 1:
            return unit(given)
        return self.embed(given)  # type: ignore[arg-type]  # a picture, or to_rgb says what it should have been

    def _templates(self, reference: CharacterReferences | Picture | NDArray[np.floating]) -> NDArray[np.float32]:
        if not isinstance(reference, CharacterReferences):
            return self._embedding(reference)[None]
        made_by = reference.provenance.encoder
        if made_by != self.encoder:
            expected = f"of the encoder in use, {self.encoder.label}"
            raise InvalidValueError("reference", shorten(made_by.label), expected)
        return reference.templates
