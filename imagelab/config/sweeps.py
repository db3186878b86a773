"""Schema of `configs/sweeps/*.yaml`: what a sweep's pictures have in common, and along which axes they differ."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import Field, Strict

from imagelab.config.base import Config, Fraction, Name, SizePx, Text, Weight
from imagelab.config.configs import Configs
from imagelab.config.controlnet import ControlType
from imagelab.config.faults import Place, validate
from imagelab.config.loras import LoraChoices
from imagelab.config.yaml_file import Document, read_yaml
from imagelab.errors import ConfigError, nearest_name, shorten

ValueT = TypeVar("ValueT")
Values = Annotated[tuple[ValueT, ...], Strict(strict=False), Field(min_length=1)]
Steps = Annotated[int, Field(ge=1, le=150)]
Guidance = Annotated[float, Field(ge=0, le=30)]
Scale = Annotated[float, Field(ge=0, le=2)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Threshold = Annotated[float, Field(ge=-1, le=1)]


class SweepControl(Config):
    """A picture that all of a sweep's pictures follow."""

    type: ControlType
    image: Text
    """Path of the picture, relative to the working directory."""
    scale: Scale | None = None
    start: Fraction | None = None
    end: Fraction | None = None
    is_map: bool = False
    """Whether the picture is the map."""
    resize: Literal["stretch", "crop", "fill"] = "crop"
    model: Literal["dedicated", "union"] | None = None


class SweepBase(Config):
    """What is drawn where no axis says otherwise; null stands for the configuration's own value."""

    character: Name
    scene: str = ""
    """What happens in the pictures, or the name of one of the character's scenes."""
    style: Name | None = None
    quality_preset: Name | None = None
    scheduler: Name | None = None
    guidance_scale: Guidance | None = None
    guidance_start: Fraction = 0.0
    """Fraction of the steps from which on guidance acts: a step without it is faster."""
    guidance_stop: Fraction = 1.0
    """Fraction of the steps after which it acts no more."""
    steps: Steps | None = None
    size: SizePx | None = None
    """[width, height] in pixels."""
    negative_prompt: str | None = None
    seed: Seed = 0
    loras: LoraChoices = ()
    """Beside the character's own."""
    use_character_loras: bool = True
    controls: Annotated[tuple[SweepControl, ...], Strict(strict=False)] = ()


class SweepAxes(Config):
    """The values that each axis takes, in their order; the seeds vary fastest."""

    character: Values[Name] | None = None
    scene: Values[Text] | None = None
    style: Values[Name] | None = None
    quality_preset: Values[Name] | None = None
    scheduler: Values[Name] | None = None
    guidance_scale: Values[Guidance] | None = None
    guidance_start: Values[Fraction] | None = None
    guidance_stop: Values[Fraction] | None = None
    steps: Values[Steps] | None = None
    size: Values[SizePx] | None = None
    loras: dict[Name, Values[Weight]] = Field(default_factory=dict)
    """LoRA: its weights. Each LoRA is an axis of its own; 0 leaves it out."""
    controls: dict[ControlType, Values[Scale]] = Field(default_factory=dict)
    """Kind of a control of the base: its scales. Each kind is an axis of its own."""
    seeds: Values[Seed] | None = None

    def by_name(self) -> dict[str, tuple[object, ...]]:
        """Return the axes that there are, {name: values}: first those that are seen most, and the seeds last."""
        guidance = ("guidance_scale", "guidance_start", "guidance_stop")
        fields = ("character", "scene", "style", "quality_preset", "scheduler", *guidance, "steps", "size")
        plain = {name: getattr(self, name) for name in fields if getattr(self, name) is not None}
        nested = {("lora", name): values for name, values in self.loras.items()}
        nested |= {("control", name): values for name, values in self.controls.items()}
        named = {f"{kind} {name}": values for (kind, name), values in nested.items()}
        return {**plain, **named, **({"seed": self.seeds} if self.seeds else {})}


class SweepConfig(Config):
    """One sweep."""

    mode: Literal["full", "paired"] = "full"
    """full: each value of each axis with each of all others; paired: the first values together, the second, …"""
    compare_faces: bool = True
    """Whether the faces are compared with the character's references."""
    threshold: Threshold | None = None
    """Cosine from which on a picture is accepted; null for the one in force."""
    base: SweepBase
    axes: SweepAxes


def load_sweep(path: str | os.PathLike[str], configs: Configs, profile: str | None = None) -> SweepConfig:
    """Read a sweep's file and check it against the configuration; `profile` None is the default one.

    Raises ConfigError with every problem of the file, UnknownNameError for a profile.
    """
    document = read_yaml(Path(path), str(path))
    sweep = None if document.data is None else validate(document, SweepConfig, document.data)
    if sweep is not None:
        _check_names(document, sweep, configs, profile)
        _check_axes(document, sweep)
    if sweep is None or document.problems:
        raise ConfigError(tuple(dict.fromkeys(document.problems)))
    return sweep


def _check_names(document: Document, sweep: SweepConfig, configs: Configs, profile: str | None) -> None:
    loras = (*configs.lora_registry.loras, *configs.lora_registry.combinations)
    known: dict[str, tuple[str, ...]] = {
        "character": tuple(configs.character_presets.characters),
        "style": tuple(configs.sdxl.styles),
        "quality_preset": tuple(configs.profile(profile).quality_presets),
        "scheduler": tuple(configs.sdxl.schedulers),
        "lora": loras,
        "control": tuple(control.type for control in sweep.base.controls),
    }
    for place, kind, name in _named(sweep):
        if name not in known[kind]:
            nearest = nearest_name(name, known[kind])
            what = "kind of control of the base" if kind == "control" else kind.replace("_", " ")
            document.add(place, f"unknown {what} {{value}}", value=shorten(name), nearest=nearest, known=known[kind])


def _named(sweep: SweepConfig) -> Iterator[tuple[Place, str, str]]:
    """Yield where a name stands, what it is the name of, and the name."""
    for kind in ("character", "style", "quality_preset", "scheduler"):
        if (name := getattr(sweep.base, kind)) is not None:
            yield ("base", kind), kind, name
        for index, name in enumerate(getattr(sweep.axes, kind) or ()):
            yield ("axes", kind, index), kind, name
    for index, choice in enumerate(sweep.base.loras):
        yield ("base", "loras", index, "name"), "lora", choice.name
    for name in sweep.axes.loras:
        yield ("axes", "loras", name), "lora", name
    for control in sweep.axes.controls:
        yield ("axes", "controls", control), "control", control


def _check_axes(document: Document, sweep: SweepConfig) -> None:
    axes = sweep.axes.by_name()
    if not axes:
        document.add(("axes",), "must have an axis, else there is but one picture")
    for name, values in axes.items():
        place = ("axes", "seeds") if name == "seed" else ("axes", *_place(name))
        for value in dict.fromkeys(value for value in values if values.count(value) > 1):
            document.add(place, "must have each value once", value=shorten(value))
    lengths = {name: len(values) for name, values in axes.items()}
    if sweep.mode == "paired" and len(set(lengths.values())) > 1:
        shown = ", ".join(f"{name} {length}" for name, length in lengths.items())
        document.add(("axes",), f"must be of one length where the mode is paired ({shown})")
    kinds = [control.type for control in sweep.base.controls]
    for control in sweep.axes.controls:
        if kinds.count(control) > 1:
            document.add(
                ("axes", "controls", control), "must be the kind of one control of the base, and it has several"
            )


def _place(axis: str) -> tuple[str, ...]:
    kind, _, name = axis.partition(" ")
    return (f"{kind}s", name) if name else (kind,)
