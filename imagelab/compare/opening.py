"""Two paths, compared as what lies there."""

import os
from collections.abc import Collection
from pathlib import Path

from imagelab.benchmark import BenchmarkReport, read_report
from imagelab.compare.batches import Batch, compare_batches, read_compared_batch
from imagelab.compare.benchmarks import compare_benchmarks
from imagelab.compare.values import CONFIDENCE, Comparison
from imagelab.errors import InvalidValueError, RunFolderError
from imagelab.runs.lines import PLAN_FILE

Run = BenchmarkReport | Batch


def open_run(path: str | os.PathLike[str]) -> Run:
    """Read a batch's folder, or a benchmark's JSON; raises InvalidValueError or RunFolderError for anything else."""
    if not Path(path).exists():
        raise InvalidValueError("run", str(path), "a benchmark's JSON or a batch's folder, and there is nothing")
    if not Path(path).is_dir():
        return read_report(path)
    if not (Path(path) / PLAN_FILE).exists():
        drawn = [str(plan.parent) for plan in sorted(Path(path).glob(f"pictures/*/{PLAN_FILE}"))]
        batches = f"; the run's batches: {', '.join(drawn)}" if drawn else ""
        raise RunFolderError(Path(path), "no batch's folder", f"It has no {PLAN_FILE}{batches}")
    return read_compared_batch(path)


def compare_runs(
    a: str | os.PathLike[str] | Run,
    b: str | os.PathLike[str] | Run,
    *,
    names: tuple[str, str] | None = None,
    fail_over: float | None = None,
    across: Collection[str] = (),
    relative: bool = False,
    confidence: float = CONFIDENCE,
) -> Comparison:
    """Compare run B with run A: two benchmarks (`compare_benchmarks`) or two batches (`compare_batches`).

    `fail_over` is the loss from which on `passed` is False, 0.1 being a tenth of A; `relative`, of
    benchmarks alone, takes stock diffusers for the measure. Raises InvalidValueError for a benchmark and a batch, for
    `relative` batches, and what those two raise.
    """
    one, other = (run if isinstance(run, Run) else open_run(run) for run in (a, b))
    said = names or (_name(a, "A"), _name(b, "B"))
    if isinstance(one, BenchmarkReport) and isinstance(other, BenchmarkReport):
        return compare_benchmarks(
            one, other, names=said, fail_over=fail_over, across=across, relative=relative, confidence=confidence
        )
    if relative:
        raise InvalidValueError("relative", relative, "False for batches")
    if isinstance(one, Batch) and isinstance(other, Batch):
        return compare_batches(one, other, names=said, fail_over=fail_over, across=across, confidence=confidence)
    kinds = ["a benchmark" if isinstance(run, BenchmarkReport) else "a batch" for run in (one, other)]
    raise InvalidValueError("B", said[1], f"{kinds[0]}, as A is, and no{kinds[1].removeprefix('a')}")


def _name(run: str | os.PathLike[str] | Run, name: str) -> str:
    return name if isinstance(run, Run) else os.fspath(run)
