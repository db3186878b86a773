"""Who a character is, to the face encoder: embeddings of reference pictures, kept with where they come from.

`create_character_embedding` stores what it is given in `reports/references/<face pack>/<character>.npz`. For a
character without a store, the reference pictures that character_presets.yaml names are embedded when they are first
needed and kept in memory: what is configured works at once and can never be stale.
"""

import hashlib
import os
import re
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from imagelab.arcface import FaceEncoder
from imagelab.config import Configs, Profile, load_configs, project_root
from imagelab.errors import ImageFileError, InvalidValueError, ReferenceStoreError, UnknownNameError
from imagelab.faces import Face, FaceEncoderId, FaceLimits, SeveralFaces, read_faces
from imagelab.imagefiles import checked_path
from imagelab.models import file_sha256, resolve_source
from imagelab.reference_store import (
    CharacterReferences,
    Provenance,
    ReferencePicture,
    read_references,
    refuse_stale,
    write_references,
)
from imagelab.results import Verdict
from imagelab.rgb import Picture, to_rgb
from imagelab.similarity import Embedding, centroid, check_threshold

DEFAULT_THRESHOLD = 0.65  # a cosine, for a character that character_presets.yaml doesn't know
IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp"})
_SAFE_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,63}")
_LIBRARIES = ("insightface", "numpy", "onnxruntime")


class FaceReader(Protocol):
    """What references need of a checker; CharacterConsistencyChecker is one."""

    @property
    def configs(self) -> Configs:
        """Return the configuration in use."""

    @property
    def profile(self) -> Profile:
        """Return the profile whose face pack is in use."""

    @property
    def encoder(self) -> FaceEncoderId:
        """Return what its embeddings are marked with."""

    @property
    def providers(self) -> tuple[str, ...]:
        """Return what onnxruntime really runs on."""

    @property
    def several(self) -> SeveralFaces:
        """Return what it does about several faces in a picture."""

    @property
    def limits(self) -> FaceLimits | None:
        """Return what makes a face usable; None: what is configured for the character."""

    def faces(self, image: Picture) -> tuple[Face, ...]:
        """Return all faces of a picture."""


def configured_threshold(configs: Configs, character_name: str) -> float:
    """Return from which cosine on a picture shows a character, by character_presets.yaml."""
    character = configs.character_presets.characters.get(character_name)
    return character.thresholds.consistency if character else DEFAULT_THRESHOLD


def configured_limits(configs: Configs, character_name: str) -> FaceLimits:
    """Return what makes a character's face usable, by character_presets.yaml."""
    character = configs.character_presets.characters.get(character_name)
    if character is None:
        return FaceLimits()
    return FaceLimits(min_face_px=character.thresholds.min_face_px, min_score=character.thresholds.detection)


