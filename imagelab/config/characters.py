"""Schema of `character_presets.yaml`: who is drawn, and when a picture counts as them."""

from typing import Annotated

from pydantic import Field

from imagelab.config.base import Config, Entry, Fraction, Name, Source, Table, Text
from imagelab.config.loras import LoraChoices


class Thresholds(Config):
    """When a generated face is accepted."""

    consistency: Annotated[float, Field(ge=-1, le=1)]
    """Cosine similarity to the references from which one picture is consistent."""
    batch: Annotated[float, Field(ge=-1, le=1)]
    """The same for batches, which can afford to be choosier."""
    detection: Fraction
    """Detector score below which a face is too uncertain to compare."""
    min_face_px: Annotated[int, Field(ge=8, le=1024)]
    """Shorter side of a face's box below which it is too small to compare."""
    min_sharpness: Annotated[float, Field(gt=0)] | None = None
    """Sharpness, as a check's table has it, below which a face is too blurred to compare; null: it may be."""
    max_yaw_degrees: Annotated[float, Field(gt=0, le=90)] | None = None
    """How far a head may be turned to either side to be compared; null: as far as the detector finds it."""
    max_pitch_degrees: Annotated[float, Field(gt=0, le=90)] | None = None
    """The same for up and down."""


class Character(Entry):
    """A character: how to ask for them, and how to recognise them."""

    description: Text
    """Prompt text: what they look like."""
    trigger: Text
    """The word that calls them; one of their LoRA's trigger words."""
    loras: LoraChoices = ()
    negative_prompt: Name | None = None
    """A key of `negative_prompts` in sdxl_config.yaml; null for the profile's own."""
    references: dict[Name, Source] = Field(default_factory=dict)
    """Profile: folder of pictures that show them."""
    scenes: dict[Name, Text] = Field(default_factory=dict)
    """Scene preset: its prompt text, which a scene description of just that name stands for."""
    thresholds: Thresholds


class CharacterPresets(Config):
    """Every character that can be named."""

    characters: Annotated[Table[Character], Field(min_length=1)]
