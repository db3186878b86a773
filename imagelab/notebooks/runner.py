"""Run a notebook: everything is checked before a kernel starts, and everything that it leaves behind is kept.

reports/runs/<run id>/ holds NAME.ipynb as executed, NAME.html, pictures/ and result.json. A run with the id of an
earlier run of the same notebook replaces it when the notebook has ended. Interrupted, it leaves the earlier run where
it was; failed, it leaves one that went well, and is itself kept as <run id>.failed.
"""

import json
import logging
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import imagelab
from imagelab.config import project_root
from imagelab.errors import InvalidValueError, NotebookError
from imagelab.glue import read_scraps
from imagelab.notebooks.html import write_html
from imagelab.notebooks.parameters import check_parameters, read_parameters
from imagelab.notebooks.paths import find_notebook, run_folder

RESULT_VERSION = 1

_START_SECONDS = 300  # a kernel on a busy machine takes more than papermill's 60
_KERNEL_ENVIRONMENT = {
    "IMAGELAB_HEADLESS": "1",  # nobody is there to press the explorer's buttons
    "JUPYTER_PREFER_ENV_PATH": "1",  # "python3" is this interpreter, whatever kernels the user has installed
    "PYDEVD_DISABLE_FILE_VALIDATION": "1",  # or debugpy warns about frozen modules in every run
}


@dataclass(frozen=True, kw_only=True, slots=True)
class RunPlan:
    """A run that nothing is wrong with, as far as can be told without a kernel."""

    notebook: str
    source: Path
    parameters: Mapping[str, Any]
    run_id: str
    folder: Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """A run that went well, and where its files are."""

    plan: RunPlan
    notebook: Path
    html: Path
    result: Path
    pictures: Path | None  # None: the notebook draws none
    scraps: Mapping[str, Any] = field(default_factory=dict)


def plan_run(
    notebook: str,
    parameters: Mapping[str, object] | None = None,
    *,
    run_id: str | None = None,
    runs_root: Path | None = None,
) -> RunPlan:
    """Check a notebook's name, its parameters and the run id; writes nothing and starts nothing.

    Raises UnknownNameError, NotebookError (with everything that is wrong with the parameters) or InvalidValueError.
    """
    source = find_notebook(notebook)
    name, known = source.stem, read_parameters(source)
    checked = check_parameters(name, known, parameters or {})
    run_id = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{name}" if run_id is None else run_id
    folder = run_folder(run_id, runs_root)
    if (owner := _owner(folder)) not in {None, name}:
        raise InvalidValueError("run id", run_id, f"one that isn't taken: the folder of that name holds {owner}")
    if "output_dir" in known and checked.get("output_dir") is None:
        checked["output_dir"] = str(folder / "pictures")
    return RunPlan(notebook=name, source=source, parameters=checked, run_id=run_id, folder=folder)


