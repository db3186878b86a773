"""The controls of the panel: each has a label, and together they are one `Settings`."""

from collections.abc import Callable
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any

import ipywidgets as w

from imagelab.config import Configs, Profile
from imagelab.controls import control_use
from imagelab.errors import ImageFileError
from imagelab.explorer.settings import Settings, default_settings, own_loras
from imagelab.imagefiles import decode_image, upright_rgb
from imagelab.results import ControlUse

_MAX_SEED = 2**53 - 1  # beyond it a browser counts in steps of two
_MOST_AT_ONCE = 16
_LABEL = {"description_width": "110px"}
_WIDE = {"width": "98%"}
_NONE = "none"


def field(kind: Callable[..., Any], label: str, **given: Any) -> Any:
    """Make a widget with its label beside it."""
    return kind(description=label, style=_LABEL, layout=w.Layout(**_WIDE), **given)


class Form:
    """Every setting of the panel; `settings` reads them, `fill` sets them."""

    def __init__(self, configs: Configs, profile: Profile, start: Settings | None = None) -> None:
        self.configs, self.profile = configs, profile
        self._picture: Any = None  # PIL's, of the control
        self._filling = False
        limits = profile.size_limits
        side = {"min": limits.min_px, "max": limits.max_px, "step": limits.multiple_px}
        self.character = field(w.Dropdown, "Character", options=sorted(configs.character_presets.characters))
        self.scene_preset = field(w.Dropdown, "Scene preset")
        self.scene = field(w.Textarea, "Scene", rows=2, continuous_update=False)
        self.style = field(w.Dropdown, "Style", options=[(_NONE, None), *((s, s) for s in sorted(configs.sdxl.styles))])
        self.preset = field(w.Dropdown, "Quality", options=_preset_options(profile))
        self.negative = field(w.Text, "Negative", placeholder="empty: the configured words")
        self.size = field(w.Dropdown, "Size", options=_size_options(profile))
        self.width = field(w.BoundedIntText, "Width (px)", **side)
        self.height = field(w.BoundedIntText, "Height (px)", **side)
        self.seed_mode = field(w.Dropdown, "Seed is", options=["locked", "random", "counting up"])
        self.seed = field(w.BoundedIntText, "Seed", min=0, max=_MAX_SEED)
        self.pictures = field(w.BoundedIntText, "Pictures", value=4, min=1, max=_MOST_AT_ONCE, disabled=True)
        self.loras = {name: _slider(name) for name in _available(configs, profile)}
        self.control_type = field(
            w.Dropdown, "Follow its", options=[(_NONE, None), *_control_options(configs, profile)]
        )
        self.upload = w.FileUpload(description="Picture to follow", accept=".png,.jpg,.jpeg,.webp", multiple=False)
        self.control_scale = field(w.FloatSlider, "How closely", value=0.9, min=0, max=2, step=0.05)
        self.show_map = w.Button(description="Show its map", tooltip="Make the map that the picture would follow")
        self.map = w.HTML()
        self.widget = self._laid_out()
        self.character.observe(self._character_changed, "value")
        self.scene_preset.observe(self._scene_chosen, "value")
        self.size.observe(self._size_chosen, "value")
        self.seed_mode.observe(self._seed_mode_changed, "value")
        self.upload.observe(self._uploaded, "value")
        self.control_type.observe(self._control_chosen, "value")
        self.fill(start or default_settings(configs, profile))

    @property
    def settings(self) -> Settings:
        """Return what the controls are set to; the seed is None where it is to be a random one."""
        return Settings(
            character=self.character.value,
            scene=self.scene.value.strip(),
            style=self.style.value,
            quality_preset=self.preset.value,
            width=self.width.value,
            height=self.height.value,
            seed=None if self.seed_mode.value == "random" else self.seed.value,
            negative_prompt=self.negative.value.strip() or None,
            loras={name: round(slider.value, 2) for name, slider in self.loras.items() if slider.value},
            control=self._control(),
        )

    @property
    def wanted(self) -> list[Settings]:
        """Return the settings of each picture that one press of Generate draws."""
        settings = self.settings
        if self.seed_mode.value == "locked":
            return [settings]
        if settings.seed is None:
            return [settings] * self.pictures.value
        return [replace(settings, seed=settings.seed + index) for index in range(self.pictures.value)]

    def fill(self, settings: Settings) -> None:
        """Set every control; the seed is locked to that of the settings. A control picture comes along with them."""
        self._filling = True  # or the new character would bring its own scene and LoRAs
        try:
            self.character.value = settings.character
            self.scene_preset.options = self._scenes()
            self.scene.value = settings.scene
            self.style.value = settings.style
            self.preset.value = settings.quality_preset or self.profile.default_quality_preset
            self.negative.value = settings.negative_prompt or ""
            self._fill_size(settings)
            self.seed_mode.value = "random" if settings.seed is None else "locked"
            self.seed.value = self.seed.value if settings.seed is None else settings.seed
            for name, slider in self.loras.items():
                _set(slider, settings.loras.get(name, 0.0))
            self._fill_control(settings.control)
        finally:
            self._filling = False
        self._seed_mode_changed(None)

    def take_control_picture(self, data: bytes) -> None:
        """Follow a picture, given as the bytes of its file; raises ImageFileError for what isn't one."""
        self._picture = upright_rgb(decode_image(data, Path("upload")))

    def _control(self) -> ControlUse | None:
        if self.control_type.value is None or self._picture is None:
            return None
        scale = round(self.control_scale.value, 2)
        return control_use(image=self._picture, place="control", type=self.control_type.value, scale=scale)

    def _fill_control(self, control: ControlUse | None) -> None:
        self.map.value = ""
        self.control_type.value = control.type if control else None
        if control:
            self._picture = control.picture
            self.control_scale.value = control.scale if control.scale is not None else self.control_scale.value

    def _fill_size(self, settings: Settings) -> None:
        width, height = self.profile.size_px(self.profile.preset(self.preset.value).size)
        self.width.value = settings.width or width
        self.height.value = settings.height or height
        known = dict(_size_options(self.profile)).values()
        pair = (self.width.value, self.height.value)
        self.size.value = pair if pair in known else None

    def _scenes(self) -> list[tuple[str, str]]:
        scenes = self.configs.character(self.character.value).scenes
        return [("your own words", ""), *((name.replace("_", " "), text) for name, text in scenes.items())]

    def _character_changed(self, _: Any) -> None:
        if self._filling:
            return
        self.scene_preset.options = self._scenes()
        for character in self.configs.character_presets.characters:
            for name in own_loras(self.configs, self.profile, character):
                _set(self.loras[name], 0.0)
        for name, weight in own_loras(self.configs, self.profile, self.character.value).items():
            _set(self.loras[name], weight)

    def _scene_chosen(self, change: Any) -> None:
        if change["new"] and not self._filling:
            self.scene.value = change["new"]

    def _size_chosen(self, change: Any) -> None:
        if change["new"] and not self._filling:
            self.width.value, self.height.value = change["new"]

    def _seed_mode_changed(self, _: Any) -> None:
        self.pictures.disabled = self.seed_mode.value == "locked"
        self.seed.disabled = self.seed_mode.value == "random"

    def _control_chosen(self, change: Any) -> None:
        if change["new"] and not self._filling:
            self.control_scale.value = self.configs.control(change["new"]).conditioning_scale

    def _uploaded(self, change: Any) -> None:
        if not change["new"]:
            return
        try:
            self.take_control_picture(bytes(change["new"][0]["content"]))
            self.map.value = "" if self.control_type.value else "Choose above what of it to follow."
        except ImageFileError as error:
            self._picture, self.map.value = None, escape(str(error))

    def _laid_out(self) -> w.Widget:
        words = w.VBox([self.character, self.scene_preset, self.scene, self.style, self.negative])
        seed = w.VBox([self.preset, self.size, self.width, self.height, self.seed_mode, self.seed, self.pictures])
        rows = [w.VBox([slider, _words(self.configs, name)]) for name, slider in self.loras.items()]
        control = w.VBox([self.control_type, self.upload, self.control_scale, self.show_map, self.map])
        sections = w.Accordion([words, seed, w.VBox(rows), control], selected_index=0)
        sections.titles = ("Words", "Size, quality, seed", "LoRAs", "Follow a picture")
        return sections


