"""References that say the same thing twice: they pull the template towards themselves and add nothing."""

from dataclasses import dataclass
from itertools import combinations
from typing import Literal

from imagelab.records import Record
from imagelab.reference_store import CharacterReferences, PictureHashes, ReferencePicture

DuplicateKind = Literal["same picture", "near copy", "mirrored", "same embedding"]

# A copy that was re-encoded as JPEG, or resized, moves few of pHash's 64 bits; two pictures of one character in one
# place share many too, so that a hash alone convicts only this near, and farther on the embedding has to agree.
NEAR_BITS, ALIKE_BITS, ALIKE_COSINE = 4, 10, 0.97
SAME_COSINE = 0.999  # nearer than two different pictures of a face come


@dataclass(frozen=True, kw_only=True, slots=True)
class Duplicate(Record):
    """Two references that are one picture, or nearly."""

    first: str
    second: str
    kind: DuplicateKind
    hash_bits: int  # of 64, in which their perceptual hashes differ; of the mirror image where it is mirrored
    cosine: float


def find_duplicates(references: CharacterReferences) -> tuple[Duplicate, ...]:
    """Return all pairs of near-duplicates, by what the store keeps of the pictures: none is opened."""
    pictures, rows = references.provenance.pictures, references.embeddings
    found = (_compare(pictures[i], pictures[j], float(rows[i] @ rows[j])) for i, j in combinations(range(len(rows)), 2))
    return tuple(pair for pair in found if pair)


def _compare(a: ReferencePicture, b: ReferencePicture, cosine: float) -> Duplicate | None:
    kind = copy_kind(a, b, cosine)
    if kind is None:
        return None
    bits = min(_hash_bits(a, b))
    return Duplicate(first=a.name, second=b.name, kind=kind, hash_bits=bits, cosine=round(min(cosine, 1.0), 6))


def copy_kind(a: PictureHashes, b: PictureHashes, cosine: float) -> DuplicateKind | None:
    """Say in which way a picture is a copy of another, whose embeddings have this cosine; None: it is none."""
    straight, mirrored = _hash_bits(a, b)
    bits = min(straight, mirrored)
    if a.pixels_sha256 == b.pixels_sha256:
        return "same picture"
    if bits <= NEAR_BITS or (bits <= ALIKE_BITS and cosine >= ALIKE_COSINE):
        return "mirrored" if mirrored < straight else "near copy"
    return "same embedding" if cosine >= SAME_COSINE else None


def _hash_bits(a: PictureHashes, b: PictureHashes) -> tuple[int, int]:
    """Return in how many bits the hashes differ, and in how many that of one and that of the other's mirror image."""
    mirrored = min(_bits(a.mirrored_hash, b.perceptual_hash), _bits(a.perceptual_hash, b.mirrored_hash))
    return _bits(a.perceptual_hash, b.perceptual_hash), mirrored


def _bits(a: str, b: str) -> int:
    return (int(a, 16) ^ int(b, 16)).bit_count()
