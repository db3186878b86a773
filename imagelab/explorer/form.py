"""The controls of the panel: each has a label, and together they are one `Settings`."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any

import ipywidgets as w

from imagelab.config import Configs, Profile
from imagelab.controls import control_use
from imagelab.errors import ImageFileError
from imagelab.explorer.settings import MAX_SEED, Settings, default_settings, own_loras
from imagelab.explorer.widgets import field, number_with_slider, pages, upload
from imagelab.imagefiles import decode_image, upright_rgb
from imagelab.results import ControlUse

_MOST_AT_ONCE = 16
_NONE = ("none", "")  # not None, which ipywidgets shows as nothing chosen
_SEED_MODES = [("locked: one picture", "locked"), ("random", "random"), ("counting up", "counting up")]


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
        self.style = field(w.Dropdown, "Style", options=[_NONE, *((s, s) for s in sorted(configs.sdxl.styles))])
        self.preset = field(w.Dropdown, "Quality", options=_preset_options(profile))
        self.negative = field(w.Text, "Negative", placeholder="empty: the configured words")
        self.size = field(w.Dropdown, "Size", options=_size_options(profile))
        self.width = field(w.BoundedIntText, "Width (px)", **side)
        self.height = field(w.BoundedIntText, "Height (px)", **side)
        self.seed_mode = field(w.Dropdown, "Seed is", options=_SEED_MODES)
        self.seed = field(w.BoundedIntText, "Seed", min=0, max=MAX_SEED)
        self.pictures = field(w.BoundedIntText, "Pictures", value=4, min=1, max=_MOST_AT_ONCE, disabled=True)
        weights = {name: _weight(name) for name in _available(configs, profile)}
        self.loras = {name: number for name, (number, _) in weights.items()}
        self.control_type = field(w.Dropdown, "Follow its", options=[_NONE, *_control_options(configs, profile)])
        self.upload = upload("Picture to follow")
        self.control_scale, scale = number_with_slider("How closely", value=0.9, min=0.0, max=2.0, step=0.05)
        self.show_map = w.Button(description="Show its map", tooltip="Make the map that the picture would follow")
        self.map = w.HTML()
        self.widget = self._laid_out([row for _, row in weights.values()], scale)
        self.character.observe(self._character_changed, "value")
        self.scene_preset.observe(self._scene_chosen, "value")
        self.scene.observe(self._scene_changed, "value")
        self.size.observe(self._size_chosen, "value")
        self.width.observe(self._side_changed, "value")
        self.height.observe(self._side_changed, "value")
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
            style=self.style.value or None,
            quality_preset=self.preset.value,
            width=self.width.value,
            height=self.height.value,
            seed=None if self.seed_mode.value == "random" else self.seed.value,
            negative_prompt=self.negative.value.strip() or None,
            loras={name: round(one.value, 2) for name, one in self.loras.items() if one.value},
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
        with self._quiet():  # or the new character would bring its own scene and LoRAs
            self.character.value = settings.character
            self._offer_scenes(settings.scene)
            self.scene.value = settings.scene
            self.style.value = settings.style or ""
            self.preset.value = settings.quality_preset or self.profile.default_quality_preset
            self.negative.value = settings.negative_prompt or ""
            self._fill_size(settings)
            self.seed_mode.value = "random" if settings.seed is None else "locked"
            self.seed.value = self.seed.value if settings.seed is None else settings.seed
            for name, number in self.loras.items():
                _set(number, settings.loras.get(name, 0.0))
            self._fill_control(settings.control)
        self._seed_mode_changed(None)

    def take_control_picture(self, data: bytes) -> None:
        """Follow a picture, given as the bytes of its file; raises ImageFileError for what isn't one."""
        self._picture = upright_rgb(decode_image(data, Path("upload")))

    def _control(self) -> ControlUse | None:
        if not self.control_type.value or self._picture is None:
            return None
        scale = round(self.control_scale.value, 2)
        return control_use(image=self._picture, place="control", type=self.control_type.value, scale=scale)

    def _fill_control(self, control: ControlUse | None) -> None:
        self.map.value = ""
        self.control_type.value = control.type if control else ""
        if control:
            self._picture = control.picture
            self.control_scale.value = control.scale if control.scale is not None else self.control_scale.value

    def _fill_size(self, settings: Settings) -> None:
        width, height = self.profile.size_px(self.profile.preset(self.preset.value).size)
        self.width.value = settings.width or width
        self.height.value = settings.height or height
        self._name_size()

    def _name_size(self) -> None:
        pair = (self.width.value, self.height.value)
        self.size.value = pair if pair in dict(self.size.options).values() else ""

    def _offer_scenes(self, scene: str) -> None:
        scenes = self.configs.character(self.character.value).scenes
        self.scene_preset.options = [
            ("your own words", ""),
            *((name.replace("_", " "), text) for name, text in scenes.items()),
        ]
        self.scene_preset.value = scene if scene in scenes.values() else ""

    @contextmanager
    def _quiet(self) -> Iterator[None]:
        """Let controls be set without what follows when a person sets them."""
        self._filling = True
        try:
            yield
        finally:
            self._filling = False

    def _character_changed(self, _: Any) -> None:
        if self._filling:
            return
        with self._quiet():
            self._offer_scenes(self.scene.value)
        for character in self.configs.character_presets.characters:
            for name in own_loras(self.configs, self.profile, character):
                _set(self.loras[name], 0.0)
        for name, weight in own_loras(self.configs, self.profile, self.character.value).items():
            _set(self.loras[name], weight)

    def _scene_chosen(self, change: Any) -> None:
        if change["new"] and not self._filling:
            self.scene.value = change["new"]

    def _scene_changed(self, change: Any) -> None:
        if not self._filling:
            with self._quiet():
                self._offer_scenes(change["new"].strip())

    def _size_chosen(self, change: Any) -> None:
        if change["new"] and not self._filling:
            with self._quiet():
                self.width.value, self.height.value = change["new"]

    def _side_changed(self, _: Any) -> None:
        if not self._filling:
            with self._quiet():
                self._name_size()

    def _seed_mode_changed(self, _: Any) -> None:
        self.pictures.disabled = self.seed_mode.value == "locked"
        self.seed.disabled = self.seed_mode.value == "random"

    def _control_chosen(self, change: Any) -> None:
        if change["new"] and not self._filling:
            self.control_scale.value = self.configs.control(change["new"]).conditioning_scale

    def _uploaded(self, change: Any) -> None:
        if not change["new"]:
            return
        name = escape(str(change["new"][0]["name"]))
        try:
            self.take_control_picture(bytes(change["new"][0]["content"]))
            self.map.value = f"{name} is there. " + ("" if self.control_type.value else "Choose what of it to follow.")
        except ImageFileError as error:
            self._picture, self.map.value = None, escape(str(error))
        self.upload.value = ()  # or the same file, chosen again, would be no change

    def _laid_out(self, weights: list[w.Widget], scale: w.Widget) -> w.Widget:
        words = w.VBox([self.character, self.scene_preset, self.scene, self.style, self.negative])
        seed = w.VBox([self.preset, self.size, self.width, self.height, self.seed_mode, self.seed, self.pictures])
        rows = [w.VBox([row, _words(self.configs, name)]) for name, row in zip(self.loras, weights, strict=True)]
        control = w.VBox([self.upload, self.control_type, scale, self.show_map, self.map])
        return pages({"Words": words, "Size, quality, seed": seed, "LoRAs": w.VBox(rows), "Follow a picture": control})


def _weight(name: str) -> tuple[Any, w.Widget]:
    return number_with_slider(name, value=0.0, min=0.0, max=1.5, step=0.05)


def _set(number: Any, value: float) -> None:
    number.min, number.max = min(number.min, value), max(number.max, value)  # a picture may have had more
    number.value = value


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


def _size_options(profile: Profile) -> list[tuple[str, Any]]:
    named = [(f"{name}, {width} × {height}", (width, height)) for name, (width, height) in profile.sizes.items()]
    return [*named, ("as below", "")]


def _control_options(configs: Configs, profile: Profile) -> list[tuple[str, str]]:
    known = configs.controlnet
    has_union = known.union.get(profile.name) is not None
    kinds = [name for name, one in known.by_name.items() if has_union or one.models.get(profile.name) is not None]
    return [(name, name) for name in kinds]
