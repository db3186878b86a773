"""The history as cards, two of its pictures side by side, and a row over one parameter."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from html import escape
from typing import TYPE_CHECKING, Any

import ipywidgets as w

from imagelab.checks import check_number, check_whole
from imagelab.config import Configs, Profile
from imagelab.errors import InvalidValueError
from imagelab.explorer import shown
from imagelab.explorer.history import Decision, Entry, History
from imagelab.explorer.settings import MAX_SEED, Settings
from imagelab.explorer.widgets import field

if TYPE_CHECKING:
    from PIL.Image import Image

_MOST_VALUES = 12
_CARD_PX = 190


class Gallery:
    """A card per picture, the newest first: what became of it, buttons to restore its settings and to decide."""

    def __init__(self, restore: Callable[[int], None], decide: Callable[[int, Decision], None]) -> None:
        self._restore, self._decide = restore, decide
        self._badges: dict[int, Any] = {}
        self.empty = w.HTML("Nothing drawn yet.")
        self.widget = w.Box([self.empty], layout=w.Layout(flex_flow="row wrap", overflow="auto", max_height="520px"))

    def show(self, entry: Entry) -> None:
        """Add a picture's card, or bring it up to date."""
        if entry.number in self._badges:
            self._badges[entry.number].value = _says(entry)
            return
        self._badges[entry.number] = w.HTML(_says(entry))
        before = [] if self.empty in self.widget.children else list(self.widget.children)
        self.widget.children = (self._card(entry), *before)

    def _card(self, entry: Entry) -> w.Widget:
        number = entry.number
        alt = f"Picture {number}: {entry.settings.character}, {entry.settings.scene}"
        restore = _button("Restore", f"Set all controls as they were for picture {number}")
        accept = _button("Accept", f"Accept picture {number} by hand")
        reject = _button("Reject", f"Reject picture {number} by hand")
        restore.on_click(lambda _: self._restore(number))
        accept.on_click(lambda _: self._decide(number, "accepted"))
        reject.on_click(lambda _: self._decide(number, "rejected"))
        buttons = w.HBox([restore, accept, reject])
        card = w.VBox([w.HTML(shown.img(entry.thumbnail, alt, _CARD_PX)), self._badges[number], buttons])
        card.add_class("imagelab-card")
        card.layout = w.Layout(width=f"{_CARD_PX + 14}px", margin="4px")
        return card


def _button(text: str, tooltip: str) -> Any:
    return w.Button(description=text, tooltip=tooltip, layout=w.Layout(width="62px", margin="1px", padding="0"))


def _says(entry: Entry) -> str:
    return f"{entry.number} · seed {entry.settings.seed}<br>{shown.badge(entry)}"


class Comparison:
    """Two pictures of the history side by side, and where they differ."""

    def __init__(self, history: History) -> None:
        self.history = history
        self._quiet = False  # while choosers are set, which tell of each change
        self.first = field(w.Dropdown, "First picture", options=[])
        self.second = field(w.Dropdown, "Second picture", options=[])
        self.shown = w.HTML("Draw two pictures to compare them.")
        self.widget = w.VBox([self.first, self.second, self.shown])
        for chooser in (self.first, self.second):
            chooser.observe(lambda _: self.update(), "value")

    def add(self, entry: Entry) -> None:
        """Offer a new picture; the last two are compared, until a person has chosen others."""
        label = f"{entry.number}: {entry.settings.character}, seed {entry.settings.seed}"
        chosen = (self.first.value, self.second.value)
        known = [number for _, number in self.second.options]
        options = (*self.second.options, (label, entry.number))
        latest = (known[-1] if known else entry.number, entry.number)
        follows = chosen in {(None, None), tuple(known[-2:]), (*known[-1:], *known[-1:])}
        self._quiet = True
        for chooser, number in zip((self.first, self.second), latest if follows else chosen, strict=True):
            chooser.options, chooser.value = options, number
        self._quiet = False
        if follows:
            self.update()

    def update(self) -> None:
        """Show the chosen two."""
        if self._quiet or self.first.value is None or self.second.value is None:
            return
        if self.first.value == self.second.value:
            self.shown.value = "Choose two pictures to compare them."
            return
        one, other = self.history[self.first.value], self.history[self.second.value]
        images = (one.generation.image, other.generation.image)
        figures = [shown.figure(entry.generation.image, f"picture {entry.number}") for entry in (one, other)]
        if images[0].size != images[1].size:
            self.shown.value = shown.row(figures) + "They are of different sizes."
            return
        apart, mean = difference(*images)
        changed = "; ".join(changes(one.settings, other.settings)) or "the settings are the same"
        figures.append(shown.figure(apart, f"difference, {mean:.1f} of 255 on average"))
        self.shown.value = f"{shown.row(figures)}<div>{escape(changed)}</div>"


