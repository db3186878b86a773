"""How fast a profile draws and in how much memory, as a fraction of what the machine could do."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from imagelab.benchmark.cases import VARIANTS, Case, LoraChange, plan_cases, plan_lora_changes
from imagelab.benchmark.pairs import paired_difference, paired_ratio
from imagelab.benchmark.reading import read_report
from imagelab.benchmark.report import BenchmarkReport, CaseReport, Sample

if TYPE_CHECKING:
    from imagelab.benchmark.rehearsal import rehearse
    from imagelab.benchmark.run import run_benchmark

__all__ = [
    "VARIANTS",
    "BenchmarkReport",
    "Case",
    "CaseReport",
    "LoraChange",
    "Sample",
    "paired_difference",
    "paired_ratio",
    "plan_cases",
    "plan_lora_changes",
    "read_report",
    "rehearse",
    "run_benchmark",
]


_DRAWING = {"rehearse": "rehearsal", "run_benchmark": "run"}  # name: module


def __getattr__(name: str) -> Any:
    """Import what draws when it is first asked for: a report is read and compared without diffusers."""
    if name not in _DRAWING:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_DRAWING[name]}"), name)
