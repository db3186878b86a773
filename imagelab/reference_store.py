"""A character's reference embeddings, and the file that keeps them.

One `.npz` file holds the embeddings and, as JSON beside them, what made them: one file, so that the two can't disagree,
and arrays of plain numbers and text only, so that reading it runs no pickle.
"""

import io
import json
import os
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import ArrayLike, NDArray

from imagelab.config import project_root
from imagelab.errors import InvalidValueError, ReferenceStoreError, shorten
from imagelab.faces import FaceEncoderId
from imagelab.models import file_sha256
from imagelab.results import Record
from imagelab.similarity import Embedding, centroid, cosine

SCHEMA_VERSION = 1
_MAX_STORE_BYTES = 64 * 2**20  # 10,000 references are 20 MiB
_REBUILD = "Call create_character_embedding again with the reference pictures, or remove the file"
# What numpy raises for bytes that aren't an .npz of plain arrays.
_UNREADABLE = (OSError, ValueError, KeyError, EOFError, BadZipFile, MemoryError, NotImplementedError, TypeError)


@dataclass(frozen=True, kw_only=True, slots=True)
class ReferencePicture(Record):
    """A picture that a reference embedding was made from."""

    name: str
    sha256: str  # of the file, or of the pixels of a picture that has none
    path: str | None = None  # relative to the project where it lies in it


@dataclass(frozen=True, kw_only=True, slots=True)
class Provenance(Record):
    """What made the embeddings of a store."""

    character_name: str
    encoder: FaceEncoderId
    pictures: tuple[ReferencePicture, ...]  # in the order of the embeddings
    versions: Mapping[str, str] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class CharacterReferences:
    """A character's reference embeddings and the template made of them."""

    provenance: Provenance
    embeddings: NDArray[np.float32]  # (n, d), rows of norm 1
    template: Embedding  # (d,), norm 1: the direction of their mean

    @property
    def character_name(self) -> str:
        """Return whose references these are."""
        return self.provenance.character_name

    def similarity(self, embedding: ArrayLike) -> float:
        """Return the cosine of an embedding (d,) to the template: the one number that verdicts are made of."""
        return cosine(self.template, embedding)

    def similarities(self, embedding: ArrayLike) -> tuple[float, ...]:
        """Return the cosine of an embedding (d,) to each single reference, in the order of `provenance.pictures`."""
        return tuple(cosine(row, embedding) for row in self.embeddings)


def write_references(path: Path, references: CharacterReferences) -> None:
    """Write a store under its final name only when it is complete."""
    buffer = io.BytesIO()
    np.savez(buffer, embeddings=references.embeddings, provenance=np.array(references.provenance.to_json()))
    scratch = path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with scratch.open("xb") as stream:
            stream.write(buffer.getvalue())
            stream.flush()
            os.fsync(stream.fileno())  # else a power cut leaves the name without the content
        scratch.replace(path)
    except OSError as error:
        reason = f"can't be written: {error.strerror or error}"
        raise ReferenceStoreError(path, reason, "Choose another store") from error
    finally:
        with suppress(OSError):
            scratch.unlink(missing_ok=True)


def read_references(path: Path) -> CharacterReferences:
    """Read a store; raises ReferenceStoreError for bytes that aren't one."""
    try:
        if path.stat().st_size > _MAX_STORE_BYTES:
            raise ReferenceStoreError(path, "is too large to be one", _REBUILD)
        # From memory: numpy leaves a file that it can't read open.
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as store:
            embeddings, text = store["embeddings"], str(store["provenance"])
        provenance = Provenance.from_dict(json.loads(text))
    except (InvalidValueError, *_UNREADABLE) as error:
        raise ReferenceStoreError(path, f"is damaged or no store ({shorten(str(error), 300)})", _REBUILD) from error
    problem = _broken_embeddings(embeddings, len(provenance.pictures))
    if problem:
        raise ReferenceStoreError(path, f"is damaged: {problem}", _REBUILD)
    try:
        return CharacterReferences(provenance=provenance, embeddings=embeddings, template=centroid(embeddings))
    except InvalidValueError as error:
        raise ReferenceStoreError(path, f"is damaged: {error}", _REBUILD) from error


def _broken_embeddings(embeddings: NDArray[np.float32], pictures: int) -> str:
    if embeddings.dtype != np.float32 or embeddings.ndim != 2 or embeddings.shape[0] != pictures:
        return f"embeddings {embeddings.shape} of {embeddings.dtype} for {pictures} pictures"
    norms = np.linalg.norm(embeddings, axis=1)
    return "" if np.allclose(norms, 1, atol=1e-3) else "its embeddings haven't norm 1"


def refuse_stale(path: Path, provenance: Provenance, character_name: str, encoder: FaceEncoderId) -> None:
    """Raise ReferenceStoreError that names all that has changed since the store was made."""
    changed = [
        f"{name} was {was}, is {now}"
        for name, was in provenance.encoder.to_dict().items()
        if was != (now := encoder.to_dict()[name])
    ]
    if provenance.schema_version != SCHEMA_VERSION:
        changed.append(f"schema_version was {provenance.schema_version}, is {SCHEMA_VERSION}")
    if provenance.character_name != character_name:
        changed.append(f"character_name was {provenance.character_name}, is {character_name}")
    changed += [f"{picture.name} has changed" for picture in provenance.pictures if _has_changed(picture)]
    if changed:
        raise ReferenceStoreError(path, f"is stale: {'; '.join(changed)}", _REBUILD)


def _has_changed(picture: ReferencePicture) -> bool:
    """Say whether the picture's file is there and another than it was; one that is gone changes no embedding."""
    if picture.path is None:
        return False
    path = project_root() / picture.path  # an absolute path stays what it is
    return path.is_file() and file_sha256(path) != picture.sha256
