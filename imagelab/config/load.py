"""Load the four YAML files and report everything that is wrong with them at once."""

import os
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from imagelab.config.base import Config
from imagelab.config.characters import CharacterPresets
from imagelab.config.configs import Configs
from imagelab.config.controlnet import ControlNetConfig
from imagelab.config.cross_checks import check_references, check_sizes
from imagelab.config.faults import add_fault
from imagelab.config.loras import LoraRegistry
from imagelab.config.paths import configs_root
from imagelab.config.sdxl import SdxlConfig
from imagelab.config.yaml_file import Document, read_yaml
from imagelab.errors import ConfigError

SCHEMAS: dict[str, type[Config]] = {
    "sdxl_config": SdxlConfig,
    "lora_registry": LoraRegistry,
    "controlnet_config": ControlNetConfig,
    "character_presets": CharacterPresets,
}

ConfigT = TypeVar("ConfigT", bound=Config)


def load_configs(root: str | os.PathLike[str] | None = None) -> Configs:
    """Load and check the four YAML files of `root`, else $IMAGELAB_CONFIGS, else the project's configs/.

    Raises ConfigError with every problem of all four files.

    >>> load_configs().character("luca").trigger
    'luca'
    """
    folder = configs_root(root)
    documents = {file: read_yaml(folder / f"{file}.yaml", _shown(folder / f"{file}.yaml")) for file in SCHEMAS}
    sdxl = _validate(documents["sdxl_config"], SdxlConfig)
    lora_registry = _validate(documents["lora_registry"], LoraRegistry)
    controlnet = _validate(documents["controlnet_config"], ControlNetConfig)
    character_presets = _validate(documents["character_presets"], CharacterPresets)
    check_references(documents)
    check_sizes(documents["sdxl_config"])
    problems = tuple(problem for document in documents.values() for problem in document.problems)
    if problems or sdxl is None or lora_registry is None or controlnet is None or character_presets is None:
        raise ConfigError(problems)
    return Configs(
        root=folder,
        sdxl=sdxl,
        lora_registry=lora_registry,
        controlnet=controlnet,
        character_presets=character_presets,
    )


def _shown(path: Path) -> str:
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def _validate(document: Document, schema: type[ConfigT]) -> ConfigT | None:
    if document.data is None:  # nothing could be read: that is reported already
        return None
    try:
        return schema.model_validate(document.data)
    except ValidationError as error:
        for fault in error.errors(include_url=False):
            add_fault(document, schema, fault)
    return None
