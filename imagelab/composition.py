"""Which LoRAs a request comes to: the character's own, additional ones, combinations, and tags of the prompt."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from imagelab.checks import check_number
from imagelab.config import Character, Combination, Configs, Lora, LoraChoice, Profile, pick
from imagelab.config.blocks import block_weights
from imagelab.errors import InvalidValueError
from imagelab.models import file_sha256, resolve_lora
from imagelab.results import GenerationRequest, LoraRecord, LoraUse

_WEIGHT = ("weight", -2.0, 2.0)
_TEXT_WEIGHT = ("text_encoder_weight", -2.0, 2.0)
_TEXT_2_WEIGHT = ("text_encoder_2_weight", -2.0, 2.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedLora:
    """A LoRA that will be applied, and its file."""

    path: Path
    record: LoraRecord


def lora_uses(loras: Iterable[LoraUse | Mapping[str, Any]]) -> tuple[LoraUse, ...]:
    """Accept `{"name": ..., "weight": ...}` for LoraUse; raises InvalidValueError for anything else."""
    if isinstance(loras, str | Mapping):
        raise InvalidValueError("additional_loras", loras, 'a list like [{"name": "luca", "weight": 0.7}]')
    return tuple(use if isinstance(use, LoraUse) else LoraUse.from_dict(use) for use in loras)


def compose_loras(configs: Configs, profile: Profile, request: GenerationRequest) -> tuple[PlannedLora, ...]:
    """Return the LoRAs to apply, every choice made; what the request asks for replaces the character's own.

    A LoRA that acts nowhere is left out: weight 0, block weights of 0, a range of steps that ends where it begins.
    Raises UnknownNameError, InvalidValueError, ProfileError, ModelNotFoundError or ModelFileError.
    """
    character = None if request.character is None else configs.character(request.character)
    asked = expand_loras(configs, request.additional_loras)
    uses = {use.name: use for use in (*_own(character, request), *asked)}
    records = (_resolved(configs, use) for use in uses.values())
    return tuple(_planned(configs, profile, record) for record in records if _acts(record))


def check_step_ranges(loras: Iterable[PlannedLora], steps: int) -> None:
    """Raise InvalidValueError for a LoRA whose start and stop lie between two of so many steps."""
    for record in (lora.record for lora in loras):
        if not any(record.acts_at(step, steps) for step in range(steps)):
            what = f"start and stop of LoRA {record.name}"
            raise InvalidValueError(what, (record.start, record.stop), f"far enough apart to hold one of {steps} steps")


def expand_loras(configs: Configs, loras: Iterable[LoraUse | Mapping[str, Any]]) -> tuple[LoraUse, ...]:
    """Return the LoRAs that names of LoRAs and of combinations stand for.

    Beside the name of a combination, weights and block weights multiply those of its LoRAs; start and stop replace
    them. Raises InvalidValueError if a LoRA comes twice.
    """
    uses = [use for given in lora_uses(loras) for use in _members(configs, given)]
    names = [use.name for use in uses]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InvalidValueError("additional_loras", twice[0], "named once, with one weight")
    return tuple(uses)


def _own(character: Character | None, request: GenerationRequest) -> tuple[LoraUse, ...]:
    own = character.loras if character and request.use_character_loras else ()
    return tuple(_chosen(choice) for choice in own)


def _chosen(choice: LoraChoice) -> LoraUse:
    return LoraUse(**{item.name: getattr(choice, item.name) for item in fields(LoraUse)})


def _members(configs: Configs, use: LoraUse) -> tuple[LoraUse, ...]:
    named: dict[str, Lora | Combination] = {**configs.lora_registry.loras, **configs.lora_registry.combinations}
    if isinstance(pick("LoRA", named, use.name), Lora):
        return (use,)
    factors = _weights(use, 1.0)
    return tuple(_scaled(configs, _chosen(choice), use, factors) for choice in configs.combination(use.name).loras)


def _scaled(configs: Configs, member: LoraUse, given: LoraUse, factors: tuple[float, float, float]) -> LoraUse:
    own = _weights(member, configs.lora(member.name).default_weight)
    weight, text, text_2 = (factor * value for factor, value in zip(factors, own, strict=True))
    blocks = member.blocks
    if given.blocks is not None:
        pairs = zip(block_weights(given.blocks), _blocks(configs, member), strict=True)
        blocks = tuple(factor * value for factor, value in pairs)
    return LoraUse(
        name=member.name,
        weight=weight,
        text_encoder_weight=text,
        text_encoder_2_weight=text_2,
        blocks=blocks,
        start=member.start if given.start is None else given.start,
        stop=member.stop if given.stop is None else given.stop,
    )


def _weights(use: LoraUse, default: float) -> tuple[float, float, float]:
    """Return the weights of the UNet and of both text encoders."""
    weight = check_number(default if use.weight is None else use.weight, *_WEIGHT)
    text = weight if use.text_encoder_weight is None else check_number(use.text_encoder_weight, *_TEXT_WEIGHT)
    text_2 = text if use.text_encoder_2_weight is None else check_number(use.text_encoder_2_weight, *_TEXT_2_WEIGHT)
    return weight, text, text_2


def _blocks(configs: Configs, use: LoraUse) -> tuple[float, ...]:
    if use.blocks is not None:
        return block_weights(use.blocks)
    return configs.lora(use.name).default_blocks or block_weights("ALL")


def _resolved(configs: Configs, use: LoraUse) -> LoraRecord:
    """Return the record of a LoRA, without its file's hash."""
    weight, text, text_2 = _weights(use, configs.lora(use.name).default_weight)
    blocks = _blocks(configs, use)
    start = 0.0 if use.start is None else check_number(use.start, "start", 0.0, 1.0)
    stop = 1.0 if use.stop is None else check_number(use.stop, "stop", 0.0, 1.0)
    if start > stop:
        raise InvalidValueError(f"start of LoRA {use.name}", start, f"at most its stop, {stop:g}")
    return LoraRecord(
        name=use.name,
        weight=weight,
        text_encoder_weight=text,
        sha256="",
        text_encoder_2_weight=None if text_2 == text else text_2,
        blocks=None if all(factor == 1 for factor in blocks) else blocks,
        start=start,
        stop=stop,
    )


def _acts(record: LoraRecord) -> bool:
    blocks = record.blocks or (1.0,)
    in_text = blocks[0] and (record.text_encoder_weight or record.text_encoder_2_weight)
    return record.start < record.stop and bool(in_text or (record.weight and any(blocks)))


def _planned(configs: Configs, profile: Profile, record: LoraRecord) -> PlannedLora:
    path = resolve_lora(configs, record.name, profile.name)
    return PlannedLora(path=path, record=replace(record, sha256=file_sha256(path)))
