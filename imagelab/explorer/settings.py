"""What the panel's controls are set to, as one value: out to a request or to parameters, back from pictures."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from imagelab.config import Configs, Profile
from imagelab.errors import InvalidValueError, UnknownNameError
from imagelab.metadata import PictureMetadata
from imagelab.prompt_tags import take_lora_tags, without_lora_tags
from imagelab.records import Record
from imagelab.results import ControlUse, GenerationRecord, GenerationRequest

MAX_SEED = 2**53 - 1  # beyond it a browser counts in steps of two


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings(Record):
    """What to draw; None stands for the preset's, the character's or the profile's own value, as in a request."""

    character: str
    scene: str = ""
    style: str | None = None
    quality_preset: str | None = None
    width: int | None = None  # px
    height: int | None = None  # px
    seed: int | None = None  # None: another one for each picture
    negative_prompt: str | None = None
    loras: Mapping[str, float] = field(default_factory=dict)  # {name: weight} of those that act, the character's too
    control: ControlUse | None = None

    def to_request(self, configs: Configs) -> GenerationRequest:
        """Return the request; its LoRAs stand in the scene as tags, so that a notebook's parameters can say the same.

        Raises UnknownNameError for the character, InvalidValueError for a tag in the scene that can't be read.
        """
        return GenerationRequest(
            character=self.character,
            scene_description=_tagged(self, configs),
            style=self.style,
            quality_preset=self.quality_preset,
            seed=self.seed,
            negative_prompt=self.negative_prompt,
            width=self.width,
            height=self.height,
            controls=(self.control,) if self.control else (),
        )


def default_settings(configs: Configs, profile: Profile, character: str | None = None) -> Settings:
    """Return what the panel starts with: the first character, its first scene, the profile's preset and sizes.

    Raises UnknownNameError for the character.
    """
    name = next(iter(configs.character_presets.characters)) if character is None else character
    scenes = list(configs.character(name).scenes.values())
    width, height = profile.size_px(profile.preset().size)
    return Settings(
        character=name,
        scene=scenes[0] if scenes else "",
        quality_preset=profile.default_quality_preset,
        width=width,
        height=height,
        seed=42,
        loras=own_loras(configs, profile, name),
    )


def own_loras(configs: Configs, profile: Profile, character: str) -> dict[str, float]:
    """Return {name: weight} of a character's own LoRAs, as far as the profile has files for them."""
    usual = _usual_weights(configs, character)
    return {name: weight for name, weight in usual.items() if profile.name in configs.lora(name).files}


def _usual_weights(configs: Configs, character: str) -> dict[str, float]:
    choices = configs.character(character).loras
    return {one.name: configs.lora(one.name).default_weight if one.weight is None else one.weight for one in choices}


def _tagged(settings: Settings, configs: Configs) -> str:
    """Return the scene with a tag for each LoRA that isn't as the character has it; weight 0 leaves its own out.

    A tag that a person has typed stands in place of the LoRA's slider.
    """
    typed = {use.name for use in take_lora_tags(settings.scene)[1]}
    usual = _usual_weights(configs, settings.character)
    wanted = dict.fromkeys(usual, 0.0) | dict(settings.loras)
    changed = {name: weight for name, weight in wanted.items() if weight != usual.get(name, 0.0) and name not in typed}
    return " ".join(
        [settings.scene, *(f"<lora:{name}:{weight:g}>" for name, weight in sorted(changed.items()))]
    ).strip()


def from_record(record: GenerationRecord, configs: Configs) -> Settings:
    """Return the settings that a picture of ours was drawn with.

    Control pictures don't come with a picture, so that the settings have none. Raises UnknownNameError where the
    configuration has lost the character; InvalidValueError for a picture of nobody.
    """
    if record.character is None:
        raise InvalidValueError("picture", "one of nobody in particular", "a picture of a character")
    configs.character(record.character)
    return Settings(
        character=record.character,
        scene=record.scene_description,
        style=record.style,
        quality_preset=record.quality_preset,
        width=record.width,
        height=record.height,
        seed=record.seed,
        negative_prompt=record.negative_prompt or None,
        loras={lora.name: lora.weight for lora in record.loras},
    )


