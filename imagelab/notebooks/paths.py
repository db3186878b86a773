"""Where notebooks and their runs lie."""

import re
import shutil
from pathlib import Path

from imagelab.config import pick, project_root
from imagelab.errors import InvalidValueError, NotebookError

_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_INTERACTIVE = "interactive"  # the run of whoever executes cells by hand, or nbval


def list_notebooks() -> dict[str, Path]:
    """Return {name: path} of the project's notebooks, in the order of their numbers."""
    return {path.stem: path for path in sorted((project_root() / "notebooks").glob("*.ipynb"))}


def find_notebook(name: str) -> Path:
    """Return a notebook's path.

    Raises UnknownNameError with the nearest name, or NotebookError where the project has no notebooks.
    """
    notebooks = list_notebooks()
    if not notebooks:
        folder = project_root() / "notebooks"
        fix = "Run this in the project, or set IMAGELAB_ROOT to its folder"
        raise NotebookError(name, f"there are no notebooks in {folder}", fix)
    return pick("notebook", notebooks, name.removesuffix(".ipynb"))


def run_folder(run_id: str, runs_root: Path | None = None) -> Path:
    """Return the folder of a run; raises InvalidValueError for an id that isn't a plain file name."""
    if not _RUN_ID.fullmatch(run_id) or run_id == _INTERACTIVE:
        expected = f"up to 64 letters, digits and _ . -, beginning with a letter or digit, and not {_INTERACTIVE!r}"
        raise InvalidValueError("run id", run_id, expected)
    return (runs_root or project_root() / "reports/runs") / run_id


def store_folder(store: str | None, output: Path) -> Path:
    """Return the folder of reference stores: the given one, relative to the project, or one within `output`."""
    return project_root() / store if store else output / "references"


def benchmarks_folder(kept: str | None, output: Path) -> Path:
    """Return the folder of benchmarks' JSON: the given one, relative to the project, or `output` itself."""
    return project_root() / kept if kept else output


def output_folder(notebook: str, output_dir: str | None) -> Path:
    """Return the folder for a notebook's pictures: the given one, or an emptied one of its own when it is run by hand.

    What the last run by hand left is gone then: what is worth keeping is run with `imagelab run`.
    """
    folder = Path(output_dir) if output_dir else project_root() / "reports/runs" / _INTERACTIVE / notebook
    if not output_dir:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    return folder
