"""What pictures say of their making, as text: A1111's infotext, our own chunk, and what other programs write."""

from imagelab.metadata.a1111 import infotext_of, read_infotext
from imagelab.metadata.chunk import PictureChunk, read_chunk, write_chunk
from imagelab.metadata.embedding import CHUNK_KEY
from imagelab.metadata.infotext import Infotext, format_infotext, parse_infotext
from imagelab.metadata.values import ControlMention, LoraMention, PictureMetadata, Sampling

__all__ = [
    "CHUNK_KEY",
    "ControlMention",
    "Infotext",
    "LoraMention",
    "PictureChunk",
    "PictureMetadata",
    "Sampling",
    "format_infotext",
    "infotext_of",
    "parse_infotext",
    "read_chunk",
    "read_infotext",
    "write_chunk",
]
