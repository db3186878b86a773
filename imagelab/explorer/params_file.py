"""From the panel to a headless run: the parameters of 10_generate_character, as YAML."""

from pathlib import Path
from typing import Any

from imagelab.config import Configs, project_root
from imagelab.explorer.settings import Settings
from imagelab.imagefiles import open_image, save_png
from imagelab.whole_file import whole_file

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

    Raises UnknownNameError for the character, ImageFileError for the control's picture, OSError for the file.
    """
    import yaml

    parameters = to_parameters(settings, configs, profile, device)
    parameters["control_image"] = _control_image(path, settings)
    head = _HEAD.format(notebook=NOTEBOOK, path=shown(path))
    text = yaml.safe_dump(parameters, sort_keys=False, allow_unicode=True)
    with whole_file(path) as stream:
        stream.write((head + text).encode())
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
