"""From the panel to a headless run: the parameters of 10_generate_character, as YAML."""

from pathlib import Path
from typing import Any

from imagelab.config import Configs, project_root
from imagelab.errors import InvalidValueError
from imagelab.explorer.settings import Settings
from imagelab.imagefiles import check_file_path, open_image, save_png
from imagelab.whole_file import write_text

NOTEBOOK = "10_generate_character"
_HEAD = "# {notebook}, as the explorer had it: python -m imagelab run {notebook} --params {path}\n"


def to_parameters(settings: Settings, configs: Configs, profile: str, device: str) -> dict[str, Any]:
    """Return the parameters with which 10_generate_character draws these settings, control picture apart.

    Raises UnknownNameError for the character.
    """
    request = settings.to_request(configs)
    return {
        "profile": profile,
        "device": device,
        "character": settings.character,
        "scene": request.scene_description,
        "presets": [settings.quality_preset or configs.profile(profile).default_quality_preset],
        "style": settings.style,
        "seed": settings.seed,
        "width": settings.width,
        "height": settings.height,
        "negative_prompt": settings.negative_prompt,
        "control_type": settings.control.type if settings.control else None,
        "controlnet_scale": settings.control.scale if settings.control else None,
    }


def write_parameters(path: Path, settings: Settings, configs: Configs, profile: str, device: str) -> Path:
    """Write params.yaml for `imagelab run` and `papermill -f`, with the control's picture beside it.

    Raises UnknownNameError for the character, ImageFileError for the control's picture, InvalidValueError for a path
    that YAML can't be written to, also where another file lies that this hasn't written.
    """
    import yaml

    path = _own_path(path)
    parameters = to_parameters(settings, configs, profile, device)
    parameters["control_image"] = _control_image(path, settings)
    head = _HEAD.format(notebook=NOTEBOOK, path=shown(path))
    text = yaml.safe_dump(parameters, sort_keys=False, allow_unicode=True)
    return write_text(head + text, path)


def _own_path(path: Path) -> Path:
    path = check_file_path(path.expanduser(), "the path to write to", (".yaml", ".yml"))
    if path.exists() and not path.read_bytes().startswith(_HEAD.partition(",")[0].format(notebook=NOTEBOOK).encode()):
        raise InvalidValueError("the path to write to", str(path), "a new one, or parameters that were exported before")
    return path


def shown(path: Path) -> str:
    """Return a path as a parameter names it: relative to the project where it lies in it."""
    root, whole = project_root(), path.absolute()
    return (whole.relative_to(root) if whole.is_relative_to(root) else whole).as_posix()


def _control_image(path: Path, settings: Settings) -> str | None:
    if settings.control is None:
        return None
    use = settings.control
    picture = open_image(use.image) if use.picture is None else use.picture
    return shown(save_png(picture, path.with_name(f"{path.stem}.control.png")))
