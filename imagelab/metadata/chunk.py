"""The `imagelab` chunk: everything that it takes to draw a picture again, as versioned JSON with a published schema."""

import json
from dataclasses import dataclass
from typing import Any, Literal

from imagelab.errors import InvalidValueError
from imagelab.metadata.lenient import load_json
from imagelab.records import Record
from imagelab.results import GenerationRecord

CHUNK_VERSION = 2  # that is written; 1 was the bare record


@dataclass(frozen=True, kw_only=True, slots=True)
class PictureChunk(Record):
    """A picture's record, and the picture that was drawn by it."""

    record: GenerationRecord
    pixels_sha256: str | None = None  # `imagefiles.pixels_sha256`; None: an old chunk that doesn't say
    chunk_version: Literal[1, 2] = 2


def write_chunk(chunk: PictureChunk) -> str:
    """Return the chunk as JSON in ASCII: a PNG's tEXt is Latin-1, and readers disagree about its iTXt."""
    return json.dumps(chunk.to_dict(), allow_nan=False)


def read_chunk(text: str) -> PictureChunk:
    """Return the chunk that a picture carries, of whichever version.

    Raises InvalidValueError for one that is damaged, or that a later version of imagelab wrote.
    """
    try:
        data = load_json(text)
    except ValueError as error:
        raise InvalidValueError("imagelab chunk", text, "JSON") from error
    if not isinstance(data, dict):
        raise InvalidValueError("imagelab chunk", data, "a mapping")
    try:
        chunk = PictureChunk.from_dict(_upgraded(data))
        write_chunk(chunk)  # what can't be written was never written here: NaN, infinities
    except InvalidValueError:
        raise
    except (OverflowError, ValueError) as error:  # the former for a whole number that is more than a float holds
        raise InvalidValueError("imagelab chunk", text, "with numbers that a computer has") from error
    return chunk


def _upgraded(data: dict[str, Any]) -> dict[str, Any]:
    if "chunk_version" not in data and "record" not in data:
        return {"record": data, "chunk_version": 1}
    version = data.get("chunk_version")
    if version != CHUNK_VERSION:
        raise InvalidValueError("chunk_version", version, f"{CHUNK_VERSION}, the latest that this imagelab reads")
    return data
