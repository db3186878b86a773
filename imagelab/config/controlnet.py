"""Schema of `controlnet_config.yaml`: the five kinds of control."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field

from imagelab.config.base import Config, Entry, Fraction, Name, Positive, RelativePath, Source, name_entries
from imagelab.config.options import PREPROCESSOR_PARAMS, for_editors

ControlType = Literal["pose", "canny", "depth", "seg", "normal"]
PreprocessorName = Literal["vitpose", "canny", "depth", "segmentation", "normals"]


class Preprocessor(Config):
    """What makes a control map of a picture."""

    model_config = ConfigDict(json_schema_extra=for_editors(PREPROCESSOR_PARAMS, "name", "params"))

    name: PreprocessorName
    model: Source | None = None
    """Folder of the estimator; canny needs none."""
    detector: Source | None = None
    """Folder of what finds people, for vitpose; without one the whole picture is taken for one person."""
    params: dict[Name, Any] = Field(default_factory=dict)  # which ones, the name decides: cross_checks


class Control(Entry):
    """One kind of control, and the models that make its maps and obey them in each profile."""

    union_mode: Annotated[int, Field(ge=0, le=7)]
    """`control_mode` of union checkpoints (xinsir's order); ignored by dedicated ones."""
    models: dict[Name, Source | None]
    """Profile: dedicated ControlNet; null where the profile has none and the union one is used."""
    preprocessors: dict[Name, Preprocessor | None]
    """Profile: what makes its maps; null where the profile takes ready maps only."""
    conditioning_scale: Annotated[float, Field(ge=0, le=2)]
    guidance_start: Fraction = 0.0
    """Fraction of the steps after which the control sets in."""
    guidance_end: Fraction = 1.0
    """Fraction of the steps after which it lets go."""
    vram_gib: Positive
    """Estimate of what a dedicated model of SDXL's size adds in float16."""


class ControlNetConfig(Config):
    """The kinds of control."""

    union: dict[Name, Source | None] = Field(default_factory=dict)
    """Profile: one ControlNet for all kinds, which serves those without one of their own."""
    union_vram_gib: Positive = 2.4
    """Estimate of what a union model of SDXL's size adds in float16."""
    resident: Annotated[int, Field(ge=1, le=8)] = 1
    """ControlNets that stay in memory, those of the last picture counted in; more only where it needs more."""
    cached_maps: Annotated[int, Field(ge=0, le=1000)] = 32
    """Control maps that are kept in memory, by picture and parameters."""
    map_folder: RelativePath | None = None
    """Folder in the project where control maps are kept as well; null: in memory only."""
    controls: Annotated[dict[ControlType, Control], AfterValidator(name_entries)]

    @property
    def by_name(self) -> dict[str, Control]:
        """Return `controls` for look-ups by any text."""
        return {str(name): control for name, control in self.controls.items()}
