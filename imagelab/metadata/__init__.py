"""What pictures say of their making, as text: A1111's infotext, our own chunk, and what other programs write."""

from imagelab.metadata.a1111 import infotext_of, read_infotext
from imagelab.metadata.chunk import PictureChunk, read_chunk, write_chunk
from imagelab.metadata.infotext import Infotext, format_infotext, parse_infotext
from imagelab.metadata.read import find_chunk, read_metadata
from imagelab.metadata.values import ControlMention, LoraMention, PictureMetadata, Sampling

__all__ = [
    "ControlMention",
    "Infotext",
    "LoraMention",
    "PictureChunk",
    "PictureMetadata",
    "Sampling",
    "find_chunk",
    "format_infotext",
    "infotext_of",
    "parse_infotext",
    "read_chunk",
    "read_infotext",
    "read_metadata",
    "write_chunk",
]