def from_metadata(
    metadata: PictureMetadata, current: Settings, configs: Configs, profile: Profile
) -> tuple[Settings, tuple[str, ...]]:
    """Return the settings that a picture speaks of, and in words what of it the panel can't take over.

    A picture of ours says everything; of another program's it is prompt, seed, size and LoRAs, and the rest stays as it
    is. Raises InvalidValueError for a picture that says nothing; else as `from_record`.
    """
    if metadata.record:
        found, misfits = _fitting(from_record(metadata.record, configs), current, configs, profile)
        return found, (*_left_out(metadata.record, profile), *misfits)
    if metadata.writer is None:
        raise InvalidValueError("picture", "one that says nothing of its making", "a picture with its settings inside")
    width, height = metadata.size or (current.width, current.height)
    mentioned = {one.name: 1.0 if one.weight is None else one.weight for one in metadata.loras}
    settings = replace(
        current,
        scene=without_lora_tags(metadata.prompt or "") or current.scene,  # their LoRAs are on the sliders
        negative_prompt=metadata.negative_prompt or current.negative_prompt,
        seed=current.seed if metadata.seed is None else metadata.seed,
        width=width,
        height=height,
        loras={**current.loras, **mentioned},
    )
    return _fitting(settings, current, configs, profile)


def _fitting(
    found: Settings, current: Settings, configs: Configs, profile: Profile
) -> tuple[Settings, tuple[str, ...]]:
    """Return settings that the panel's controls can have, and in words which of those found they can't.

    In place of these stand the current ones.
    """
    keep: dict[str, Any] = {}
    misfits = []
    if found.style is not None and found.style not in configs.sdxl.styles:
        keep["style"] = current.style
        misfits.append(f"its style, {found.style}, which isn't configured")
    if found.quality_preset not in profile.quality_presets:
        keep["quality_preset"] = current.quality_preset
        misfits.append(f"its preset, {found.quality_preset}")
    if not _fits(profile.check_size, found.width, found.height):
        keep |= {"width": current.width, "height": current.height}
        misfits.append(f"its size, {found.width}×{found.height}")
    if found.seed is not None and not 0 <= found.seed <= MAX_SEED:
        keep["seed"] = current.seed
        misfits.append(f"its seed, {found.seed}")
    known = [name for name in found.loras if _has_file(configs, profile, name)]
    keep["loras"] = {name: found.loras[name] for name in known}
    misfits += [f"LoRA {name}, which isn't registered" for name in found.loras if name not in known]
    return replace(found, **keep), tuple(misfits)


def _has_file(configs: Configs, profile: Profile, name: str) -> bool:
    return name in configs.lora_registry.loras and profile.name in configs.lora(name).files


def _fits(check: Callable[..., None], *values: Any) -> bool:
    try:
        check(*values)
    except InvalidValueError:
        return False
    return True


def _left_out(record: GenerationRecord, profile: Profile) -> tuple[str, ...]:
    """Say what a record has that isn't a setting of the panel."""
    left = [] if record.profile == profile.name else [f"its profile, {record.profile}"]
    left += [f"its {control.type} control: give its picture again" for control in record.controls]
    if (record.guidance_start, record.guidance_stop) != (0.0, 1.0):
        left.append(f"its guidance from {record.guidance_start:g} to {record.guidance_stop:g} of the steps alone")
    left += [f"the blocks and steps of LoRA {lora.name}" for lora in record.loras if _is_partial(lora)]
    try:
        preset = profile.preset(record.quality_preset)
    except UnknownNameError:
        return tuple(left)
    if (record.steps, record.guidance_scale, record.scheduler) != (
        preset.steps,
        preset.guidance_scale,
        preset.scheduler,
    ):
        left.append(f"its {record.steps} steps of {record.scheduler} at guidance {record.guidance_scale:g}")
    return tuple(left)


def _is_partial(lora: Any) -> bool:
    partial = (lora.start, lora.stop) != (0.0, 1.0) or lora.text_encoder_weight != lora.weight
    return partial or bool(lora.blocks and set(lora.blocks) != {1.0})
