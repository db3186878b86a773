"""The hashes that a LoRA goes by, recomputed; what a file says of itself is only compared with them."""

import hashlib
import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from imagelab.records import Record

_CHUNK_BYTES = 1 << 20
_LEGACY_BEGIN, _LEGACY_BYTES = 0x100000, 0x10000


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredHash(Record):
    """A hash that the file states, and whether it is true; null where it can't be recomputed."""

    name: str
    stored: str
    is_true: bool | None


@dataclass(frozen=True, kw_only=True, slots=True)
class LoraHashes(Record):
    """What other programs call the file."""

    sha256: str  # of the whole file
    autov2: str  # its first 10 digits: A1111's model hash, civitai's AutoV2
    autov3: str  # of the tensors alone, 12 digits: A1111's `Lora hashes`
    model_hash: str  # the same, all 64: kohya's sshs_model_hash
    legacy_hash: str | None  # kohya's sshs_legacy_hash; null where that hashes a part of the header
    stored: tuple[StoredHash, ...]


def hash_lora(path: Path, header: Mapping[str, Any]) -> LoraHashes:
    """Hash a safetensors file whose header has been read; the file is read once."""
    whole, payload = hashlib.sha256(), hashlib.sha256()
    with path.open("rb") as stream:
        start = stream.read(8)
        start += stream.read(struct.unpack("<Q", start)[0])
        whole.update(start)
        for chunk in _chunks(stream):
            whole.update(chunk)
            payload.update(chunk)
        legacy = _legacy_hash(stream, header, len(start))
    sha256, model_hash = whole.hexdigest(), payload.hexdigest()
    return LoraHashes(
        sha256=sha256,
        autov2=sha256[:10],
        autov3=model_hash[:12],
        model_hash=model_hash,
        legacy_hash=legacy,
        stored=_stored(header.get("__metadata__") or {}, {"sshs_model_hash": model_hash, "sshs_legacy_hash": legacy}),
    )


def _chunks(stream: BinaryIO) -> Iterator[bytes]:
    while chunk := stream.read(_CHUNK_BYTES):
        yield chunk


def _legacy_hash(stream: BinaryIO, header: Mapping[str, Any], payload_begin: int) -> str | None:
    """Hash 64 KiB at 1 MiB of the file as kohya first wrote it: with none but its own `ss_*` facts in the header.

    A header that reaches as far can't be had back: its facts were written in any order.
    """
    metadata = {key: value for key, value in (header.get("__metadata__") or {}).items() if key.startswith("ss_")}
    plain = {"__metadata__": metadata} | {key: value for key, value in header.items() if key != "__metadata__"}
    header_bytes = len(json.dumps(plain, separators=(",", ":"), ensure_ascii=False).encode())
    begin = 8 + -(-header_bytes // 8) * 8  # safetensors fills the header up to eight bytes
    if begin > _LEGACY_BEGIN:
        return None
    stream.seek(payload_begin + _LEGACY_BEGIN - begin)
    return hashlib.sha256(stream.read(_LEGACY_BYTES)).hexdigest()[:8]


def _stored(metadata: Mapping[str, Any], actual: Mapping[str, str | None]) -> tuple[StoredHash, ...]:
    stored = [
        StoredHash(
            name=name,
            stored=str(metadata[name]),
            is_true=None if value is None else str(metadata[name]).lower() == value,
        )
        for name, value in actual.items()
        if name in metadata
    ]
    if "modelspec.hash_sha256" in metadata:  # over a stream of bytes that programs don't agree on
        value = str(metadata["modelspec.hash_sha256"])
        stored.append(StoredHash(name="modelspec.hash_sha256", stored=value, is_true=None))
    return tuple(stored)
