"""Is it the same face? Embeds and compares pictures, one by one or in batches."""

import os
from collections.abc import Iterable
from typing import Self

import numpy as np
from numpy.typing import NDArray

from imagelab.arcface import (
    SEVERAL_FACES,
    Face,
    FaceEncoder,
    FaceEncoderId,
    FaceLimits,
    FaceReading,
    Picture,
    SeveralFaces,
    read_faces,
)
from imagelab.config import Configs, Profile, load_configs, pick
from imagelab.errors import ImageFileError, InvalidValueError, shorten
from imagelab.reference_store import CharacterReferences
from imagelab.references import configured_limits, configured_threshold
from imagelab.results import Verdict
from imagelab.similarity import METRICS, Embedding, Similarity, check_threshold, compare, unit


class CharacterConsistencyChecker:
    """Compares faces; the face pack of `profile` (None: the default one) loads at the first picture.

    Several usable faces in one picture can't be told apart by name: by default (`require_one`) such a picture isn't
    compared, with `several="largest"` its largest face is. `limits` says what makes a face usable; None is what is
    configured for the character, where one is named. A context manager; `cleanup` may be called twice.
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
        self.configs: Configs = configs or load_configs()
        self.profile: Profile = self.configs.profile(profile)
        self.several: SeveralFaces = several
        self.limits: FaceLimits | None = limits
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

    def read(self, image: Picture) -> FaceReading:
        """Return the face that a picture is judged by, or the status that says why there is none.

        Raises ImageFileError or InvalidValueError for the picture itself.
        """
        return self._read(image, self.limits or FaceLimits())

    def embed(self, image: Picture) -> Embedding:
        """Return the embedding (d,) of norm 1 of a picture's face.

        Raises InvalidValueError, with the status, for a picture without one that can be compared.
        """
        reading = self.read(image)
        if reading.embedding is None:
            shown = os.fspath(image) if isinstance(image, str | os.PathLike) else "a picture"
            raise InvalidValueError("image", f"{shown} ({reading.status})", "a picture with exactly one clear face")
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
        threshold: float | None = None,
        *,
        metric: str = "cosine",
        character_name: str = "",
    ) -> list[Verdict]:
        """Judge pictures by one reference: a character's references, a picture or an embedding (d,).

        `threshold` is in the metric's units; None takes the cosine that is configured for the character (0.65 for one
        that isn't), converted. A file that can't be read, or a face that can't be compared, is a status of its picture
        and ends nothing. Raises InvalidValueError for the threshold, UnknownNameError for the metric and as `embed` for
        the reference; InvalidValueError for references that another encoder made.
        """
        if not isinstance(images, Iterable) or isinstance(images, str | os.PathLike):
            raise InvalidValueError("images", images, "a list of pictures")
        if isinstance(reference, CharacterReferences):
            character_name = character_name or reference.character_name
        if threshold is None:
            threshold = pick("metric", METRICS, metric).from_cosine(configured_threshold(self.configs, character_name))
        limit = check_threshold(threshold, metric)
        limits = self.limits or configured_limits(self.configs, character_name)
        templates = self._templates(reference)
        return [self._judge(image, templates, limits, limit, metric, character_name) for image in images]

    def cleanup(self) -> None:
        """Give back the memory of the models; the checker can't be used again."""
        self._encoder.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.cleanup()

    def _read(self, image: Picture, limits: FaceLimits) -> FaceReading:
        return read_faces(self.faces(image), limits, self.several)

    def _judge(
        self,
        image: Picture,
        templates: NDArray[np.float32],
        limits: FaceLimits,
        threshold: float,
        metric: str,
        name: str,
    ) -> Verdict:
        try:
            reading = self._read(image, limits)
        except ImageFileError:
            reading = FaceReading(status="decode_error")
        found = [] if reading.embedding is None else [compare(row, reading.embedding, metric) for row in templates]
        score = max(found, key=lambda one: one.cosine).value if found else None
        return Verdict(
            character_name=name,
            status=reading.status,
            similarity_score=score,
            threshold=threshold,
            metric="euclidean" if metric == "euclidean" else "cosine",
            encoder=self.encoder.label,
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
