"""The references of characters, made and kept: embeddings of pictures, with where they come from.

`create_character_embedding` stores what it is given in `reports/references/<face pack>/<character>.npz`. For a
character without a store, the reference pictures that character_presets.yaml names are embedded when they are first
needed and kept in memory: what is configured works at once and can never be stale.
"""

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Protocol, Self

import numpy as np

from imagelab.acceptance import configured_limits
from imagelab.arcface import FaceEncoder, PictureT
from imagelab.config import Configs, Profile, load_configs, project_root
from imagelab.errors import ImageLabError, InvalidValueError, ReferenceStoreError, UnknownNameError
from imagelab.faces import Face, FaceEncoderId, FaceLimits, FacesFound, SeveralFaces
from imagelab.imagefiles import checked_path
from imagelab.models import resolve_source
from imagelab.reference_pictures import embed_references, gather_pictures
from imagelab.reference_store import (
    CharacterReferences,
    Provenance,
    ReferencePicture,
    locked_store,
    read_references,
    refuse_stale,
    write_references,
)
from imagelab.reference_template import Embeddings, TemplateRequest, choose_template
from imagelab.rgb import Picture, Rgb

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

    def faces_in(self, images: Iterable[PictureT], *, read: Callable[[PictureT], Rgb]) -> Iterator[FacesFound]:
        """Yield all faces of each of many pictures, which its threads open by `read`."""


