"""Whose metadata a picture's texts are, and what they say."""

from collections.abc import Iterator, Mapping
from dataclasses import replace

from imagelab.metadata.a1111 import infotext_of, read_infotext
from imagelab.metadata.chunk import PictureChunk, read_chunk
from imagelab.metadata.comfyui import read_comfyui
from imagelab.metadata.embedding import CHUNK_KEY, PARAMETERS_KEY
from imagelab.metadata.fooocus import read_fooocus
from imagelab.metadata.infotext import format_infotext
from imagelab.metadata.invokeai import read_invokeai
from imagelab.metadata.invokeai_older import read_dream, read_sd_metadata
from imagelab.metadata.lenient import read_mapping
from imagelab.metadata.swarmui import read_swarmui
from imagelab.metadata.values import PictureMetadata

_GRAPH = "prompt:"  # "Prompt:" in some nodes' files
_FOOOCUS = ("fooocus", "a1111")  # the schemes that its key names


def read_metadata(texts: Mapping[str, str]) -> PictureMetadata:
    """Return what a picture's texts, {name of the chunk or of the EXIF tag: text}, say; an empty reading for nothing.

    Raises InvalidValueError for a chunk of ours that is damaged: it was meant for us.
    """
    own = find_chunk(texts)
    read = _of_ours(read_chunk(own)) if own is not None else _of_others(texts)
    return replace(read, raw=dict(texts))


def find_chunk(texts: Mapping[str, str]) -> str | None:
    """Return the text of our chunk: a PNG's under its name, else the EXIF note, which holds JSON only if it is ours."""
    note = texts.get("MakerNote", "")
    return texts.get(CHUNK_KEY, note if note.startswith("{") and '"chunk_version"' in note else None)


def _of_others(texts: Mapping[str, str]) -> PictureMetadata:
    parameters = texts.get(PARAMETERS_KEY, texts.get("UserComment", ""))
    scheme = texts.get("fooocus_scheme", texts.get("MakerNote"))
    is_fooocus = scheme in _FOOOCUS or texts.get("Software", "").startswith("Fooocus")
    readings = (
        read_invokeai(texts.get("invokeai_metadata", "")),
        read_sd_metadata(texts.get("sd-metadata", "")),
        read_dream(texts.get("Dream", "")),
        read_swarmui(parameters),
        read_fooocus(parameters) if is_fooocus else PictureMetadata(),
        *(read_comfyui(graph) for graph in (*_graphs(texts), parameters)),
        read_infotext(parameters) if not read_mapping(parameters) else PictureMetadata(),
        read_fooocus(parameters),  # without its scheme, which it leaves out at times
    )
    return next((reading for reading in readings if reading.writer), PictureMetadata())


def _graphs(texts: Mapping[str, str]) -> Iterator[str]:
    """Yield what may be ComfyUI's graph: a PNG's under its name, in EXIF behind it, in the tag that a node chose."""
    yield texts.get("prompt", "")
    for name in ("Model", "Make", "ImageDescription"):
        text = texts.get(name, "")
        if text[: len(_GRAPH)].lower() == _GRAPH:
            yield text[len(_GRAPH) :]


def _of_ours(chunk: PictureChunk) -> PictureMetadata:
    record = chunk.record
    return replace(
        read_infotext(format_infotext(infotext_of(record))),
        writer="imagelab",
        version=record.versions.get("imagelab"),
        prompt=record.prompt,
        negative_prompt=record.negative_prompt,
        record=record,
        pixels_sha256=chunk.pixels_sha256,
    )
