"""SwarmUI's `parameters`: JSON with `sui_image_params`, whose values may all be texts."""

from collections.abc import Mapping
from typing import Any

from imagelab.metadata.lenient import (
    file_stem,
    read_mapping,
    to_list,
    to_mapping,
    to_number,
    to_size,
    to_text,
    to_whole,
)
from imagelab.metadata.sampler_names import sampler_name, schedule_name
from imagelab.metadata.values import ControlMention, LoraMention, PictureMetadata

_CONTROLS = ("", "two", "three")  # what the names of the settings of each ControlNet begin with


def read_swarmui(text: str) -> PictureMetadata:
    """Return what the JSON says; an empty reading for what isn't SwarmUI's."""
    data = read_mapping(text)
    given = to_mapping(data.get("sui_image_params"))
    if not given:
        return PictureMetadata()
    hashes = _hashes(data)
    model = file_stem(to_text(given.get("model")))
    return PictureMetadata(
        writer="swarmui",
        version=to_text(given.get("swarm_version")),
        prompt=to_text(given.get("prompt")),
        negative_prompt=to_text(given.get("negativeprompt")),
        seed=to_whole(given.get("seed")),
        steps=to_whole(given.get("steps")),
        sampler=sampler_name(to_text(given.get("sampler"))),
        schedule=schedule_name(to_text(given.get("scheduler"))),
        cfg=to_number(given.get("cfgscale")),
        size=to_size(given.get("width"), given.get("height")),
        model=model,
        model_hash=hashes.get(model or ""),
        loras=_loras(given, hashes),
        controls=_controls(given),
        settings={key: str(value) for key, value in given.items() if not isinstance(value, list | dict)},
    )


def _hashes(data: Mapping[str, Any]) -> dict[str, str]:
    """Return {name of a model: its hash}; Swarm's is of the tensors, as AutoV3, with 0x before it."""
    models = (to_mapping(item) for item in to_list(data.get("sui_models")))
    return {
        str(file_stem(model["name"])): model["hash"].removeprefix("0x")
        for model in models
        if isinstance(model.get("name"), str) and isinstance(model.get("hash"), str)
    }


def _loras(given: Mapping[str, Any], hashes: Mapping[str, str]) -> tuple[LoraMention, ...]:
    names = [file_stem(str(name).strip()) or "" for name in _items(given.get("loras"))]
    weights = [to_number(weight) for weight in _items(given.get("loraweights"))]
    weights += [1.0] * (len(names) - len(weights))
    return tuple(
        LoraMention(name=name, weight=weight, text_encoder_weight=weight, hash=hashes.get(name))
        for name, weight in zip(names, weights, strict=False)
    )


def _items(value: object) -> list[Any]:
    """Read a list, or a text with commas that stands for one."""
    return value.split(",") if isinstance(value, str) and value else to_list(value)


def _controls(given: Mapping[str, Any]) -> tuple[ControlMention, ...]:
    stems = [f"controlnet{which}" for which in _CONTROLS if f"controlnet{which}model" in given]
    return tuple(
        ControlMention(
            model=file_stem(to_text(given[f"{stem}model"])),
            module=to_text(given.get(f"{stem}preprocessor")),
            weight=to_number(given.get(f"{stem}strength")),
            start=to_number(given.get(f"{stem}start")),
            end=to_number(given.get(f"{stem}end")),
        )
        for stem in stems
    )