class StoredReferences:
    """Keeps the references of characters; see CharacterReferenceManager, which judges pictures by them."""

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
        self._read: dict[Path, tuple[tuple[int, ...], CharacterReferences]] = {}  # stores, with the stamp they had

    @property
    def store(self) -> Path:
        """Return the folder of the stored references and calibrations, which needn't be there."""
        return self._store

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
        self,
        character_name: str,
        reference_images: Sequence[Picture] | str | os.PathLike[str],
        template: TemplateRequest = "mean",
    ) -> CharacterReferences:
        """Embed a character's reference pictures and store them; they replace those there were.

        `reference_images` are pictures with one usable face each, or a folder of them. The character needn't be in
        character_presets.yaml. `template` is mean, medoid, max (the nearest reference) or auto: what tells these
        references best from those of the other characters. Raises InvalidValueError for the name or an empty list,
        UnknownNameError for the template; ReferenceStoreError that lists every picture that can't be used, and then
        nothing is written and an earlier store stays.
        """
        path = self.store_path(character_name)
        choose_template(template, np.empty((0, 0), np.float32))  # an unknown one is refused before anything loads
        pictures = gather_pictures(reference_images, "reference_images")
        made, embeddings = embed_references(pictures, self._reader.faces, self._limits(character_name), path)
        references = self._put_together(character_name, made, embeddings, template)
        with locked_store(path):
            write_references(path, references)
        return references

    def add_reference_images(
        self, character_name: str, pictures: Sequence[Picture] | str | os.PathLike[str]
    ) -> CharacterReferences:
        """Add pictures to a character's references; only the new ones are opened and embedded.

        A character without a store gets one, with the configured references and these. The template is chosen again
        as it was asked for. Raises as `references`; ReferenceStoreError that lists every picture that can't be used,
        one that is there already among them, and then nothing changes.
        """
        path = self.store_path(character_name)
        given = gather_pictures(pictures, "pictures")
        limits = self._limits(character_name)
        present = self.references(character_name).provenance.pictures
        made, new = embed_references(given, self._reader.faces, limits, path, present)
        with locked_store(path):
            old = self.references(character_name)  # again: another process may have added some meanwhile
            if known := _already_there(made, old.provenance.pictures):
                raise ReferenceStoreError(path, f"has {', '.join(known)} already", "Give each picture once")
            described, embeddings = (*old.provenance.pictures, *made), np.concatenate([old.embeddings, new])
            return self._rewrite(path, old, described, embeddings)

    def remove_reference_images(self, character_name: str, names: Sequence[str]) -> CharacterReferences:
        """Remove pictures, by their names in the provenance, from a character's references; nothing is embedded again.

        Raises as `references`; UnknownNameError with the nearest name; InvalidValueError for no names at all, and when
        no reference would be left.
        """
        path = self.store_path(character_name)
        if isinstance(names, str) or not names:
            raise InvalidValueError("names", names, "a list of at least one reference's name")
        self.references(character_name)  # an unknown character is refused before a folder is made
        with locked_store(path):
            old = self.references(character_name)
            for name in names:
                if name not in old.names:
                    raise UnknownNameError(f"reference of {character_name}", name, old.names)
            kept = [index for index, name in enumerate(old.names) if name not in names]
            if not kept:
                expected = f"such that one of {character_name}'s references is left: to be rid of all, remove {path}"
                raise InvalidValueError("names", list(names), expected)
            return self._rewrite(path, old, [old.provenance.pictures[index] for index in kept], old.embeddings[kept])

    def references(self, character_name: str) -> CharacterReferences:
        """Return a character's references: the store's, else those that character_presets.yaml names.

        Raises UnknownNameError; ReferenceStoreError for a store that is damaged or stale; ProfileError or
        ModelNotFoundError when the profile has no reference pictures.
        """
        path = self.store_path(character_name)
        if path.is_file():
            references = self._read_once(path)
            refuse_stale(path, references.provenance, character_name, self.encoder)
            return references
        if character_name not in self.configs.character_presets.characters:
            raise UnknownNameError("character", character_name, self._known_names())
        if character_name not in self._configured:
            self._configured[character_name] = self._embed_configured(character_name)
        return self._configured[character_name]

    def cleanup(self) -> None:
        """Give back the memory of an encoder of its own."""
        if isinstance(self._reader, FaceEncoder):
            self._reader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.cleanup()

    def _read_once(self, path: Path) -> CharacterReferences:
        """Read a store, unless it is the file that was read before: a check would take longer over it than a face."""
        try:
            stat = path.stat()  # before the content: if it changes in between, the stamp is old and it is read again
        except OSError as error:  # it was there a moment ago
            raise ReferenceStoreError(path, f"can't be read: {error.strerror or error}", "Try again") from error
        stamp = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
        if path not in self._read or self._read[path][0] != stamp:
            self._read[path] = (stamp, read_references(path))
        return self._read[path][1]

    def _limits(self, character_name: str) -> FaceLimits:
        return self._given_limits or configured_limits(self.configs, character_name)

    def _known_names(self) -> tuple[str, ...]:
        stored = (path.stem for path in (self._store / self.profile.face.name).glob("*.npz"))
        return tuple({*self.configs.character_presets.characters, *stored})

    def _embed_configured(self, character_name: str) -> CharacterReferences:
        source = self.configs.references_source(character_name, self.profile.name)
        folder = resolve_source(source, f"reference pictures of {character_name!r}")
        pictures = gather_pictures(folder, "reference_images")
        made, embeddings = embed_references(pictures, self._reader.faces, self._limits(character_name), folder)
        return self._put_together(character_name, made, embeddings, "mean")

    def _rewrite(
        self, path: Path, old: CharacterReferences, pictures: Sequence[ReferencePicture], embeddings: Embeddings
    ) -> CharacterReferences:
        requested = old.provenance.template.requested
        references = self._put_together(old.character_name, pictures, embeddings, requested)
        write_references(path, references)
        return references

    def _put_together(
        self,
        character_name: str,
        pictures: Sequence[ReferencePicture],
        embeddings: Embeddings,
        template: TemplateRequest,
    ) -> CharacterReferences:
        impostors, without = self._others(character_name) if template == "auto" else ({}, ())
        rows = np.concatenate([other.embeddings for other in impostors.values()]) if impostors else None
        choice = choose_template(template, embeddings, rows)
        if without:
            choice = replace(choice, why=f"{choice.why}; without {', '.join(without)}, whose references can't be used")
        provenance = Provenance(
            character_name=character_name,
            encoder=self.encoder,
            pictures=tuple(pictures),
            template=choice,
            versions={library: version(library) for library in _LIBRARIES},
        )
        return CharacterReferences.of(provenance, embeddings)

    def _others(self, character_name: str) -> tuple[Mapping[str, CharacterReferences], tuple[str, ...]]:
        """Return the references of all other characters, and the names of those that can't be used."""
        usable, unusable = {}, []
        for name in sorted(set(self._known_names()) - {character_name}):
            try:
                usable[name] = self.references(name)
            except ImageLabError:
                unusable.append(name)
        return usable, tuple(unusable)


def _already_there(new: Sequence[ReferencePicture], present: Sequence[ReferencePicture]) -> list[str]:
    """Return the names of new pictures whose pixels, or whose names, are present."""
    pixels, names = {picture.pixels_sha256 for picture in present}, {picture.name for picture in present}
    return [picture.name for picture in new if picture.pixels_sha256 in pixels or picture.name in names]
