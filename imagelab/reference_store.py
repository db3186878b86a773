"""A character's reference embeddings, and the file that keeps them.

One `.npz` file holds the embeddings and, as JSON beside them, what made them: one file, so that the two can't disagree,
and arrays of plain numbers and text only, so that reading it runs no pickle.
"""

import hashlib
import io
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from imagelab.config import project_root
from imagelab.errors import InvalidValueError, ReferenceStoreError, shorten
from imagelab.face_light import FaceLight
from imagelab.faces import FaceEncoderId, FaceQuality
from imagelab.models import file_sha256
from imagelab.records import Record
from imagelab.reference_template import TemplateChoice, template_rows
from imagelab.similarity import Embedding, cosine, nearest
from imagelab.whole_file import whole_file

SCHEMA_VERSION = 3  # 2 described a reference's face in words of its own, 1 knew nothing of it
_MAX_STORE_BYTES = 64 * 2**20  # 10,000 references are 20 MiB
_LOCK_SECONDS = 60.0  # an update holds the lock for milliseconds: pictures are embedded before
_REBUILD = "Call create_character_embedding again with the reference pictures, or remove the file"


@dataclass(frozen=True, kw_only=True, slots=True)
class PictureHashes(Record):
    """What a picture is recognised by, in whatever file it comes back."""

    pixels_sha256: str  # `imagefiles.pixels_sha256`: the same for the same picture in any file
    perceptual_hash: str  # 64-bit pHash in hex: near for pictures that look alike
    mirrored_hash: str  # that of the picture's mirror image


@dataclass(frozen=True, kw_only=True, slots=True)
class ReferencePicture(PictureHashes):
    """A picture that a reference embedding was made from, described so that it needn't be opened again."""

    name: str  # unique among a character's references
    sha256: str  # of the file, or of the pixels of a picture that has none
    face: FaceQuality
    light: FaceLight  # on the face
    path: str | None = None  # relative to the project where it lies in it


@dataclass(frozen=True, kw_only=True, slots=True)
class Provenance(Record):
    """What made the embeddings of a store."""

    character_name: str
    encoder: FaceEncoderId
    pictures: tuple[ReferencePicture, ...]  # in the order of the embeddings
    template: TemplateChoice = field(default_factory=TemplateChoice)
    versions: Mapping[str, str] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class CharacterReferences:
    """A character's reference embeddings and the template made of them."""

    provenance: Provenance
    embeddings: NDArray[np.float32]  # (n, d), rows of norm 1
    template: Embedding  # (d,), norm 1: the medoid, else the direction of the mean

    @classmethod
    def of(cls, provenance: Provenance, embeddings: NDArray[np.float32]) -> "CharacterReferences":
        """Build them with the template that `provenance` names; raises InvalidValueError for embeddings that cancel."""
        (template,) = template_rows("medoid" if provenance.template.kind == "medoid" else "mean", embeddings)
        return cls(provenance=provenance, embeddings=embeddings, template=template)

    @property
    def character_name(self) -> str:
        """Return whose references these are."""
        return self.provenance.character_name

    @property
    def names(self) -> tuple[str, ...]:
        """Return the pictures' names, in the order of the embeddings."""
        return tuple(picture.name for picture in self.provenance.pictures)

    @property
    def references_sha256(self) -> str:
        """Return what these references are known by: a hash of encoder, template kind and embeddings.

        A calibration holds for references of the same hash only; names and places of the pictures don't count.
        """
        provenance = self.provenance
        head = f"{provenance.encoder.to_json()}\n{provenance.template.kind}\n{self.embeddings.shape}\n"
        data = np.ascontiguousarray(self.embeddings, "<f4").tobytes()
        return hashlib.sha256(head.encode() + data).hexdigest()

    @property
    def templates(self) -> NDArray[np.float32]:
        """Return the rows (k, d) of which the nearest is compared with: all references for `max`, else the template."""
        return self.embeddings if self.provenance.template.kind == "max" else self.template[None]

    def similarity(self, embedding: ArrayLike) -> float:
        """Return the cosine of an embedding (d,) to the template: the one number that verdicts are made of.

        With the template `max` it is the cosine to the nearest reference.
        """
        return nearest(self.templates, embedding).cosine

    def similarities(self, embedding: ArrayLike) -> tuple[float, ...]:
        """Return the cosine of an embedding (d,) to each single reference, in the order of `provenance.pictures`."""
        return tuple(cosine(row, embedding) for row in self.embeddings)


