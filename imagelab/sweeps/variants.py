"""Which pictures a sweep has: the variants of a run, from a file's axes or from LoRAs and their weights."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

from imagelab.batch import MAX_IMAGES
from imagelab.checks import check_number
from imagelab.composition import compose_loras
from imagelab.config import Configs, Profile
from imagelab.config.sweeps import SweepBase, SweepConfig
from imagelab.controls import control_uses
from imagelab.errors import InvalidValueError
from imagelab.plan import check_seed
from imagelab.results import GenerationRequest, LoraUse
from imagelab.runs import BatchRequest, Variant
from imagelab.similarity import check_threshold

_TOGETHER = " + "
_PLAIN = {"scene": "scene_description"}  # an axis whose name isn't the request's field


def sweep_request(sweep: SweepConfig) -> BatchRequest:
    """Return the run that draws a sweep: what `BatchImageGenerator.run` and `plan` take.

    Raises InvalidValueError for more pictures than a run can have, and for a control's picture that can't be one.
    """
    base = _base_request(sweep.base)
    variants = [
        Variant(picture=_picture(base, settings, seeds[0]), seeds=seeds, settings=settings)
        for settings, seeds in _points(sweep)
    ]
    return _request(base, variants, enable_consistency_check=sweep.compare_faces, threshold=sweep.threshold)


def lora_request(
    configs: Configs,
    profile: Profile,
    picture: GenerationRequest,
    loras: Iterable[str],
    weights: Sequence[float],
    seeds: Sequence[int],
    threshold: float | None = None,
) -> BatchRequest:
    """Return the run that draws each LoRA alone, then all of them together, at each weight from each seed.

    Of the picture's other LoRAs, the character's own included, all stay as they are. The LoRAs come in the order of
    their names, each once, however they are given. Settings are loras and weight; beside weight 0, which is drawn in
    any case, `picture_changes` can say what the others do.

    Raises UnknownNameError for what isn't the name of one LoRA, InvalidValueError, and what `compose_loras` raises.
    """
    names = sorted({*loras})
    for name in names:
        configs.lora(name)
    groups = [(name,) for name in names] + ([tuple(names)] if len(names) > 1 else [])
    checked = [check_number(weight, "weights", -2.0, 2.0) for weight in weights]
    checked = checked if 0.0 in checked else [0.0, *checked]
    drawn = tuple(check_seed(seed, "seeds") for seed in seeds)
    if not groups or not drawn:
        raise InvalidValueError("seeds" if groups else "loras", (), "at least one")
    variants = [
        Variant(
            picture=_with_loras(_without(configs, profile, picture, group), group, weight, drawn[0]),
            seeds=drawn,
            settings={"loras": _TOGETHER.join(group), "weight": weight},
        )
        for group in groups
        for weight in dict.fromkeys(checked)
    ]
    return _request(replace(picture, seed=drawn[0]), variants, enable_consistency_check=True, threshold=threshold)


def _request(
    base: GenerationRequest, variants: Sequence[Variant], *, enable_consistency_check: bool, threshold: float | None
) -> BatchRequest:
    count = sum(len(variant.seeds) for variant in variants)
    if count > MAX_IMAGES:
        raise InvalidValueError("number of pictures", count, f"at most {MAX_IMAGES}; sweep along fewer values")
    return BatchRequest(
        picture=base,
        num_images=count,
        enable_consistency_check=enable_consistency_check,
        threshold=None if threshold is None else check_threshold(threshold),
        save_rejected=True,  # what a setting does is to be seen
        swept=tuple(variants),
    )


def _points(sweep: SweepConfig) -> list[tuple[dict[str, Any], tuple[int, ...]]]:
    """Return the settings of each variant, and its seeds."""
    axes = sweep.axes.by_name()
    seeds: tuple[Any, ...] = axes.pop("seed", (sweep.base.seed,))
    if sweep.mode == "full" or not axes:
        return [(_settings(axes, values), seeds) for values in product(*axes.values())]
    rows = list(zip(*axes.values(), strict=True))
    paired = seeds if sweep.axes.seeds else seeds * len(rows)
    return [(_settings(axes, values), (seed,)) for values, seed in zip(rows, paired, strict=True)]


def _settings(axes: Mapping[str, object], values: Sequence[object]) -> dict[str, Any]:
    shown = (f"{value[0]}×{value[1]}" if isinstance(value, tuple) else value for value in values)
    return dict(zip(axes, shown, strict=True))


def _base_request(base: SweepBase) -> GenerationRequest:
    width, height = base.size or (None, None)
    return GenerationRequest(
        character=base.character,
        scene_description=base.scene,
        quality_preset=base.quality_preset,
        style=base.style,
        seed=base.seed,
        negative_prompt=base.negative_prompt,
        width=width,
        height=height,
        steps=base.steps,
        guidance_scale=base.guidance_scale,
        guidance_start=base.guidance_start,
        guidance_stop=base.guidance_stop,
        scheduler=base.scheduler,
        additional_loras=tuple(LoraUse(**choice.model_dump()) for choice in base.loras),
        use_character_loras=base.use_character_loras,
        controls=control_uses([control.model_dump() for control in base.controls]),
    )


def _picture(base: GenerationRequest, settings: Mapping[str, Any], seed: int) -> GenerationRequest:
    """Return the base with settings, each of which has the name of its axis."""
    given: dict[str, Any] = {"seed": seed}
    loras = {use.name: use for use in base.additional_loras}
    controls = {use.type: use for use in base.controls}
    for axis, value in settings.items():
        kind, _, name = axis.partition(" ")
        if kind == "lora":
            loras[name] = replace(loras.get(name, LoraUse(name=name)), weight=value)
        elif kind == "control":
            controls[name] = replace(controls[name], scale=value)
        elif axis == "size":
            given["width"], given["height"] = map(int, value.split("×"))
        else:
            given[_PLAIN.get(axis, axis)] = value
    given["controls"] = tuple(controls.get(use.type, use) for use in base.controls)
    return replace(base, **given, additional_loras=tuple(loras.values()))


def _without(configs: Configs, profile: Profile, picture: GenerationRequest, group: Sequence[str]) -> GenerationRequest:
    """Return the request with all LoRAs but those of the group, each named."""
    records = (lora.record for lora in compose_loras(configs, profile, picture))
    others = tuple(record.to_use() for record in records if record.name not in group)
    return replace(picture, additional_loras=others, use_character_loras=False)


def _with_loras(picture: GenerationRequest, group: Sequence[str], weight: float, seed: int) -> GenerationRequest:
    added = tuple(LoraUse(name=name, weight=weight) for name in group)
    return replace(picture, additional_loras=(*picture.additional_loras, *added), seed=seed)
