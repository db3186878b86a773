"""Find what there is to report."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from imagelab.benchmark import BenchmarkReport, read_report
from imagelab.config import project_root
from imagelab.errors import InvalidValueError
from imagelab.reporting.measurement import Measurement, Unmeasured, read_measurement
from imagelab.reporting.runs import RunResult, read_result
from imagelab.whole_file import read_json

UNMEASURED_FILE = "unmeasured.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Gathered:
    """All that a report tells; the keys are the files, relative to the folder of reports."""

    benchmarks: Mapping[str, BenchmarkReport]
    measurements: Mapping[str, Measurement]
    unmeasured: tuple[Unmeasured, ...]
    runs: tuple[RunResult, ...]


def gather(runs: Iterable[str | Path] = (), *, reports: Path | None = None) -> Gathered:
    """Read every measurement in `reports`, by default the project's reports/, and the runs that are named.

    A run is a folder, or the name of one in reports/runs. Raises InvalidValueError for a file that isn't what its place
    promises, and for a folder that holds no run.
    """
    root = project_root() / "reports" if reports is None else reports
    benchmarks: dict[str, BenchmarkReport] = {}
    measurements: dict[str, Measurement] = {}
    for path in (*sorted(root.glob("*.json")), *sorted(root.glob("benchmarks/*.json"))):
        name = path.relative_to(root).as_posix()
        if _is_benchmark(path):
            benchmarks[name] = read_report(path)
        elif name != UNMEASURED_FILE:
            measurements[name] = read_measurement(path)
    runs = list(runs)
    if "" in runs:  # as an unset variable of a shell script: Path takes it for the current folder
        raise InvalidValueError("run", "", "the name or the folder of a run")
    folders = [run if (run := Path(given)).is_dir() else root / "runs" / run for given in runs]
    return Gathered(
        benchmarks=benchmarks,
        measurements=measurements,
        unmeasured=_read_unmeasured(root / UNMEASURED_FILE),
        runs=tuple(read_result(folder) for folder in folders),
    )


def _is_benchmark(path: Path) -> bool:
    try:
        return "cases" in json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        return False  # read_measurement says what is wrong with it


def _read_unmeasured(path: Path) -> tuple[Unmeasured, ...]:
    if not path.is_file():
        return ()
    listed = read_json("list of the unmeasured", path)
    try:
        return tuple(Unmeasured.from_dict(listed[place]) for place in range(len(listed)))
    except (ValueError, TypeError, KeyError) as error:
        wanted = f"a list of objects with what, needs, command and predicted ({error})"
        raise InvalidValueError(path.name, str(path), wanted) from error
