"""The loaded configuration and its look-ups by name."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from imagelab.config.base import Source, ValueT, pick
from imagelab.config.characters import Character, CharacterPresets
from imagelab.config.controlnet import Control, ControlNetConfig, Preprocessor
from imagelab.config.loras import BaseName, Combination, Lora, LoraRegistry
from imagelab.config.sdxl import Profile, QualityPreset, Scheduler, SdxlConfig, Style
from imagelab.errors import ProfileError


@dataclass(frozen=True, kw_only=True, slots=True)
class Configs:
    """The four files, checked against each other; each accessor raises UnknownNameError for a name that isn't there."""

    root: Path
    sdxl: SdxlConfig
    lora_registry: LoraRegistry
    controlnet: ControlNetConfig
    character_presets: CharacterPresets

    def profile(self, name: str | None = None) -> Profile:
        """Return a profile, by default the one that sdxl_config.yaml names."""
        return pick("profile", self.sdxl.profiles, self.sdxl.default_profile if name is None else name)

    def with_profile(self, profile: Profile) -> "Configs":
        """Return the configurations with a profile in place of the one of its name."""
        profiles = {**self.sdxl.profiles, profile.name: profile}
        return replace(self, sdxl=self.sdxl.model_copy(update={"profiles": profiles}))

    def preset(self, profile: str | None, name: str | None = None) -> QualityPreset:
        """Return a profile's quality preset."""
        return self.profile(profile).preset(name)

    def scheduler(self, name: str) -> Scheduler:
        """Return a scheduler."""
        return pick("scheduler", self.sdxl.schedulers, name)

    def style(self, name: str) -> Style:
        """Return a style."""
        return pick("style", self.sdxl.styles, name)

    def negative_prompt(self, name: str) -> str:
        """Return the text of a negative-prompt template."""
        return pick("negative prompt", self.sdxl.negative_prompts, name)

    def lora(self, name: str) -> Lora:
        """Return a LoRA."""
        return pick("LoRA", self.lora_registry.loras, name)

    def combination(self, name: str) -> Combination:
        """Return a combination of LoRAs."""
        return pick("LoRA combination", self.lora_registry.combinations, name)

    def control(self, control_type: str) -> Control:
        """Return a kind of control."""
        return pick("control type", self.controlnet.by_name, control_type)

    def character(self, name: str) -> Character:
        """Return a character."""
        return pick("character", self.character_presets.characters, name)

    def scene(self, character: str, name: str) -> str:
        """Return the prompt text of a character's scene preset."""
        return pick("scene preset", self.character(character).scenes, name)

    def lora_file(self, name: str, profile: str) -> str:
        """Return a LoRA's file name within the profile's `loras` folder.

        Raises ProfileError when the LoRA has no file for that profile.
        """
        lora = self.lora(name)
        return self._for_profile(
            profile, lora.files, f"file of LoRA {name!r}", f"loras.{name}.files in lora_registry.yaml"
        )

    def lora_base(self, name: str, profile: str) -> BaseName:
        """Return the base model that the registry says a LoRA's file for the profile is for.

        Raises ProfileError when it says none.
        """
        where = f"loras.{name}.base in lora_registry.yaml"
        return self._for_profile(profile, self.lora(name).base, f"base of LoRA {name!r}", where)

    def control_source(self, control_type: str, profile: str, model: str | None = None) -> Source:
        """Return where the profile's ControlNet for a kind of control comes from.

        `model` is "dedicated", "union", or None for the dedicated one if there is one, else the union one. Raises
        ProfileError when the profile has none.
        """
        own = {key: source for key, source in self.control(control_type).models.items() if source is not None}
        union = {key: source for key, source in self.controlnet.union.items() if source is not None}
        if model == "union":
            return self._for_profile(profile, union, "union ControlNet", "union in controlnet_config.yaml")
        where = f"controls.{control_type}.models in controlnet_config.yaml"
        either = own if model == "dedicated" else union | own
        return self._for_profile(profile, either, f"{control_type} ControlNet", where)

    def preprocessor(self, control_type: str, profile: str) -> Preprocessor:
        """Return what makes the profile's maps of a kind of control.

        Raises ProfileError when the profile has none.
        """
        table = {key: item for key, item in self.control(control_type).preprocessors.items() if item is not None}
        where = f"controls.{control_type}.preprocessors in controlnet_config.yaml, or give a ready map, is_map: True"
        return self._for_profile(profile, table, f"{control_type} preprocessor", where)

    def references_source(self, character: str, profile: str) -> Source:
        """Return where a character's reference pictures for the profile lie.

        Raises ProfileError when there are none.
        """
        references = self.character(character).references
        where = f"characters.{character}.references in character_presets.yaml"
        return self._for_profile(profile, references, f"reference pictures of {character!r}", where)

    def _for_profile(self, profile: str, table: Mapping[str, ValueT], what: str, where: str) -> ValueT:
        self.profile(profile)
        if profile in table:
            return table[profile]
        have = f"Profiles that have it: {', '.join(sorted(table))}" if table else "No profile has it"
        raise ProfileError(profile, f"no {what} yet", f"{have}; add it to {where}")
