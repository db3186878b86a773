"""What a picture file says of its making, whoever wrote it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from imagelab.records import Record
from imagelab.results import GenerationRecord

Writer = Literal["imagelab", "a1111", "forge", "comfyui", "invokeai", "fooocus", "swarmui"]


@dataclass(frozen=True, kw_only=True, slots=True)
class LoraMention(Record):
    """A LoRA that a picture names."""

    name: str
    weight: float | None = None  # of the UNet; None: not said
    text_encoder_weight: float | None = None
    hash: str | None = None  # 12 hex digits: of the tensors (AutoV3); 10 or 64: of the file (AutoV2, SHA256)


@dataclass(frozen=True, kw_only=True, slots=True)
class ControlMention(Record):
    """A ControlNet that a picture names; None: not said."""

    model: str | None = None
    module: str | None = None  # the preprocessor
    weight: float | None = None
    start: float | None = None  # fraction of the steps
    end: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling(Record):
    """One run of a sampler; None: not said."""

    seed: int | None = None
    steps: int | None = None
    sampler: str | None = None  # as A1111 calls it, where it knows it
    schedule: str | None = None  # likewise, of the noise
    cfg: float | None = None
    denoise: float | None = None  # 1: from noise alone


@dataclass(frozen=True, kw_only=True, slots=True)
class PictureMetadata(Record):
    """What a picture says; None or nothing where it doesn't. None of it is to be trusted."""

    writer: Writer | None = None  # None: nothing was found that we can read
    version: str | None = None
    prompt: str | None = None
    negative_prompt: str | None = None
    seed: int | None = None
    steps: int | None = None
    sampler: str | None = None  # as A1111 calls it, where it knows it
    schedule: str | None = None
    cfg: float | None = None
    size: tuple[int, ...] | None = None  # (width, height) in px as drawn, not as enlarged; of the file: where not said
    model: str | None = None
    model_hash: str | None = None
    loras: tuple[LoraMention, ...] = ()
    controls: tuple[ControlMention, ...] = ()
    samplings: tuple[Sampling, ...] = ()  # of several samplers, in the order in which they act; the first is above
    settings: Mapping[str, str] = field(default_factory=dict)  # what else the writer says, in its own words
    record: GenerationRecord | None = None  # of a picture that imagelab drew
    pixels_sha256: str | None = None  # likewise, as it was drawn
    raw: Mapping[str, str] = field(default_factory=dict)  # {name of the chunk or of the EXIF tag: text}
