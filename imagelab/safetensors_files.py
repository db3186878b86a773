"""Tell a whole safetensors file from a truncated, corrupt or foreign one by its header, without loading it."""

import json
import math
import struct
from pathlib import Path
from typing import Any

from imagelab.errors import ModelFileError, ModelNotFoundError
from imagelab.read_once import read_once

FETCH_AGAIN = "Fetch or copy the file again"
_MAX_HEADER_BYTES = 100_000_000  # safetensors' own limit

# safetensors dtype: bits of an element; anything else is left to the loader
_BITS = {"BOOL": 8, "U8": 8, "I8": 8, "U16": 16, "I16": 16, "F16": 16, "BF16": 16, "U32": 32, "I32": 32, "F32": 32}
_BITS |= {"U64": 64, "I64": 64, "F64": 64, "F8_E4M3": 8, "F8_E5M2": 8}

# what a file that isn't safetensors begins with: what it is instead
_FOREIGN: tuple[tuple[bytes, str], ...] = (
    (b"version https://git-lfs", "is a git-lfs pointer: run `git lfs pull`"),
    (b"PK\x03\x04", "is a zip archive (a PyTorch checkpoint, perhaps): convert it to safetensors"),
    (b"\x80", "is a pickle, which can run code: convert it to safetensors"),
    (b"<", "is a web page: the download went wrong"),
    (b"{", "is JSON: the download went wrong"),
)


def check_safetensors(path: Path) -> dict[str, Any]:
    """Check a safetensors file against its own header and return it: {tensor: {dtype, shape, data_offsets}}.

    Only the header is read; free text is under "__metadata__". Raises ModelFileError for a truncated or corrupt file
    and for one of another format, whatever its name; ModelNotFoundError if there is none.
    """
    if not path.is_file():
        raise ModelNotFoundError("safetensors file", path, "Put the file there")
    size = path.stat().st_size
    with path.open("rb") as stream:
        start = stream.read(32)
        for magic, what in _FOREIGN:
            # A header of 0x80, 0x3C or 0x7B bytes begins like some of these: its ninth byte is what tells.
            if start.startswith(magic) and start[8:9] != b"{":
                raise ModelFileError(path, what, FETCH_AGAIN)
        header_bytes = struct.unpack("<Q", start[:8])[0] if len(start) >= 8 else None  # a u64
        if header_bytes is None:
            raise ModelFileError(path, f"is truncated: {size} bytes, too few for a header", FETCH_AGAIN)
        if header_bytes > _MAX_HEADER_BYTES:
            raise ModelFileError(path, "isn't a safetensors file (its header length makes no sense)", FETCH_AGAIN)
        if 8 + header_bytes > size:
            raise ModelFileError(path, f"is truncated: {size} bytes, its header alone has {header_bytes}", FETCH_AGAIN)
        stream.seek(8)
        header = _parse_header(path, stream.read(header_bytes))
    expected = 8 + header_bytes + _payload_bytes(path, header)
    if size < expected:
        raise ModelFileError(path, f"is truncated: {size} of {expected} bytes", FETCH_AGAIN)
    if size > expected:
        raise ModelFileError(path, f"is corrupt: {size} bytes where its header describes {expected}", FETCH_AGAIN)
    return header


@read_once
def check_safetensors_once(path: Path) -> None:
    """Check as `check_safetensors`, unless the file is the one that has passed before and hasn't changed since."""
    check_safetensors(path)


def _parse_header(path: Path, raw: bytes) -> dict[str, Any]:
    try:
        header = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise ModelFileError(
            path, "is corrupt or not a safetensors file: its header isn't JSON", FETCH_AGAIN
        ) from error
    if not isinstance(header, dict):
        raise ModelFileError(path, "is corrupt: its header isn't a mapping", FETCH_AGAIN)
    return header


def _payload_bytes(path: Path, header: dict[str, Any]) -> int:
    """Return the length of the data that the header describes, having checked that it is without gaps."""
    end = 0
    try:
        tensors = sorted((entry for name, entry in header.items() if name != "__metadata__"), key=_begin)
        for entry in tensors:
            begin, stop = entry["data_offsets"]
            bits = _BITS.get(entry["dtype"])
            fits = bits is None or (stop - begin) * 8 == bits * math.prod(entry["shape"])
            if begin != end or stop < begin or not fits:
                raise ModelFileError(path, "is corrupt: its tensors don't fit their place", FETCH_AGAIN)
            end = stop
    except (KeyError, TypeError, ValueError) as error:
        raise ModelFileError(path, "is corrupt: its header describes no tensors", FETCH_AGAIN) from error
    return end


def _begin(entry: dict[str, Any]) -> tuple[int, int]:
    begin, stop = entry["data_offsets"]
    return begin, stop  # an empty tensor shares its begin with the next one
