"""What every encoder is: pictures in, a status and a unit embedding each out, and an id that says what made them."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

from imagelab.config.encoders import EncoderKind, EncoderRegion
from imagelab.errors import InvalidValueError
from imagelab.records import Record
from imagelab.results import FaceStatus
from imagelab.rgb import Picture
from imagelab.similarity import Embedding


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderId(Record):
    """What made an embedding: embeddings of two different encoders mean nothing to each other."""

    label: str  # one short line, `clip/0123abcd`; another label for other weights and for another preprocessing
    kind: EncoderKind
    region: EncoderRegion
    weights_sha256: str  # of the file; of the sorted list of names and hashes where there are several
    preprocessing_sha256: str  # of all that happens to a picture before the weights see it, the face pack included


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Reading:
    """What an encoder saw of one picture."""

    status: FaceStatus
    embedding: Embedding | None = None  # (d,), norm 1; there if and only if status is ok


class IdentityEncoder(Protocol):
    """Embeds pictures so that those of one character are near each other; models load when they are first needed.

    A context manager; `close` may be called twice, and a closed encoder can't be used again.
    """

    @property
    def id(self) -> EncoderId:
        """Return what its embeddings are marked with; loads the models."""

    def embed(self, pictures: Sequence[Picture]) -> list[Reading]:
        """Return a reading for each picture, in order; one that can't be read or compared is a status, no error.

        Raises InvalidValueError for what is no picture at all; ModelNotFoundError, ModelFileError or ProfileError when
        the models load.
        """

    def close(self) -> None:
        """Give the models' memory back."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc_info: object) -> None: ...


def check_pictures(pictures: object) -> list[Picture]:
    """Return a list of pictures; raises InvalidValueError for one picture and for what can't be gone through."""
    if isinstance(pictures, Sequence) and not isinstance(pictures, str | bytes):
        return list(pictures)
    raise InvalidValueError("pictures", pictures, "a list of pictures")


def combine_sha256(files: Mapping[str, str]) -> str:
    """Return the hash that stands for {file: sha256}: of one file its own.

    >>> combine_sha256({"model.safetensors": "ab" * 32}) == "ab" * 32
    True
    """
    if len(files) == 1:
        return next(iter(files.values()))
    return text_sha256("".join(f"{name} {digest}\n" for name, digest in sorted(files.items())))


def settings_sha256(settings: Mapping[str, Any]) -> str:
    """Return the hash of settings, the same in whatever order they stand."""
    return text_sha256(json.dumps(settings, sort_keys=True, default=str))


def text_sha256(text: str) -> str:
    """Return the sha256 of a text in hex."""
    return hashlib.sha256(text.encode()).hexdigest()
