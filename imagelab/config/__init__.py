"""The four YAML files of configs/: strict schemas, checks across files, look-ups by name."""

from imagelab.config.base import HubModel, Source, pick
from imagelab.config.characters import Character, CharacterPresets, Thresholds
from imagelab.config.configs import Configs
from imagelab.config.controlnet import Control, ControlNetConfig, Preprocessor
from imagelab.config.encoders import Encoder
from imagelab.config.face import FacePack
from imagelab.config.load import load_configs
from imagelab.config.loras import Combination, Lora, LoraChoice, LoraRegistry
from imagelab.config.paths import configs_root, models_root, project_root
from imagelab.config.sdxl import (
    DtypePolicy,
    MemoryLimit,
    MemoryPolicy,
    Profile,
    QualityPreset,
    Scheduler,
    SdxlConfig,
    SizeLimits,
    Style,
    Targets,
)

__all__ = [
    "Character",
    "CharacterPresets",
    "Combination",
    "Configs",
    "Control",
    "ControlNetConfig",
    "DtypePolicy",
    "Encoder",
    "FacePack",
    "HubModel",
    "Lora",
    "LoraChoice",
    "LoraRegistry",
    "MemoryLimit",
    "MemoryPolicy",
    "Preprocessor",
    "Profile",
    "QualityPreset",
    "Scheduler",
    "SdxlConfig",
    "SizeLimits",
    "Source",
    "Style",
    "Targets",
    "Thresholds",
    "configs_root",
    "load_configs",
    "models_root",
    "pick",
    "project_root",
]
