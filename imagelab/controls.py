"""What a request says about controls, checked and looked up before any model is loaded."""

import dataclasses
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

from imagelab.checks import check_number
from imagelab.config import Configs, Control, Preprocessor, Profile, Source
from imagelab.errors import InvalidValueError, ModelFileError, UnknownNameError
from imagelab.imagefiles import checked_path, open_image, pixels_sha256, upright_rgb
from imagelab.models import AGAIN, resolve_source
from imagelab.results import ControlModel, ControlUse, Resize

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_CONTROLS = 8  # at once: beyond it the picture has nothing left to follow
_SCALES = (0.0, 2.0)
_IN_MEMORY = "memory"  # folder of the paths that stand for pictures without a file
_IN_MEMORY_PATH = re.compile(rf"{_IN_MEMORY}/[0-9a-f]{{64}}")  # a user's own memory/pose.png is a file like others
_EXAMPLE = '[{"type": "pose", "image": "pose.png", "scale": 0.9}]'
_FIELDS = tuple(item.name for item in dataclasses.fields(ControlUse) if item.name != "picture")


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedPreprocessor:
    """What will make a map, and the local folders of its models."""

    name: str
    params: Mapping[str, Any]
    model: Path | None
    detector: Path | None
    packaged: bool  # the model ships with imagelab, so its hashes are listed
    detector_packaged: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedControl:
    """A control with every choice made: what it does, what it follows, the ControlNet that obeys."""

    type: str
    mode: int  # of a union ControlNet
    model: ControlModel
    folder: Path  # of the ControlNet
    packaged: bool  # as for a preprocessor's model
    picture: "Image"  # RGB, upright
    picture_sha256: str  # of its pixels
    image: Path  # as it was given
    scale: float
    start: float
    end: float
    resize: Resize
    preprocessor: PlannedPreprocessor | None  # None: the picture is the map


def control_uses(controls: Iterable[ControlUse | Mapping[str, Any]]) -> tuple[ControlUse, ...]:
    """Accept `{"type": ..., "image": ...}` for ControlUse, with a path or a PIL picture as image.

    Raises InvalidValueError or UnknownNameError for anything else.
    """
    if isinstance(controls, str | Mapping) or not isinstance(controls, Iterable):
        raise InvalidValueError("controls", controls, f"a list like {_EXAMPLE}")
    return tuple(_use(use, f"controls[{index}]") for index, use in enumerate(controls))


def _use(use: object, place: str) -> ControlUse:
    if isinstance(use, ControlUse):
        return _normal(use, place)
    if not isinstance(use, Mapping) or not {"type", "image"} <= set(use):
        raise InvalidValueError(place, use, f"a mapping with type and image, as in {_EXAMPLE}")
    if unknown := sorted(str(key) for key in use if key not in _FIELDS):
        raise UnknownNameError(f"field of {place}", unknown[0], _FIELDS)
    return control_use(**use, place=place)


def _normal(use: ControlUse, place: str) -> ControlUse:
    """Return a use that anybody may have made as `control_use` would have."""
    from PIL import Image

    if use.picture is None:
        return control_use(**{name: getattr(use, name) for name in _FIELDS}, place=place)
    if not isinstance(use.picture, Image.Image):
        raise InvalidValueError(f"{place}.picture", use.picture, "a PIL picture, or None where image is a file's path")
    path = checked_path(use.image, f"{place}.image")
    return dataclasses.replace(use, image=path, picture=upright_rgb(use.picture, _backdrop(use.type, use.is_map)))


def map_background(control_type: object) -> tuple[int, int, int]:
    """Return the colour of a kind's map where nothing is: normals that face the camera, else black."""
    return (128, 128, 255) if control_type == "normal" else (0, 0, 0)


def _backdrop(control_type: object, is_map: object) -> tuple[int, int, int]:
    """Return what shows through the transparent parts of a picture or of a ready map."""
    return map_background(control_type) if is_map is True else (255, 255, 255)


def control_use(*, image: object, place: str, **given: Any) -> ControlUse:
    """Make a ControlUse of a path or a PIL picture; `place` says in an error where the picture stands."""
    from PIL import Image

    if isinstance(image, Image.Image):
        picture = upright_rgb(image, _backdrop(given.get("type"), given.get("is_map")))
        path = Path(_IN_MEMORY) / pixels_sha256(picture)
        return ControlUse(image=path, picture=picture, **given)
    return ControlUse(image=checked_path(image, f"{place}.image"), **given)


def one_control(
    use_controlnet: object, control_type: object, control_image: object, controlnet_scale: object
) -> tuple[ControlUse, ...]:
    """Return the control that the arguments of `generate_character` for one ask for, if they do.

    Raises InvalidValueError for what isn't one, and for an argument that would have no effect.
    """
    given = {"control_type": control_type, "control_image": control_image, "controlnet_scale": controlnet_scale}
    if not isinstance(use_controlnet, bool):
        raise InvalidValueError("use_controlnet", use_controlnet, "True or False")
    if not use_controlnet:
        if idle := [name for name, value in given.items() if value is not None]:
            raise InvalidValueError("use_controlnet", use_controlnet, f"True where there is a {idle[0]}")
        return ()
    if control_image is None:
        raise InvalidValueError("control_image", None, "a picture, or its path, where use_controlnet is True")
    scale = None if controlnet_scale is None else check_number(controlnet_scale, "controlnet_scale", *_SCALES)
    return (control_use(image=control_image, place="control_image", type=control_type or "", scale=scale),)


