"""Which LoRAs a request comes to: the character's own, additional ones, combinations, and tags of the prompt."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from imagelab.checks import check_number
from imagelab.config import Character, Combination, Configs, Lora, LoraChoice, Profile, pick
from imagelab.config.blocks import block_weights
from imagelab.config.loras import BaseName
from imagelab.errors import InvalidValueError, ModelNotFoundError, UnknownNameError
from imagelab.models import file_sha256, resolve_lora, resolve_source, tensors_sha256
from imagelab.results import GenerationRequest, LoraRecord, LoraUse

_WEIGHTS = ("weight", "text_encoder_weight", "text_encoder_2_weight")
_LARGEST_WEIGHT = 2.0
_BOUNDS = dict.fromkeys(_WEIGHTS, (-_LARGEST_WEIGHT, _LARGEST_WEIGHT)) | {"start": (0.0, 1.0), "stop": (0.0, 1.0)}
_FIELDS = tuple(item.name for item in fields(LoraUse))
_EXAMPLE = '[{"name": "luca", "weight": 0.7}]'


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedLora:
    """A LoRA that will be applied, and its file."""

    path: Path
    record: LoraRecord
    base: BaseName  # that the registry says the file is for


def lora_uses(loras: Iterable[LoraUse | Mapping[str, Any]]) -> tuple[LoraUse, ...]:
    """Accept `{"name": ..., "weight": ...}` for LoraUse, each of them checked.

    Raises InvalidValueError or UnknownNameError for anything else.
    """
    if isinstance(loras, str | Mapping) or not isinstance(loras, Iterable):
        raise InvalidValueError("additional_loras", loras, f"a list like {_EXAMPLE}")
    return tuple(lora_use(use, place=f"additional_loras[{index}]") for index, use in enumerate(loras))


def lora_use(use: object, *, place: str) -> LoraUse:
    """Make a LoraUse of a mapping and check its numbers; `place` says in an error where it stands.

    What names stand for is looked up later. Raises InvalidValueError, UnknownNameError.
    """
    given = asdict(use) if isinstance(use, LoraUse) else use
    if not isinstance(given, Mapping) or "name" not in given:
        raise InvalidValueError(place, use, f"a mapping with a name, as in {_EXAMPLE}")
    if unknown := sorted(str(key) for key in given if key not in _FIELDS):
        raise UnknownNameError(f"field of {place}", unknown[0], _FIELDS)
    numbers = {
        key: check_number(given[key], f"{place}.{key}", *bounds)
        for key, bounds in _BOUNDS.items()
        if given.get(key) is not None
    }
    return LoraUse(**{**given, **numbers})


def registered_words(configs: Configs, file: Path) -> tuple[str, ...]:
    """Return the trigger words of the registry rows whose file this is, for whatever profile."""
    rows = (lora for lora in configs.lora_registry.loras.values() if _is_of(configs, lora, file))
    return tuple(word for lora in rows for word in lora.trigger_words)


def _is_of(configs: Configs, lora: Lora, file: Path) -> bool:
    """Say whether a file is where a row has one, or has a hash that the row names; a name alone says nothing."""
    if not file.is_file():
        return False
    for profile, name in lora.files.items():
        try:
            folder = resolve_source(configs.profile(profile).loras)
        except ModelNotFoundError:
            continue
        if (folder / name).resolve() == file.resolve():
            return True
    return any(lora.sha256.values()) and file_sha256(file) in lora.sha256.values()


def compose_loras(configs: Configs, profile: Profile, request: GenerationRequest) -> tuple[PlannedLora, ...]:
    """Return the LoRAs to apply, every choice made; what the request asks for replaces the character's own.

    A LoRA that acts nowhere is left out: weight 0, block weights of 0, a range of steps that ends where it begins.
    Those of the quality preset are added, and must be left as they are.
    Raises UnknownNameError, InvalidValueError, ProfileError, ModelNotFoundError or ModelFileError.
    """
    character = None if request.character is None else configs.character(request.character)
    asked = expand_loras(configs, request.additional_loras)
    uses = {use.name: use for use in (*_own(character, request), *asked)}
    for use in _of_preset(profile, request):
        if _resolved(configs, uses.setdefault(use.name, use)) != _resolved(configs, use):
            expected = f"as it is: quality preset {request.quality_preset} can't do without it"
            raise InvalidValueError(f"LoRA {use.name}", uses[use.name], expected)
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


def _of_preset(profile: Profile, request: GenerationRequest) -> tuple[LoraUse, ...]:
    return tuple(_chosen(choice) for choice in profile.preset(request.quality_preset).loras)


def _chosen(choice: LoraChoice) -> LoraUse:
    return LoraUse(**{item.name: getattr(choice, item.name) for item in fields(LoraUse)})


def _members(configs: Configs, use: LoraUse) -> tuple[LoraUse, ...]:
    named: dict[str, Lora | Combination] = {**configs.lora_registry.loras, **configs.lora_registry.combinations}
    if isinstance(pick("LoRA", named, use.name), Lora):
        return (use,)
    factors = _weights(use, 1.0, f"combination {use.name}")
    return tuple(_scaled(configs, _chosen(choice), use, factors) for choice in configs.combination(use.name).loras)


def _scaled(configs: Configs, member: LoraUse, given: LoraUse, factors: tuple[float, float, float]) -> LoraUse:
    whose = f"LoRA {member.name} in combination {given.name}"
    own = _weights(member, configs.lora(member.name).default_weight, whose)
    weight, text, text_2 = (
        _weight(factor * value, name, whose) for name, factor, value in zip(_WEIGHTS, factors, own, strict=True)
    )
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


def _weights(use: LoraUse, default: float, whose: str) -> tuple[float, float, float]:
    """Return the weights of the UNet and of both text encoders; `whose` they are is for an error."""
    unet, text, text_2 = (getattr(use, name) for name in _WEIGHTS)
    unet = default if unet is None else unet
    text = unet if text is None else text
    text_2 = text if text_2 is None else text_2
    unet, text, text_2 = (_weight(*named, whose) for named in zip((unet, text, text_2), _WEIGHTS, strict=True))
    return unet, text, text_2


def _weight(value: object, name: str, whose: str) -> float:
    return check_number(value, f"{name} of {whose}", -_LARGEST_WEIGHT, _LARGEST_WEIGHT)


def _blocks(configs: Configs, use: LoraUse) -> tuple[float, ...]:
    if use.blocks is not None:
        return block_weights(use.blocks)
    return configs.lora(use.name).default_blocks or block_weights("ALL")


def _resolved(configs: Configs, use: LoraUse) -> LoraRecord:
    """Return the record of a LoRA, without its file's hash."""
    weight, text, text_2 = _weights(use, configs.lora(use.name).default_weight, f"LoRA {use.name}")
    blocks = _blocks(configs, use)
    start = 0.0 if use.start is None else check_number(use.start, f"start of LoRA {use.name}", 0.0, 1.0)
    stop = 1.0 if use.stop is None else check_number(use.stop, f"stop of LoRA {use.name}", 0.0, 1.0)
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
    base = configs.lora_base(record.name, profile.name)
    record = replace(record, sha256=file_sha256(path), tensors_sha256=tensors_sha256(path))
    return PlannedLora(path=path, record=record, base=base)
