"""Write the committed outputs anew: of each notebook, what its summary cell prints, and nothing else."""

import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from imagelab.errors import NotebookError
from imagelab.notebooks.paths import find_notebook, list_notebooks
from imagelab.notebooks.runner import environment, run_in_kernel

CHECKED_TAG = "nbval-check-output"

# Other code paths through the same arithmetic, as another CPU would take them; all that this machine can pretend.
OLD_CPU = {
    "ATEN_CPU_CAPABILITY": "default",
    "MKL_CBWR": "COMPATIBLE",
    "OMP_NUM_THREADS": "1",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
    "OPENBLAS_CORETYPE": "Nehalem",
}


def refresh(names: Iterable[str] | None = None) -> list[Path]:
    """Execute notebooks with their defaults, here and as an old CPU would, and store what their summaries print.

    Returns the paths. Raises NotebookError when a notebook fails, or when the two summaries differ: then a value is so
    near to where its rounding jumps that another machine's run would fail; another default seed moves it away.
    """
    import nbformat

    chosen = [find_notebook(name) for name in names or list_notebooks()]
    for path in chosen:
        notebook, again = _executed(path, {}), _executed(path, OLD_CPU)
        if changed := sorted(set(_summary_lines(notebook)) ^ set(_summary_lines(again))):
            reason = f"its summary differs on an old CPU: {'; '.join(line.strip() for line in changed)}"
            raise NotebookError(path.stem, reason, "Choose another default seed, or round more coarsely")
        nbformat.write(keep_summary(notebook), path)
    return chosen


def _executed(path: Path, variables: Mapping[str, str]) -> Any:
    import nbformat

    with tempfile.TemporaryDirectory() as folder, environment({**variables, "CUDA_VISIBLE_DEVICES": ""}):
        executed = Path(folder) / path.name
        if failure := run_in_kernel(path, executed, {}):
            raise failure
        return nbformat.read(executed, as_version=4)


def _summary_lines(notebook: Any) -> list[str]:
    cells = (cell for cell in notebook.cells if CHECKED_TAG in cell.metadata.get("tags", ()))
    return [line for cell in cells for output in cell.outputs for line in output.get("text", "").splitlines()]


def keep_summary(notebook: Any) -> Any:
    """Return the notebook as it is committed: no output but the summary's, no trace of the machine."""
    import nbformat

    original = nbformat.from_dict(notebook)
    for cell in original.cells:
        tags = cell.metadata.get("tags", [])
        cell.metadata = nbformat.from_dict({"tags": tags} if tags else {})
        if cell.cell_type == "code" and CHECKED_TAG not in tags:
            cell.outputs = []
    original.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
    )
    return original
