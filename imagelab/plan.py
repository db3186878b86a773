"""From a request to everything that drawing it takes, checked before any model is loaded."""

import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imagelab.checks import check_number, check_whole
from imagelab.config import Character, Combination, Configs, Lora, Profile, QualityPreset, Scheduler, Style, pick
from imagelab.controls import PlannedControl, plan_controls
from imagelab.errors import InvalidValueError, shorten
from imagelab.models import file_sha256, resolve_lora
from imagelab.prompts import Prompt, build_prompt, parse_weighted
from imagelab.results import GenerationRequest, LoraRecord, LoraUse

MAX_SEED = 2**63 - 1
_MAX_TEXT = 8000  # characters, about 25 chunks of 75 tokens
# (argument, smallest, largest), as the schemas of configs/ have them
_STEPS = ("steps", 1, 150)
_GUIDANCE = ("guidance_scale", 0.0, 30.0)
_LORA_WEIGHT = ("weight", -2.0, 2.0)
_MAX_PROMPT_WEIGHT = 10.0  # of a phrase in brackets; far beyond it the latents overflow


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedLora:
    """A LoRA that will be applied, and its file."""

    path: Path
    record: LoraRecord


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """A request with every choice made and every name looked up."""

    request: GenerationRequest
    profile: Profile
    preset: QualityPreset
    scheduler: Scheduler
    prompt: Prompt
    loras: tuple[PlannedLora, ...]
    seed: int
    width: int  # px
    height: int  # px
    steps: int
    guidance_scale: float
    controls: tuple[PlannedControl, ...]


def plan_generation(configs: Configs, profile: Profile, request: GenerationRequest) -> Plan:
    """Resolve a request against the configuration.

    A scene description that is the name of one of the character's scene presets stands for the preset's text, and the
    name of a combination among the additional LoRAs for its LoRAs: their weights are multiplied by the given one.

    Raises UnknownNameError, InvalidValueError, ImageFileError, ProfileError, ModelNotFoundError or ModelFileError.
    """
    character = None if request.character is None else configs.character(request.character)
    preset = profile.preset(request.quality_preset)
    style = None if request.style is None else configs.style(request.style)
    uses = _lora_uses(configs, character, request)
    width, height = _size_px(profile, preset, request)
    guidance = preset.guidance_scale if request.guidance_scale is None else request.guidance_scale
    return Plan(
        request=request,
        profile=profile,
        preset=preset,
        scheduler=configs.scheduler(preset.scheduler if request.scheduler is None else request.scheduler),
        prompt=_prompt(configs, profile, character, style, preset, uses, request),
        loras=tuple(_planned(configs, profile, use) for use in uses),
        seed=check_seed(request.seed),
        width=width,
        height=height,
        steps=preset.steps if request.steps is None else check_whole(request.steps, *_STEPS),
        guidance_scale=check_number(guidance, *_GUIDANCE),
        controls=plan_controls(configs, profile, request.controls),
    )


def check_seed(seed: object, name: str = "seed") -> int:
    """Return the seed, or a random one for None; raises InvalidValueError for what isn't one."""
    return secrets.randbelow(2**32) if seed is None else check_whole(seed, name, 0, MAX_SEED)


def lora_uses(loras: Iterable[LoraUse | Mapping[str, Any]]) -> tuple[LoraUse, ...]:
    """Accept `{"name": ..., "weight": ...}` for LoraUse; raises InvalidValueError for anything else."""
    if isinstance(loras, str | Mapping):
        raise InvalidValueError("additional_loras", loras, 'a list like [{"name": "luca", "weight": 0.7}]')
    return tuple(use if isinstance(use, LoraUse) else LoraUse.from_dict(use) for use in loras)


def _lora_uses(configs: Configs, character: Character | None, request: GenerationRequest) -> tuple[LoraUse, ...]:
    """Return the LoRAs to apply; what the request asks for replaces the character's own of the same name."""
    asked = [use for given in lora_uses(request.additional_loras) for use in _members(configs, given)]
    names = [use.name for use in asked]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InvalidValueError("additional_loras", twice[0], "named once, with one weight")
    own = character.loras if character and request.use_character_loras else ()
    uses = {choice.name: LoraUse(name=choice.name, weight=choice.weight) for choice in own}
    uses |= {use.name: use for use in asked}
    resolved = [_with_weights(configs, use) for use in uses.values()]
    return tuple(use for use in resolved if use.weight or use.text_encoder_weight)  # weight 0 turns one off


