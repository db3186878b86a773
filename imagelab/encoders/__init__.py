"""Encoders that may judge identity, behind one protocol, and how to tell which of them does it best."""

from imagelab.encoders.base import EncoderId, IdentityEncoder, Reading
from imagelab.encoders.compare import EncoderComparison, EncoderDifference, EncoderResult, compare_encoders
from imagelab.encoders.open import open_clip, open_encoder, open_encoders

__all__ = [
    "EncoderComparison",
    "EncoderDifference",
    "EncoderId",
    "EncoderResult",
    "IdentityEncoder",
    "Reading",
    "compare_encoders",
    "open_clip",
    "open_encoder",
    "open_encoders",
]
