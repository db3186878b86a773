"""What each scheduler and each preprocessor can be told beyond its name."""

from collections.abc import Mapping
from types import NoneType
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, create_model

from imagelab.config.base import Config, Fraction, SidePx

# How the steps are spread: diffusers refuses two of these, or overlooks one.
SPACINGS = ("use_beta_sigmas", "use_exponential_sigmas", "use_karras_sigmas", "use_lu_lambdas")

PaletteName = Literal["ade20k", "puppet"]
DEFAULT_PALETTE: PaletteName = "ade20k"  # SDXL's ControlNets were trained with it

_Order = Annotated[int, Field(ge=1, le=3)]
_Joints = Annotated[int, Field(ge=1, le=17)]
_Steps = Annotated[int, Field(ge=1, le=50)]
_Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
_Threshold = Annotated[int, Field(ge=0, le=2040)]  # Canny's gradient of 8-bit pixels, |dx| + |dy|, ends there

# Left out is what diffusers takes but SDXL can't use: options of flow models, of models that draw pixels, and those
# that end UniPC in NaN.
_ALL: dict[str, Any] = {
    "beta_start": Fraction,
    "beta_end": Fraction,
    "beta_schedule": Literal["linear", "scaled_linear"],
    "prediction_type": Literal["epsilon", "v_prediction"],
    "rescale_betas_zero_snr": bool,
    "steps_offset": Annotated[int, Field(ge=0, le=1)],
    "timestep_spacing": Literal["leading", "linspace", "trailing"],
}
_SIGMAS: dict[str, Any] = {
    "final_sigmas_type": Literal["zero", "sigma_min"],
    "use_beta_sigmas": bool,
    "use_exponential_sigmas": bool,
    "use_karras_sigmas": bool,
}
# diffusers raises beyond: the steps that the distillation had
MAX_STEPS = {"LCMScheduler": 50, "TCDScheduler": 50}

# not rescale_betas_zero_snr, by which both divide by zero
_DISTILLED: dict[str, Any] = {name: kind for name, kind in _ALL.items() if name != "rescale_betas_zero_snr"} | {
    "clip_sample": bool,
    "set_alpha_to_one": bool,
    "timestep_scaling": Annotated[float, Field(gt=0, le=100)],
}

_SCHEDULERS: dict[str, dict[str, Any]] = {
    "DDIMScheduler": _ALL | {"clip_sample": bool, "set_alpha_to_one": bool},
    "DPMSolverMultistepScheduler": _ALL
    | _SIGMAS
    | {
        "algorithm_type": Literal["dpmsolver++", "sde-dpmsolver++"],
        "euler_at_final": bool,
        "lower_order_final": bool,
        "solver_order": _Order,
        "solver_type": Literal["midpoint", "heun"],
        "use_lu_lambdas": bool,
    },
    "EulerAncestralDiscreteScheduler": _ALL,
    "EulerDiscreteScheduler": _ALL | _SIGMAS | {"interpolation_type": Literal["linear", "log_linear"]},
    "LCMScheduler": _DISTILLED,
    "TCDScheduler": _DISTILLED,
    "UniPCMultistepScheduler": _ALL | _SIGMAS | {"solver_order": _Order},
}
_PREPROCESSORS: dict[str, dict[str, Any]] = {
    "vitpose": {"threshold": Fraction, "person_threshold": Fraction, "min_joints": _Joints},
    "canny": {"low_threshold": _Threshold, "high_threshold": _Threshold, "resolution": SidePx},
    "depth": {"resolution": SidePx},
    "segmentation": {"resolution": SidePx, "palette": PaletteName},
    "normals": {"resolution": SidePx, "flip_x": bool, "steps": _Steps, "seed": _Seed},
}
CANNY_THRESHOLDS = {"low_threshold": 100, "high_threshold": 200}  # where none are given, as in controlnet_aux
# The kind of control that each preprocessor makes maps for
MAP_TYPES = {"vitpose": "pose", "canny": "canny", "depth": "depth", "segmentation": "seg", "normals": "normal"}


class _Options(Config):
    # They have no source to look for docstrings in, and pydantic would search its own: 0.08 s for all of them.
    model_config = ConfigDict(use_attribute_docstrings=False)


def _schema(name: str, kinds: Mapping[str, Any]) -> type[Config]:
    """Make a schema of options that may all be left out."""
    fields: dict[str, Any] = {key: (kind, Field(default_factory=NoneType)) for key, kind in kinds.items()}
    return create_model(name, __base__=_Options, **fields)


SCHEDULER_KWARGS = {name: _schema(name, kinds) for name, kinds in _SCHEDULERS.items()}
PREPROCESSOR_PARAMS = {name: _schema(name, kinds) for name, kinds in _PREPROCESSORS.items()}


def for_editors(schemas: Mapping[str, type[Config]], name_key: str, options_key: str) -> dict[str, Any]:
    """Say in JSON schema that the options under one key depend on the name under another."""
    return {
        "allOf": [
            {
                "if": {"properties": {name_key: {"const": name}}},
                "then": {"properties": {options_key: schema.model_json_schema()}},
            }
            for name, schema in schemas.items()
        ]
    }