def _slider(name: str) -> Any:
    return field(w.FloatSlider, name, value=0.0, min=0.0, max=1.5, step=0.05, readout_format=".2f")


def _set(slider: Any, value: float) -> None:
    slider.min, slider.max = min(slider.min, value), max(slider.max, value)  # a picture may have had more
    slider.value = value


def _words(configs: Configs, name: str) -> Any:
    lora = configs.lora(name)
    words = ", ".join(lora.trigger_words) or "no trigger word"
    return w.HTML(
        f'<div class="imagelab-hint">{escape(lora.kind)} · {escape(words)} · {escape(lora.description)}</div>'
    )


def _available(configs: Configs, profile: Profile) -> list[str]:
    return [name for name, lora in configs.lora_registry.loras.items() if profile.name in lora.files]


def _preset_options(profile: Profile) -> list[tuple[str, str]]:
    return [(f"{name}, {preset.steps} steps", name) for name, preset in profile.quality_presets.items()]


def _size_options(profile: Profile) -> list[tuple[str, tuple[int, int] | None]]:
    named = [(f"{name}, {size[0]} × {size[1]}", (size[0], size[1])) for name, size in profile.sizes.items()]
    return [*named, ("as below", None)]


def _control_options(configs: Configs, profile: Profile) -> list[tuple[str, str]]:
    known = configs.controlnet
    has_union = known.union.get(profile.name) is not None
    kinds = [name for name, one in known.by_name.items() if has_union or one.models.get(profile.name) is not None]
    return [(name, name) for name in kinds]
