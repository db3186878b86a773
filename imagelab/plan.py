"""From a request to everything that drawing it takes, checked before any model is loaded."""

import secrets
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import islice

from imagelab.checks import check_number, check_whole
from imagelab.composition import PlannedLora, check_step_ranges, compose_loras, lora_uses
from imagelab.config import Character, Configs, Profile, QualityPreset, Scheduler, Style
from imagelab.controls import PlannedControl, plan_controls
from imagelab.errors import InvalidValueError, shorten
from imagelab.prompt_tags import refuse_lora_tags, take_lora_tags
from imagelab.prompts import Prompt, build_prompt, parse_weighted
from imagelab.results import GenerationRequest

MAX_SEED = 2**63 - 1
MAX_TOGETHER = 64  # pictures in one pass; far beyond what a GPU gains by
_MAX_TEXT = 8000  # characters, about 25 chunks of 75 tokens
# (argument, smallest, largest), as the schemas of configs/ have them
_STEPS = ("steps", 1, 150)
_GUIDANCE = ("guidance_scale", 0.0, 30.0)
_MAX_PROMPT_WEIGHT = 10.0  # of a phrase in brackets; far beyond it the latents overflow


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """A request with every choice made and every name looked up."""

    request: GenerationRequest  # with the LoRAs that its prompt named among the additional ones
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
    guidance_start: float  # fractions of the steps: a step in between is guided
    guidance_stop: float
    controls: tuple[PlannedControl, ...]


def plan_generation(configs: Configs, profile: Profile, request: GenerationRequest) -> Plan:
    """Resolve a request against the configuration.

    A scene description that is the name of one of the character's scene presets stands for the preset's text, and the
    name of a combination among the additional LoRAs for its LoRAs: their weights are multiplied by the given one. LoRA
    tags in the scene description are taken out of it and become additional LoRAs, each of which may be named once.

    Raises UnknownNameError, InvalidValueError, ImageFileError, ProfileError, ModelNotFoundError or ModelFileError.
    """
    request = _without_tags(request)
    character = None if request.character is None else configs.character(request.character)
    preset = profile.preset(request.quality_preset)
    style = None if request.style is None else configs.style(request.style)
    steps = preset.steps if request.steps is None else check_whole(request.steps, *_STEPS)
    # By name: in another order their trigger words would make another prompt.
    loras = tuple(sorted(compose_loras(configs, profile, request), key=lambda lora: lora.record.name))
    check_step_ranges(loras, steps)
    width, height = _size_px(profile, preset, request)
    start, stop = _guided_steps(request, steps)
    guidance = preset.guidance_scale if request.guidance_scale is None else request.guidance_scale
    guidance = check_number(guidance, *_GUIDANCE)
    scheduler = configs.scheduler(preset.scheduler if request.scheduler is None else request.scheduler)
    _check_limits(preset, scheduler, steps, guidance)
    return Plan(
        request=request,
        profile=profile,
        preset=preset,
        scheduler=scheduler,
        prompt=_prompt(configs, profile, character, style, preset, loras, request),
        loras=loras,
        seed=check_seed(request.seed),
        width=width,
        height=height,
        steps=steps,
        guidance_scale=guidance,
        guidance_start=start,
        guidance_stop=stop,
        controls=plan_controls(configs, profile, request.controls, steps),
    )


def check_seed(seed: object, name: str = "seed") -> int:
    """Return the seed, or a random one for None; raises InvalidValueError for what isn't one."""
    return secrets.randbelow(2**32) if seed is None else check_whole(seed, name, 0, MAX_SEED)


def check_seeds(seeds: Iterable[object]) -> tuple[int, ...]:
    """Return the seeds of pictures that are drawn together; raises InvalidValueError for what are none, or too many."""
    expected = f"a list of 1 to {MAX_TOGETHER} seeds"
    if isinstance(seeds, str) or not isinstance(seeds, Iterable):
        raise InvalidValueError("seeds", seeds, expected)
    given = tuple(islice(seeds, MAX_TOGETHER + 1))
    if not 1 <= len(given) <= MAX_TOGETHER:
        raise InvalidValueError("seeds", seeds, expected)
    return tuple(check_seed(seed, "seeds") for seed in given)


def _without_tags(request: GenerationRequest) -> GenerationRequest:
    scene, tagged = take_lora_tags(_text(request.scene_description, "scene_description"))
    loras = (*lora_uses(request.additional_loras), *tagged)
    return replace(request, scene_description=scene, additional_loras=loras)


def _prompt(
    configs: Configs,
    profile: Profile,
    character: Character | None,
    style: Style | None,
    preset: QualityPreset,
    loras: tuple[PlannedLora, ...],
    request: GenerationRequest,
) -> Prompt:
    scene = request.scene_description
    if character and scene in character.scenes:
        scene = configs.scene(character.name, scene)
    if request.negative_prompt is None:
        template = (character and character.negative_prompt) or profile.negative_prompt
        negatives = [configs.negative_prompt(template), style.negative_prompt if style else ""]
    else:
        negatives = [_text(request.negative_prompt, "negative_prompt")]
    words = [word for lora in loras for word in configs.lora(lora.record.name).trigger_words]
    prompt = build_prompt(
        triggers=[character.trigger, *words] if character else words,
        description=character.description if character else "",
        scene=scene,
        style=style.prompt if style else "",
        quality_words=preset.quality_words,
        negatives=negatives,
    )
    refuse_lora_tags(prompt.positive, "the configuration's prompt texts")
    refuse_lora_tags(prompt.negative, "negative_prompt")
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


def _check_limits(preset: QualityPreset, scheduler: Scheduler, steps: int, guidance: float) -> None:
    """Refuse what a preset of few steps, or a scheduler for distilled weights, makes no picture of."""
    if preset.loras and scheduler.name != preset.scheduler:
        expected = f"{preset.scheduler}, for which the LoRAs of quality preset {preset.name} were made"
        raise InvalidValueError("scheduler", scheduler.name, expected)
    for most, whose in (
        (preset.max_guidance_scale, f"quality preset {preset.name}"),
        (scheduler.max_guidance_scale, f"scheduler {scheduler.name}"),
    ):
        if most is not None and guidance > most:
            raise InvalidValueError("guidance_scale", guidance, f"at most {most:g} with {whose}")
    if scheduler.max_steps is not None and steps > scheduler.max_steps:
        raise InvalidValueError("steps", steps, f"at most {scheduler.max_steps} with scheduler {scheduler.name}")


def _guided_steps(request: GenerationRequest, steps: int) -> tuple[float, float]:
    """Return the fractions of the steps between which guidance acts; at one step at least."""
    start = check_number(request.guidance_start, "guidance_start", 0.0, 1.0)
    stop = check_number(request.guidance_stop, "guidance_stop", 0.0, 1.0)
    if not any(start <= step / steps < stop for step in range(steps)):
        expected = f"such that one of {steps} steps is guided; for none, set guidance_scale to 1"
        raise InvalidValueError("guidance_start, guidance_stop", (start, stop), expected)
    return start, stop


def _text(value: object, name: str) -> str:
    if not isinstance(value, str) or "\0" in value or len(value) > _MAX_TEXT:
        raise InvalidValueError(name, value, f"text of at most {_MAX_TEXT} characters")
    if not value.isascii() and value.encode(errors="ignore").decode() != value:
        raise InvalidValueError(name, value, "text that can be written as UTF-8")  # half of a surrogate pair
    return value
