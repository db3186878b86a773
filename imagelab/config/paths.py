"""Where the project, its configuration and the models lie on this machine."""

import os
import tomllib
from pathlib import Path


def project_root() -> Path:
    """Return $IMAGELAB_ROOT, else the imagelab project around the working directory, else the source checkout."""
    if root := os.environ.get("IMAGELAB_ROOT"):
        return Path(root).expanduser().resolve()
    here = Path.cwd()
    return next((folder for folder in (here, *here.parents) if _is_project(folder)), Path(__file__).parents[2])


def models_root() -> Path:
    """Return the folder of the models that don't ship with the package: $IMAGELAB_MODELS, else models/."""
    root = os.environ.get("IMAGELAB_MODELS")
    return Path(root).expanduser().resolve() if root else project_root() / "models"


def configs_root(root: str | os.PathLike[str] | None = None) -> Path:
    """Return `root` if given, else $IMAGELAB_CONFIGS, else configs/ of the project."""
    given = root or os.environ.get("IMAGELAB_CONFIGS")
    return Path(given).expanduser().resolve() if given else project_root() / "configs"


def _is_project(folder: Path) -> bool:
    try:
        project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8")).get("project", {})
    except (OSError, ValueError):  # no such file, or one of a project that isn't ours to judge
        return False
    return isinstance(project, dict) and project.get("name") == "imagelab"
