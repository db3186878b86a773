"""Schema of `controlnet_config.yaml`: the five kinds of control."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field

from imagelab.config.base import Config, Entry, Fraction, Name, Positive, Source, name_entries
from imagelab.config.options import PREPROCESSOR_PARAMS, for_editors

ControlType = Literal["pose", "canny", "depth", "seg", "normal"]
PreprocessorName = Literal["openpose", "canny", "depth_anything", "segformer", "normal_bae"]


class Preprocessor(Config):
    """What makes a control map of a picture."""

    model_config = ConfigDict(json_schema_extra=for_editors(PREPROCESSOR_PARAMS, "name", "params"))

    name: PreprocessorName
    params: dict[Name, Any] = Field(default_factory=dict)  # which ones, the name decides: cross_checks


class Control(Entry):
    """One kind of control, and the model that obeys it in each profile."""

    union_mode: Annotated[int, Field(ge=0, le=7)]
    """`control_mode` of union checkpoints (xinsir's order); ignored by single-purpose ones."""
    models: dict[Name, Source | None]
    """Profile: model; null while the profile has none."""
    preprocessor: Preprocessor
    conditioning_scale: Annotated[float, Field(ge=0, le=2)]
    guidance_start: Fraction = 0.0
    """Fraction of the steps after which the control sets in."""
    guidance_end: Fraction = 1.0
    """Fraction of the steps after which it lets go."""
    vram_gib: Positive
    """Estimate of what the model adds."""


class ControlNetConfig(Config):
    """The kinds of control."""

    controls: Annotated[dict[ControlType, Control], AfterValidator(name_entries)]

    @property
    def by_name(self) -> dict[str, Control]:
        """Return `controls` for look-ups by any text."""
        return {str(name): control for name, control in self.controls.items()}