@contextmanager
def locked_store(path: Path) -> Iterator[None]:
    """Keep other processes from updating a store meanwhile, so that none of two updates is lost.

    Raises ReferenceStoreError when another one holds it for a minute, or when nothing can be written there.
    """
    from filelock import FileLock, Timeout

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path.with_name(f".{path.stem}.lock"), timeout=_LOCK_SECONDS)
        lock.acquire()
    except Timeout as error:
        reason = f"is being updated by another process for {_LOCK_SECONDS:g} s"
        raise ReferenceStoreError(path, reason, "Wait until it has finished, then try again") from error
    except OSError as error:
        raise _unwritable(path, error) from error
    try:
        yield
    finally:
        lock.release()


def write_references(path: Path, references: CharacterReferences) -> None:
    """Write a store under its final name only when it is complete."""
    buffer = io.BytesIO()
    np.savez(buffer, embeddings=references.embeddings, provenance=np.array(references.provenance.to_json()))
    try:
        with whole_file(path) as stream:
            stream.write(buffer.getvalue())
    except OSError as error:
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError) -> ReferenceStoreError:
    return ReferenceStoreError(path, f"can't be written: {error.strerror or error}", "Choose another store")


def read_references(path: Path) -> CharacterReferences:
    """Read a store; raises ReferenceStoreError for bytes that aren't one, or one of another schema."""
    try:
        _refuse_huge(path)
        # From memory: numpy leaves a file that it can't read open.
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as store:
            embeddings, data = store["embeddings"], json.loads(str(store["provenance"]))
        _refuse_other_schema(path, data)
        provenance = Provenance.from_dict(data)
    except ReferenceStoreError:
        raise
    except Exception as error:  # zipfile, zlib, numpy, its tokenizer of headers and json share no base
        raise ReferenceStoreError(path, f"is damaged or no store ({shorten(str(error), 300)})", _REBUILD) from error
    problem = _broken_embeddings(embeddings, len(provenance.pictures))
    if problem:
        raise ReferenceStoreError(path, f"is damaged: {problem}", _REBUILD)
    embeddings.setflags(write=False)  # whoever has read them may share them
    try:
        return CharacterReferences.of(provenance, embeddings)
    except InvalidValueError as error:
        raise ReferenceStoreError(path, f"is damaged: {error}", _REBUILD) from error


def _refuse_huge(path: Path) -> None:
    if path.stat().st_size > _MAX_STORE_BYTES:
        raise ReferenceStoreError(path, "is too large to be one", _REBUILD)


def _refuse_other_schema(path: Path, data: object) -> None:
    """Say so before the fields are looked at: those of another schema are others."""
    found = data.get("schema_version") if isinstance(data, dict) else None
    if isinstance(found, int) and found != SCHEMA_VERSION:
        raise ReferenceStoreError(path, f"is stale: schema_version was {found}, is {SCHEMA_VERSION}", _REBUILD)


def _broken_embeddings(embeddings: NDArray[np.float32], pictures: int) -> str:
    if embeddings.dtype != np.float32 or embeddings.ndim != 2 or embeddings.shape[0] != pictures or not pictures:
        return f"embeddings {embeddings.shape} of {embeddings.dtype} for {pictures} pictures"
    norms = np.linalg.norm(embeddings, axis=1)
    return "" if np.allclose(norms, 1, atol=1e-3) else "its embeddings haven't norm 1"


def refuse_stale(path: Path, provenance: Provenance, character_name: str, encoder: FaceEncoderId) -> None:
    """Raise ReferenceStoreError that names all that has changed since the store was made."""
    changed = []
    if provenance.encoder != encoder:
        was, now = provenance.encoder.to_dict(), encoder.to_dict()
        changed += [f"{name} was {was[name]}, is {now[name]}" for name in was if was[name] != now[name]]
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
