"""Fooocus's `parameters`: JSON where `fooocus_scheme` says `fooocus`, else infotext with keys of its own."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from imagelab.metadata.a1111 import read_infotext
from imagelab.metadata.lenient import file_stem, read_mapping, read_size, to_list, to_number, to_text, to_whole
from imagelab.metadata.sampler_names import sampler_name, schedule_name
from imagelab.metadata.values import LoraMention, PictureMetadata

_SHOWN = ("performance", "styles", "sharpness", "adm_guidance", "refiner_model", "refiner_switch", "vae")


def read_fooocus(text: str) -> PictureMetadata:
    """Return what the text says in either scheme; an empty reading for other texts."""
    data = read_mapping(text)
    if not data:
        return _read_scheme_a1111(text)
    if "base_model" not in data:  # other programs' JSON, of which there is much, has a prompt too
        return PictureMetadata()
    return PictureMetadata(
        writer="fooocus",
        version=to_text(data.get("version")),
        prompt=to_text(data.get("prompt")),
        negative_prompt=to_text(data.get("negative_prompt")),
        seed=to_whole(data.get("seed")),
        steps=to_whole(data.get("steps")),
        sampler=sampler_name(to_text(data.get("sampler"))),
        schedule=schedule_name(to_text(data.get("scheduler"))),
        cfg=to_number(data.get("guidance_scale")),
        size=read_size(data.get("resolution")),
        model=file_stem(to_text(data.get("base_model"))),
        model_hash=to_text(data.get("base_model_hash")),
        loras=_loras(data),
        settings={key: str(data[key]) for key in _SHOWN if isinstance(data.get(key), int | float | str)},
    )


def _loras(data: Mapping[str, Any]) -> tuple[LoraMention, ...]:
    """Read `loras: [[name, weight, hash], ...]`, or `lora_combined_1: "name : weight"` where there is no such list."""
    listed = [item for item in to_list(data.get("loras")) if isinstance(item, list) and len(item) == 3]
    if not listed:
        combined = [value for key, value in data.items() if key.startswith("lora_combined_") and isinstance(value, str)]
        listed = [[*value.split(" : ")[-2:], None] for value in combined if " : " in value]
    return tuple(_lora(*item) for item in listed)


def _lora(name: object, weight: object, value: object) -> LoraMention:
    number = to_number(weight)
    return LoraMention(name=file_stem(str(name)) or "", weight=number, text_encoder_weight=number, hash=to_text(value))


def _read_scheme_a1111(text: str) -> PictureMetadata:
    read = read_infotext(text)
    if read.writer is None:
        return read
    given = read.settings
    pairs = (item.partition(":") for item in given.get("Lora weights", "").split(","))
    weights = {name.strip(): to_number(weight) for name, _, weight in pairs}
    loras = tuple(
        replace(lora, weight=weights.get(lora.name), text_encoder_weight=weights.get(lora.name)) for lora in read.loras
    )
    return replace(
        read,
        writer="fooocus",
        prompt=given.get("Raw prompt", read.prompt),  # as it was typed; the other one holds the styles' words too
        negative_prompt=given.get("Raw negative prompt", read.negative_prompt),
        schedule=schedule_name(given.get("Scheduler")) or read.schedule,
        loras=loras,
    )
