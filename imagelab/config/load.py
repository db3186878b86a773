"""Load the four YAML files and report everything that is wrong with them at once."""

import os
from pathlib import Path

from imagelab.config.base import Config
from imagelab.config.characters import CharacterPresets
from imagelab.config.configs import Configs
from imagelab.config.controlnet import ControlNetConfig
from imagelab.config.cross_checks import check_across
from imagelab.config.faults import ConfigT, validate
from imagelab.config.loras import LoraRegistry
from imagelab.config.paths import configs_root
from imagelab.config.sdxl import SdxlConfig
from imagelab.config.yaml_file import Document, read_yaml
from imagelab.errors import ConfigError, Problem

SCHEMAS: dict[str, type[Config]] = {
    "sdxl_config": SdxlConfig,
    "lora_registry": LoraRegistry,
    "controlnet_config": ControlNetConfig,
    "character_presets": CharacterPresets,
}


def load_configs(root: str | os.PathLike[str] | None = None) -> Configs:
    """Load and check the four YAML files of `root`, else $IMAGELAB_CONFIGS, else the project's configs/.

    Raises ConfigError with every problem of all four files.

    >>> load_configs().character("luca").trigger
    'luca'
    """
    folder = configs_root(root)
    documents = {file: _read(folder, file) for file in SCHEMAS}
    sdxl = _validate(documents["sdxl_config"], SdxlConfig)
    lora_registry = _validate(documents["lora_registry"], LoraRegistry)
    controlnet = _validate(documents["controlnet_config"], ControlNetConfig)
    character_presets = _validate(documents["character_presets"], CharacterPresets)
    check_across(documents)
    problems = [problem for document in documents.values() for problem in document.problems]
    for file, document in documents.items():
        if document.problems and document.data is not None:
            problems += _problems_of_duplicates(folder, file)
    if problems or sdxl is None or lora_registry is None or controlnet is None or character_presets is None:
        raise ConfigError(tuple(dict.fromkeys(problems)))
    return Configs(
        root=folder,
        sdxl=sdxl,
        lora_registry=lora_registry,
        controlnet=controlnet,
        character_presets=character_presets,
    )


def _read(folder: Path, file: str, *, last: bool = False) -> Document:
    path, here = folder / f"{file}.yaml", Path.cwd()
    return read_yaml(path, str(path.relative_to(here) if path.is_relative_to(here) else path), last=last)


def _validate(document: Document, schema: type[ConfigT]) -> ConfigT | None:
    # Of no data it is reported already that nothing could be read.
    return None if document.data is None else validate(document, schema, document.data)


def _problems_of_duplicates(folder: Path, file: str) -> list[Problem]:
    """Return what the first reading saw and, where a key is given twice, also what is wrong with its last value."""
    document = _read(folder, file, last=True)
    _validate(document, SCHEMAS[file])
    return document.problems
