"""Schema of `lora_registry.yaml`: the LoRAs by name, and combinations of them."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, Strict

from imagelab.config.base import Config, Entry, Fraction, Name, SafetensorsFile, Sha256, Table, Text, Weight
from imagelab.config.blocks import BlockWeights

LoraKind = Literal["character", "style", "background", "pose", "speed"]
BaseName = Literal["SDXL", "puppet"]
# channels that the cross-attention of each base model reads: what the shapes in a LoRA file tell it by
BASE_WIDTHS: Mapping[BaseName, int] = {"SDXL": 2048, "puppet": 128}


class LoraChoice(Config):
    """One LoRA to apply."""

    name: Name
    """A key of `loras` in lora_registry.yaml."""
    weight: Weight | None = None
    """Replaces the LoRA's default weight."""
    text_encoder_weight: Weight | None = None
    """The same for the text encoders; null for `weight`."""
    text_encoder_2_weight: Weight | None = None
    """The same for the second text encoder; null for `text_encoder_weight`."""
    blocks: BlockWeights | None = None
    """Factors by block, as a preset's name, 12 numbers or 20; null for the LoRA's default_blocks."""
    start: Fraction | None = None
    """Fraction of the steps after which it sets in."""
    stop: Fraction | None = None
    """Fraction of the steps after which it lets go."""


LoraChoices = Annotated[tuple[LoraChoice, ...], Strict(strict=False)]


class Lora(Entry):
    """One LoRA: its files, how strong it is and which words call it."""

    kind: LoraKind
    description: Text
    files: Annotated[dict[Name, SafetensorsFile], Field(min_length=1)]
    """Profile: file in the profile's `loras` folder."""
    sha256: dict[Name, Sha256 | None] = Field(default_factory=dict)
    """Profile: what the file must hash to; null where you bring the file yourself."""
    default_weight: Weight = 1.0
    default_blocks: BlockWeights | None = None
    """Factors by block, as a preset's name (NONE, ALL, INS, IND, INALL, MIDD, OUTD, OUTS, OUTALL), 12 numbers or 20."""
    trigger_words: Annotated[tuple[Text, ...], Strict(strict=False)] = ()
    """Put into the prompt whenever the LoRA is applied."""
    base: Annotated[dict[Name, BaseName], Field(min_length=1)]
    """Profile: base model that the file is for; one that is for another, by its keys and shapes, is refused."""
    licence: Text
    source: Text
    """Where it comes from, or how it was made."""


class Combination(Entry):
    """Several LoRAs that are known to work together, asked for by one name."""

    description: Text
    loras: Annotated[LoraChoices, Field(min_length=1)]


class LoraRegistry(Config):
    """Every LoRA that can be named."""

    loras: Table[Lora]
    combinations: Table[Combination] = Field(default_factory=dict)