def _members(configs: Configs, use: LoraUse) -> tuple[LoraUse, ...]:
    """Return the LoRAs that a name stands for: one, or those of a combination, their weights times the given one."""
    named: dict[str, Lora | Combination] = {**configs.lora_registry.loras, **configs.lora_registry.combinations}
    if isinstance(pick("LoRA", named, use.name), Lora):
        return (use,)
    factor = 1.0 if use.weight is None else check_number(use.weight, *_LORA_WEIGHT)
    for_text = factor if use.text_encoder_weight is None else check_number(use.text_encoder_weight, *_LORA_WEIGHT)
    members = []
    for lora in configs.combination(use.name).loras:
        own = configs.lora(lora.name).default_weight if lora.weight is None else lora.weight
        members.append(LoraUse(name=lora.name, weight=factor * own, text_encoder_weight=for_text * own))
    return tuple(members)


def _with_weights(configs: Configs, use: LoraUse) -> LoraUse:
    lora = configs.lora(use.name)
    weight = check_number(lora.default_weight if use.weight is None else use.weight, *_LORA_WEIGHT)
    for_text = weight if use.text_encoder_weight is None else check_number(use.text_encoder_weight, *_LORA_WEIGHT)
    return LoraUse(name=use.name, weight=weight, text_encoder_weight=for_text)


def _planned(configs: Configs, profile: Profile, use: LoraUse) -> PlannedLora:
    path = resolve_lora(configs, use.name, profile.name)
    assert use.weight is not None and use.text_encoder_weight is not None  # noqa: S101, PT018  _with_weights
    record = LoraRecord(
        name=use.name, weight=use.weight, text_encoder_weight=use.text_encoder_weight, sha256=file_sha256(path)
    )
    return PlannedLora(path=path, record=record)


def _prompt(
    configs: Configs,
    profile: Profile,
    character: Character | None,
    style: Style | None,
    preset: QualityPreset,
    uses: tuple[LoraUse, ...],
    request: GenerationRequest,
) -> Prompt:
    scene = _text(request.scene_description, "scene_description")
    if character and scene in character.scenes:
        scene = configs.scene(character.name, scene)
    if request.negative_prompt is None:
        template = (character and character.negative_prompt) or profile.negative_prompt
        negatives = [configs.negative_prompt(template), style.negative_prompt if style else ""]
    else:
        negatives = [_text(request.negative_prompt, "negative_prompt")]
    words = [word for use in uses for word in configs.lora(use.name).trigger_words]
    prompt = build_prompt(
        triggers=[character.trigger, *words] if character else words,
        description=character.description if character else "",
        scene=scene,
        style=style.prompt if style else "",
        quality_words=preset.quality_words,
        negatives=negatives,
    )
    for phrase, weight in (*parse_weighted(prompt.positive), *parse_weighted(prompt.negative)):
        if not abs(weight) <= _MAX_PROMPT_WEIGHT:
            raise InvalidValueError(f"weight of {shorten(phrase)}", weight, f"at most {_MAX_PROMPT_WEIGHT:g}")
    return prompt


def _size_px(profile: Profile, preset: QualityPreset, request: GenerationRequest) -> tuple[int, int]:
    width, height = profile.size_px(preset.size)
    width = width if request.width is None else request.width
    height = height if request.height is None else request.height
    profile.check_size(width, height)
    return width, height


def _text(value: object, name: str) -> str:
    if not isinstance(value, str) or "\0" in value or len(value) > _MAX_TEXT:
        raise InvalidValueError(name, value, f"text of at most {_MAX_TEXT} characters")
    if not value.isascii() and value.encode(errors="ignore").decode() != value:
        raise InvalidValueError(name, value, "text that can be written as UTF-8")  # half of a surrogate pair
    return value