def difference(one: "Image", other: "Image") -> tuple["Image", float]:
    """Return where two pictures of one size differ, white being the most, and by how much on average (0 to 255)."""
    from PIL import ImageChops, ImageOps

    from imagelab.imagefiles import mean_difference

    apart = ImageChops.difference(one.convert("RGB"), other.convert("RGB"))
    return ImageOps.autocontrast(apart.convert("L")).convert("RGB"), mean_difference(one, other)


def changes(one: Settings, other: Settings) -> list[str]:
    """Say in which settings two pictures differ, one line each; a LoRA is a setting of its own."""
    before, after = _by_name(one), _by_name(other)
    names = [*before, *(name for name in after if name not in before)]
    absent = {name: 0.0 if name.startswith("LoRA ") else "none" for name in names}
    pairs = [(name, before.get(name, absent[name]), after.get(name, absent[name])) for name in names]
    return [f"{name}: {old} → {new}" for name, old, new in pairs if old != new]


def _by_name(settings: Settings) -> dict[str, Any]:
    control = settings.control
    apart = {"loras", "control"}
    named = {name.replace("_", " "): value for name, value in settings.to_dict().items() if name not in apart}
    named |= {"control": control.type, "control scale": control.scale} if control else {}
    named |= {f"LoRA {name}": weight for name, weight in settings.loras.items()}
    return {name: "none" if value is None else value for name, value in named.items()}


class Grid:
    """One parameter in several values, all else as the controls say."""

    def __init__(self, loras: Sequence[str], draw: Callable[[], None]) -> None:
        names = ["seed", "quality", "style", "control scale", *(f"LoRA {name}" for name in loras)]
        self.parameter = field(w.Dropdown, "Parameter", options=names, value=f"LoRA {loras[0]}" if loras else "seed")
        self.values = field(w.Text, "Values", value="0, 0.5, 1" if loras else "1, 2, 3", placeholder="0, 0.5, 1")
        self.draw = w.Button(
            description="Draw the row", button_style="primary", tooltip="Draw a picture for each value"
        )
        self.draw.on_click(lambda _: draw())
        self.shown = w.HTML()
        self.widget = w.VBox([self.parameter, self.values, self.draw, self.shown])

    def points(self, settings: Settings, configs: Configs, profile: Profile) -> list[tuple[str, Settings]]:
        """Return (caption, settings) for each value; raises InvalidValueError or UnknownNameError for a bad one."""
        texts = [text.strip() for text in self.values.value.split(",") if text.strip()]
        if not 1 <= len(texts) <= _MOST_VALUES:
            raise InvalidValueError("Values", self.values.value, f"1 to {_MOST_VALUES} values with commas between them")
        settings = settings if settings.seed is not None else replace(settings, seed=0)  # or nothing is comparable
        return [
            (f"{self.parameter.value} {text}", varied(settings, self.parameter.value, text, configs, profile))
            for text in texts
        ]

    def show(self, pictures: Sequence[tuple[str, Entry]]) -> None:
        """Show what was drawn so far, with its similarity."""
        self.shown.value = shown.row(
            [shown.figure(entry.generation.image, f"{caption}: {_score(entry)}", 150) for caption, entry in pictures]
        )


def varied(settings: Settings, parameter: str, text: str, configs: Configs, profile: Profile) -> Settings:
    """Return the settings with one parameter at a value, given as text; raises as `Grid.points`."""
    if parameter == "seed":
        return replace(settings, seed=check_whole(_number(parameter, text, int), "seed", 0, MAX_SEED))
    if parameter == "quality":
        return replace(settings, quality_preset=profile.preset(text).name)
    if parameter == "style":
        return replace(settings, style=None if text == "none" else configs.style(text).name)
    value = _number(parameter, text, float)
    if parameter == "control scale":
        if settings.control is None:
            raise InvalidValueError("Parameter", parameter, "another one where no picture is followed")
        return replace(settings, control=replace(settings.control, scale=check_number(value, "scale", 0.0, 2.0)))
    name = parameter.removeprefix("LoRA ")
    return replace(settings, loras={**settings.loras, name: check_number(value, parameter, -2.0, 2.0)})


def _number(name: str, text: str, kind: type) -> Any:
    try:
        return kind(text)
    except ValueError as error:
        raise InvalidValueError(name, text, "a whole number" if kind is int else "a number") from error


def _score(entry: Entry) -> str:
    score = entry.verdict.similarity_score if entry.verdict else None
    return entry.decision if score is None else f"{score:.2f}"