def plan_controls(
    configs: Configs, profile: Profile, controls: Iterable[ControlUse | Mapping[str, Any]], steps: int
) -> tuple[PlannedControl, ...]:
    """Look up what a request's controls name and read their pictures; loads no model.

    Each must act at one of the `steps` at least, unless its scale is 0. One that leaves `end` to the configuration and
    starts at 0 acts at the first step, however few there are.

    Raises UnknownNameError, InvalidValueError, ImageFileError, ProfileError, ModelNotFoundError or ModelFileError.
    """
    uses = control_uses(controls)
    if len(uses) > MAX_CONTROLS:
        raise InvalidValueError("controls", f"{len(uses)} of them", f"at most {MAX_CONTROLS}")
    # The text first, then the pictures, then the models: what is cheap to correct is said first.
    checked = [_checked(configs, use, steps, f"controls[{index}].") for index, use in enumerate(uses)]
    pictures = [_picture(use) for use in checked]
    return tuple(_planned(configs, profile, use, picture) for use, picture in zip(checked, pictures, strict=True))


def _checked(configs: Configs, use: ControlUse, steps: int, place: str) -> ControlUse:
    """Return the use with the configuration's values in place of None."""
    control = configs.control(use.type)
    _choice(use.resize, f"{place}resize", get_args(Resize))
    if use.model is not None:
        _choice(use.model, f"{place}model", get_args(ControlModel))
    if not isinstance(use.is_map, bool):
        raise InvalidValueError(f"{place}is_map", use.is_map, "True or False")
    scale = check_number(_or(use.scale, control.conditioning_scale), f"{place}scale", *_SCALES)
    start = check_number(_or(use.start, control.guidance_start), f"{place}start", 0.0, 1.0)
    end = check_number(_or(use.end, control.guidance_end), f"{place}end", 0.0, 1.0)
    if start >= end:
        raise InvalidValueError(f"{place}start", start, f"below its end, {end:g}")
    if use.end is None and start == 0:
        end = max(end, 1 / steps)
    if scale and not any(_acts_at(step, steps, start, end) for step in range(steps)):
        expected = f"far enough apart to hold one of {steps} steps from its beginning to its end"
        raise InvalidValueError(f"{place}start and end", (start, end), expected)
    return dataclasses.replace(use, scale=scale, start=start, end=end)


def _acts_at(step: int, steps: int, start: float, end: float) -> bool:
    """Say whether diffusers' pipeline lets a control act at a step, counted from 0."""
    return step / steps >= start and (step + 1) / steps <= end


def _or(value: float | None, default: float) -> float:
    return default if value is None else value


def _choice(value: object, name: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UnknownNameError(name, value, known)


def _picture(use: ControlUse) -> "Image":
    if use.picture is not None:
        return cast("Image", use.picture)
    if _IN_MEMORY_PATH.fullmatch(use.image.as_posix()) and not use.image.exists():
        raise InvalidValueError("image", str(use.image), "a file's path: that picture was in memory only, use its map")
    return open_image(use.image, _backdrop(use.type, use.is_map))


def _planned(configs: Configs, profile: Profile, use: ControlUse, picture: "Image") -> PlannedControl:
    control = configs.control(use.type)
    source = configs.control_source(use.type, profile.name, use.model)
    folder = resolve_source(source, f"{use.type} ControlNet of profile {profile.name!r}")
    if not (folder / "config.json").is_file():
        raise ModelFileError(folder / "config.json", "isn't there", AGAIN)
    own = control.models.get(profile.name)
    assert use.scale is not None and use.start is not None and use.end is not None  # noqa: S101, PT018  _checked
    return PlannedControl(
        type=use.type,
        mode=control.union_mode,
        model="dedicated" if own is not None and use.model != "union" else "union",
        folder=folder,
        packaged=source.package is not None,
        picture=picture,
        picture_sha256=pixels_sha256(picture),
        image=use.image,
        scale=use.scale,
        start=use.start,
        end=use.end,
        resize=cast("Resize", use.resize),
        preprocessor=None if use.is_map else plan_preprocessor(configs, profile, control),
    )


def plan_preprocessor(configs: Configs, profile: Profile, control: Control) -> PlannedPreprocessor:
    """Find what makes a profile's maps of a kind; raises ProfileError or ModelNotFoundError."""
    chosen: Preprocessor = configs.preprocessor(control.name, profile.name)
    what = f"{control.name} estimator of profile {profile.name!r}"
    model = None if chosen.model is None else resolve_source(chosen.model, what)
    detector = None if chosen.detector is None else resolve_source(chosen.detector, f"person detector of the {what}")
    return PlannedPreprocessor(
        name=chosen.name,
        params=chosen.params,
        model=model,
        detector=detector,
        packaged=_is_packaged(chosen.model),
        detector_packaged=_is_packaged(chosen.detector),
    )


def _is_packaged(source: Source | None) -> bool:
    return source is not None and source.package is not None
