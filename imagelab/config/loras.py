"""Schema of `lora_registry.yaml`: the LoRAs by name, and combinations of them."""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, Strict, model_validator

from imagelab.config.base import Config, Entry, Name, SafetensorsFile, Sha256, Table, Text, Weight

LoraKind = Literal["character", "style", "background", "pose"]


class LoraChoice(Config):
    """One LoRA to apply."""

    name: Name
    """A key of `loras` in lora_registry.yaml."""
    weight: Weight | None = None
    """Replaces the LoRA's default weight."""


def _once_each(choices: tuple[LoraChoice, ...]) -> tuple[LoraChoice, ...]:
    names = [choice.name for choice in choices]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"names {', '.join(twice)} more than once: one weight each")
    return choices


LoraChoices = Annotated[tuple[LoraChoice, ...], Strict(strict=False), AfterValidator(_once_each)]


class Lora(Entry):
    """One LoRA: its files, how strong it is and which words call it."""

    kind: LoraKind
    description: Text
    files: Annotated[dict[Name, SafetensorsFile], Field(min_length=1)]
    """Profile: file in the profile's `loras` folder."""
    sha256: dict[Name, Sha256 | None] = Field(default_factory=dict)
    """Profile: what the file must hash to; null where you bring the file yourself."""
    default_weight: Weight = 1.0
    trigger_words: Annotated[tuple[Text, ...], Strict(strict=False)] = ()
    """Put into the prompt whenever the LoRA is applied."""
    base: Text
    """The model that it was trained on."""
    licence: Text
    source: Text
    """Where it comes from, or how it was made."""

    @model_validator(mode="after")
    def _hashes_belong_to_files(self) -> Self:
        if stray := sorted(set(self.sha256) - set(self.files)):
            raise ValueError(f"sha256 names profiles that have no file here: {', '.join(stray)}")
        return self


class Combination(Entry):
    """Several LoRAs that are known to work together."""

    description: Text
    loras: Annotated[LoraChoices, Field(min_length=1)]


class LoraRegistry(Config):
    """Every LoRA that can be named."""

    loras: Table[Lora]
    combinations: Table[Combination] = Field(default_factory=dict)
