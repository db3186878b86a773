"""InvokeAI's `invokeai_metadata`: the fields of its core metadata as one JSON object."""

from collections.abc import Mapping
from typing import Any

from imagelab.metadata.lenient import read_mapping, to_list, to_mapping, to_number, to_size, to_text, to_whole
from imagelab.metadata.sampler_names import split_sampler
from imagelab.metadata.values import ControlMention, LoraMention, PictureMetadata

_SHOWN = ("generation_mode", "rand_device", "clip_skip", "strength", "positive_style_prompt", "negative_style_prompt")


def read_invokeai(text: str) -> PictureMetadata:
    """Return what the JSON says; an empty reading for what isn't a JSON object."""
    data = read_mapping(text)
    if not data:
        return PictureMetadata()
    scheduler = to_text(data.get("scheduler"))
    sampler, schedule = split_sampler(scheduler) if scheduler else (None, None)
    return PictureMetadata(
        writer="invokeai",
        version=to_text(data.get("app_version")),
        prompt=to_text(data.get("positive_prompt")),
        negative_prompt=to_text(data.get("negative_prompt")),
        seed=to_whole(data.get("seed")),
        steps=to_whole(data.get("steps")),
        sampler=sampler,
        schedule=schedule,
        cfg=to_number(data.get("cfg_scale")),
        size=to_size(data.get("width"), data.get("height")),
        model=_name(data.get("model")),
        model_hash=to_text(to_mapping(data.get("model")).get("hash")),
        loras=tuple(_lora(to_mapping(item)) for item in to_list(data.get("loras"))),
        controls=tuple(_control(to_mapping(item)) for item in to_list(data.get("controlnets"))),
        settings={key: str(data[key]) for key in _SHOWN if isinstance(data.get(key), int | float | str)},
    )


def _name(model: object) -> str | None:
    """Return a model's name, which versions before 4 called otherwise."""
    described = to_mapping(model)
    return to_text(described.get("name", described.get("model_name")))


def _lora(item: Mapping[str, Any]) -> LoraMention:
    model = item.get("model", item.get("lora"))  # the latter before 4
    weight = to_number(item.get("weight"))
    value = to_text(to_mapping(model).get("hash"))
    return LoraMention(name=_name(model) or "", weight=weight, text_encoder_weight=weight, hash=value)


def _control(item: Mapping[str, Any]) -> ControlMention:
    return ControlMention(
        model=_name(item.get("control_model")),
        weight=to_number(item.get("control_weight")),
        start=to_number(item.get("begin_step_percent")),
        end=to_number(item.get("end_step_percent")),
    )