def _owner(folder: Path) -> str | None:
    """Return the notebook that a folder is a run of, None for no or an empty folder, else that it isn't a run."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return None
    if owner := _read_result(folder).get("notebook"):
        return str(owner)
    begun = sorted(path.stem for path in folder.glob("*.ipynb"))  # a run that was killed has no result
    return begun[0] if begun else "something that is no run"


def _read_result(folder: Path) -> dict[str, Any]:
    """Return what the run in a folder has left as its result, nothing if it has left none."""
    try:
        result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return result if isinstance(result, dict) else {}


def execute(plan: RunPlan, *, progress: bool = False) -> Run:
    """Run the notebook in a kernel of this interpreter.

    Raises NotebookError, with cell and exception, when it fails; the notebook as far as it came, its HTML and a
    result.json of status "failed" are there nonetheless, at the place that the error names.
    """
    _recover(plan.folder)
    keep_earlier = _went_well(plan.folder)
    executed = plan.folder / f"{plan.notebook}.ipynb"
    started, began = datetime.now(UTC), time.perf_counter()
    with _replacing(plan.folder) as previous:
        failure = run_in_kernel(plan.source, executed, plan.parameters, progress=progress)
        html = write_html(executed) if executed.is_file() else executed.with_suffix(".html")
        scraps = read_scraps(executed) if executed.is_file() else {}
        result = plan.folder / "result.json"
        times = {"started": started.isoformat(timespec="seconds"), "seconds": round(time.perf_counter() - began, 3)}
        _write_json(result, _describe(plan, failure, scraps) | times)
        kept = plan.folder
        if failure and keep_earlier:
            kept = plan.folder.with_name(f"{plan.folder.name}.failed")
            shutil.rmtree(kept, ignore_errors=True)
            plan.folder.rename(kept)
            previous.rename(plan.folder)
    if failure:
        fix = f"The notebook as far as it came: {shown(kept / executed.name)}"
        raise NotebookError(failure.notebook, failure.reason, fix)
    output_dir = plan.parameters.get("output_dir")
    pictures = Path(output_dir) if output_dir else None
    return Run(plan=plan, notebook=executed, html=html, result=result, pictures=pictures, scraps=scraps)


def _went_well(folder: Path) -> bool:
    return _read_result(folder).get("status") == "ok"


def _previous(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.previous")


def _recover(folder: Path) -> None:
    """Put an earlier run back that went well and that a run which was killed has left aside."""
    if _went_well(_previous(folder)) and not _went_well(folder):
        shutil.rmtree(folder, ignore_errors=True)
        _previous(folder).rename(folder)


@contextmanager
def _replacing(folder: Path) -> Iterator[Path]:
    """Make an empty folder in place of one that comes back if the block is interrupted; yield where that one is."""
    previous = _previous(folder)
    shutil.rmtree(previous, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    if folder.exists():
        folder.rename(previous)
    folder.mkdir()
    try:
        yield previous
    except BaseException:
        if previous.exists():
            shutil.rmtree(folder, ignore_errors=True)
            previous.rename(folder)
        raise
    shutil.rmtree(previous, ignore_errors=True)


def run_in_kernel(
    source: Path, executed: Path, parameters: Mapping[str, Any], *, progress: bool = False
) -> NotebookError | None:
    """Execute `source` into `executed`; what goes wrong in the notebook is returned, not raised."""
    import papermill
    from jupyter_client.kernelspec import NoSuchKernel
    from papermill.exceptions import PapermillException, PapermillExecutionError
    from traitlets.config import Config

    # papermill overlooks annotations with `|` and warns that these parameters are unknown; ours are checked.
    logging.getLogger("papermill").setLevel(logging.ERROR)
    try:
        with environment({**_KERNEL_ENVIRONMENT, "IMAGELAB_ROOT": str(project_root())}):
            papermill.execute_notebook(
                source,
                executed,
                dict(parameters),
                kernel_name="python3",
                language="python",
                progress_bar=progress,
                start_timeout=_START_SECONDS,
                shutdown_kernel="immediate",  # a graceful one interrupts the idle kernel, which says so on stderr
                config=Config({"KernelManager": {"transport_encryption": "auto"}}),  # else the kernel warns about it
            )
    except PapermillExecutionError as error:
        said = f": {error.evalue}" if error.evalue else ""
        reason = f"cell {_place(executed, error.exec_count)} raised {error.ename}{said}"
        return NotebookError(source.stem, reason)
    except (PapermillException, NoSuchKernel, RuntimeError, TimeoutError) as error:  # RuntimeError: the kernel died
        return NotebookError(source.stem, f"the kernel failed, {type(error).__name__}: {error}")
    return None


def _place(executed: Path, count: int | None) -> str:
    """Return the number of a cell and what the cell is for: "4 (run)"."""
    cells = json.loads(executed.read_text(encoding="utf-8"))["cells"]
    tags = (cell["metadata"].get("tags", []) for cell in cells if count and cell.get("execution_count") == count)
    role = next((tag for found in tags for tag in found), None)
    return f"[{count}]" + (f" ({role})" if role else "")


@contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for the kernels that are started in the block."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _describe(plan: RunPlan, failure: NotebookError | None, scraps: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "schema_version": RESULT_VERSION,
        "imagelab": imagelab.__version__,
        "run_id": plan.run_id,
        "notebook": plan.notebook,
        "status": "failed" if failure else "ok",
        "error": str(failure) if failure else None,
        "parameters": dict(plan.parameters),
        "summary": scraps.get("summary"),
        "metrics": scraps.get("metrics"),
        "headline": scraps.get("headline"),
    }


def _write_json(path: Path, data: Mapping[str, Any]) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    partial.replace(path)


def shown(path: Path) -> Path:
    """Return a path as it is shortest to read from here."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
