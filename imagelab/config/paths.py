"""Where the project, its configuration and the models lie on this machine."""

import os
import tomllib
from pathlib import Path

from imagelab.errors import InvalidValueError


def project_root() -> Path:
    """Return $IMAGELAB_ROOT, else the imagelab project around the working directory, else the source checkout.

    Raises InvalidValueError, as the other two do, for a variable that can't be the path of a folder.
    """
    if root := _folder_from("IMAGELAB_ROOT"):
        return root
    here = Path.cwd()
    return next((folder for folder in (here, *here.parents) if _is_project(folder)), Path(__file__).parents[2])


def models_root() -> Path:
    """Return the folder of the models that don't ship with the package: $IMAGELAB_MODELS, else models/."""
    return _folder_from("IMAGELAB_MODELS") or project_root() / "models"


def configs_root(root: str | os.PathLike[str] | None = None) -> Path:
    """Return `root` if given, else $IMAGELAB_CONFIGS, else configs/ of the project."""
    if root:
        return Path(root).expanduser().resolve()
    return _folder_from("IMAGELAB_CONFIGS") or project_root() / "configs"


def _folder_from(variable: str) -> Path | None:
    """Return the path that an environment variable holds, None if it is empty or not set; it needn't exist yet."""
    value = os.environ.get(variable)
    if not value:
        return None
    try:
        path = Path(value).expanduser()
        path.exists()  # the system refuses a name that is too long, or a folder that it doesn't let us look into
        # A notebook's kernel has another working directory: what a relative path names would change with it.
        if path.is_absolute():
            return path.resolve()
    except (OSError, RuntimeError) as error:  # RuntimeError: "~nobody", or links in a circle
        raise InvalidValueError(variable, value, f"the path of a folder ({error})") from error
    raise InvalidValueError(variable, value, f"an absolute path, perhaps {str(path.absolute())!r}")


def _is_project(folder: Path) -> bool:
    try:
        project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8")).get("project", {})
    except (OSError, ValueError):  # no such file, or one of a project that isn't ours to judge
        return False
    return isinstance(project, dict) and project.get("name") == "imagelab"