class CharacterReferenceManager:
    """Keeps the references of characters and compares pictures with them.

    `checker` finds and embeds the faces, and its limits and its policy for several of them in a picture hold; without
    one, an own encoder for `profile` (None: the default one) loads when it is first needed. `store` is a folder, by
    default reports/references of the project. A context manager; `cleanup` closes only an encoder of its own and may be
    called twice.
    """

    def __init__(
        self,
        checker: FaceReader | None = None,
        store: str | os.PathLike[str] | None = None,
        profile: str | None = None,
        configs: Configs | None = None,
        device: str = "auto",
    ) -> None:
        if checker is not None and profile not in (None, checker.profile.name):
            raise InvalidValueError("profile", profile, f"that of the checker, {checker.profile.name}")
        self.configs: Configs = checker.configs if checker else configs or load_configs()
        self.profile: Profile = checker.profile if checker else self.configs.profile(profile)
        self._reader: FaceReader | FaceEncoder = checker or FaceEncoder(self.profile, device)
        self._several: SeveralFaces = checker.several if checker else "require_one"
        self._given_limits: FaceLimits | None = checker.limits if checker else None
        root = project_root() / "reports" / "references"
        self._store = root if store is None else checked_path(store, "store")
        self._configured: dict[str, CharacterReferences] = {}

    @property
    def encoder(self) -> FaceEncoderId:
        """Return what its embeddings are marked with; loads the models."""
        return self._reader.encoder

    @property
    def providers(self) -> tuple[str, ...]:
        """Return what onnxruntime really runs on; loads the models."""
        return self._reader.providers

    def store_path(self, character_name: str) -> Path:
        """Return where a character's store is, or would be.

        Raises InvalidValueError for a name that can't be a file's.
        """
        if not isinstance(character_name, str) or not _SAFE_NAME.fullmatch(character_name):
            expected = "letters, digits, '_', '-' and '.', not starting with '.', at most 64 of them"
            raise InvalidValueError("character_name", character_name, expected)
        return self._store / self.profile.face.name / f"{character_name}.npz"

    def create_character_embedding(
        self, character_name: str, reference_images: Sequence[Picture] | str | os.PathLike[str]
    ) -> CharacterReferences:
        """Embed a character's reference pictures and store them; they replace those there were.

        `reference_images` are pictures with one usable face each, or a folder of them. The character needn't be in
        character_presets.yaml. Raises InvalidValueError for the name or an empty list; ReferenceStoreError that lists
        every picture that can't be used, and then nothing is written and an earlier store stays.
        """
        path = self.store_path(character_name)
        references = self._embed(character_name, _pictures(reference_images), path)
        write_references(path, references)
        return references

    def references(self, character_name: str) -> CharacterReferences:
        """Return a character's references: the store's, else those that character_presets.yaml names.

        Raises UnknownNameError; ReferenceStoreError for a store that is damaged or stale; ProfileError or
        ModelNotFoundError when the profile has no reference pictures.
        """
        path = self.store_path(character_name)
        if path.is_file():
            references = read_references(path)
            refuse_stale(path, references.provenance, character_name, self.encoder)
            return references
        if character_name not in self.configs.character_presets.characters:
            raise UnknownNameError("character", character_name, self._known_names())
        if character_name not in self._configured:
            self._configured[character_name] = self._embed_configured(character_name)
        return self._configured[character_name]

    def check_character_consistency(
        self, character_name: str, generated_image: Picture, threshold: float | None = None
    ) -> Verdict:
        """Judge whether the face in a picture is the character's, by its cosine to the references' template.

        `threshold` None takes the character's configured one. A picture without a face that can be compared is no
        error but a status. Raises as `references`; InvalidValueError for the threshold; ImageFileError for the file.
        """
        limit = configured_threshold(self.configs, character_name) if threshold is None else check_threshold(threshold)
        return self.judge(self.references(character_name), generated_image, limit)

    def judge(self, references: CharacterReferences, image: Picture, threshold: float) -> Verdict:
        """Compare one picture with references at hand; `threshold` is a cosine.

        Raises InvalidValueError for the threshold; ImageFileError or InvalidValueError for the picture.
        """
        limit = check_threshold(threshold)
        reading = read_faces(
            self._reader.faces(image), self._limits(references.character_name), self._several, references.similarity
        )
        return Verdict(
            character_name=references.character_name,
            status=reading.status,
            similarity_score=None if reading.embedding is None else references.similarity(reading.embedding),
            threshold=limit,
            metric="cosine",
            encoder=references.provenance.encoder.label,
        )

    def cleanup(self) -> None:
        """Give back the memory of an encoder of its own."""
        if isinstance(self._reader, FaceEncoder):
            self._reader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.cleanup()

    def _limits(self, character_name: str) -> FaceLimits:
        return self._given_limits or configured_limits(self.configs, character_name)

    def _known_names(self) -> tuple[str, ...]:
        stored = (path.stem for path in (self._store / self.profile.face.name).glob("*.npz"))
        return tuple({*self.configs.character_presets.characters, *stored})

    def _embed_configured(self, character_name: str) -> CharacterReferences:
        source = self.configs.references_source(character_name, self.profile.name)
        folder = resolve_source(source, f"reference pictures of {character_name!r}")
        return self._embed(character_name, _pictures(folder), folder)

    def _embed(self, character_name: str, pictures: Sequence[Picture], place: Path) -> CharacterReferences:
        faults: list[str] = []
        embeddings: list[Embedding] = []
        described: list[ReferencePicture] = []
        seen: dict[str, str] = {}  # {sha256 of the pixels: name}
        limits = self._limits(character_name)
        for index, picture in enumerate(pictures):
            name = Path(picture).name if isinstance(picture, str | os.PathLike) else f"picture {index}"
            try:
                rgb = to_rgb(picture)
            except ImageFileError as error:
                faults.append(f"{name}: {error.reason}")
                continue
            pixels = _pixels_sha256(rgb)
            if pixels in seen:
                faults.append(f"{name}: the same as {seen[pixels]}")
                continue
            seen[pixels] = name
            reading = read_faces(self._reader.faces(rgb), limits)  # of a reference, one face must be all
            if reading.embedding is None:
                faults.append(f"{name}: {reading.status}")
            else:
                embeddings.append(reading.embedding)
                described.append(_describe(picture, name, pixels))
        if faults:
            reason = f"{len(faults)} of {len(pictures)} reference pictures can't be used: {'; '.join(faults)}"
            raise ReferenceStoreError(place, reason, "Give each picture once, with exactly one clear face in it")
        provenance = Provenance(
            character_name=character_name,
            encoder=self.encoder,
            pictures=tuple(described),
            versions={library: version(library) for library in _LIBRARIES},
        )
        return CharacterReferences(
            provenance=provenance, embeddings=np.stack(embeddings), template=centroid(embeddings)
        )


def _pictures(given: Sequence[Picture] | str | os.PathLike[str]) -> Sequence[Picture]:
    """Return the list of pictures, or those of a folder by name."""
    if isinstance(given, str | os.PathLike):
        folder = checked_path(given, "reference_images")
        if not folder.is_dir():
            raise InvalidValueError("reference_images", str(given), "a list of pictures, or a folder of them")
        found = sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
        if not found:
            raise ReferenceStoreError(folder, "has no pictures", f"Put {', '.join(sorted(IMAGE_SUFFIXES))} files there")
        return found
    if not isinstance(given, Sequence) or not given:
        raise InvalidValueError("reference_images", given, "a list of at least one picture, or a folder of them")
    return given


def _pixels_sha256(rgb: NDArray[np.uint8]) -> str:
    return hashlib.sha256(repr(rgb.shape).encode() + rgb.tobytes()).hexdigest()


def _describe(picture: Picture, name: str, pixels_sha256: str) -> ReferencePicture:
    if not isinstance(picture, str | os.PathLike):
        return ReferencePicture(name=name, sha256=pixels_sha256)
    path = Path(picture).resolve()
    root = project_root()
    shown = path.relative_to(root) if path.is_relative_to(root) else path
    return ReferencePicture(name=name, sha256=file_sha256(path), path=shown.as_posix())
