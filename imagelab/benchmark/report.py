"""What a benchmark found: samples, their medians with intervals, ratios of interleaved pairs, verdicts."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from imagelab.benchmark.cases import Case
from imagelab.benchmark.pairs import paired_ratio
from imagelab.calibration import Estimate
from imagelab.calibration.intervals import bootstrap_interval
from imagelab.config import Profile
from imagelab.results import Record
from imagelab.whole_file import read_record, write_record

if TYPE_CHECKING:
    import pandas as pd

SCHEMA_VERSION = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample(Record):
    """One measurement of a case."""

    case: str
    round: int  # cases of one round were measured one after the other: they are pairs
    # loras, text, denoise, vae, face and write, of the whole batch; picture: to draw one of it, the first four
    seconds: Mapping[str, float]
    iterations_per_second: float  # passes of the UNet, which draws the whole batch
    peak_allocated_gib: float  # 0 without a GPU
    peak_reserved_gib: float
    peak_resident_gib: float = 0.0  # of the process, libraries included; 0 where it wasn't measured


@dataclass(frozen=True, kw_only=True, slots=True)
class CaseReport(Record):
    """What the samples of a case come to: medians, with bootstrap intervals."""

    case: Case
    samples: int
    seconds: Mapping[str, Estimate]  # as those of a sample
    iterations_per_second: Estimate
    flop_per_picture: int
    fraction_of_limit: float  # of the arithmetic that the machine would have done in the time that a picture took
    ratio_to_base: Estimate | None  # seconds a picture, ours without LoRAs at the same preset and batch size being 1
    peak_allocated_gib: float
    peak_reserved_gib: float
    target_seconds: float | None = None
    target_gib: float | None = None
    peak_resident_gib: float = 0.0

    @property
    def verdict(self) -> str:
        """Say whether the profile's targets are met, here: they are promised for one kind of machine."""
        if self.target_seconds is None:
            return "no target"
        met = self.seconds["picture"].high <= self.target_seconds and self.memory_verdict != "missed"
        return "met" if met else "missed"

    @property
    def memory_verdict(self) -> str:
        """Say the same of the memory alone, for which cases without a time to keep have a target, too."""
        if self.target_gib is None or not self.peak_allocated_gib:
            return "no target" if self.target_gib is None else "no GPU"
        return "met" if self.peak_allocated_gib <= self.target_gib else "missed"


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchmarkReport(Record):
    """A benchmark of one profile on one machine."""

    profile: str
    measured_at: str  # ISO 8601, UTC
    machine: Mapping[str, str]  # device, processor, versions ...
    flop_per_second: float  # what its matrix products reached, in the dtype of the weights
    cases: tuple[CaseReport, ...]
    samples: tuple[Sample, ...] = field(repr=False)
    targets_for: str  # the machine that the profile's targets are promised for, which needn't be this one
    vram_cap_gib: float | None = None
    schema_version: int = SCHEMA_VERSION

    @property
    def file_name(self) -> str:
        """Return the name of its file: profile, device and when it was measured."""
        device = re.sub(r"[^A-Za-z0-9]+", "-", self.machine["device"]).strip("-")
        return f"{self.profile}-{device}-{re.sub(r'[:+-]', '', self.measured_at)[:15]}.json"

    def to_frame(self) -> "pd.DataFrame":
        """Return a row per case: seconds by stage, it/s, fraction of the limit, ratio to base, memory, verdict."""
        import pandas as pd

        return pd.DataFrame([_row(case) for case in self.cases])

    def to_text(self) -> str:
        """Return a table for a terminal."""
        machine = ", ".join(f"{key} {value}" for key, value in self.machine.items())
        rate = f"matrix products at {self.flop_per_second / 1e12:.4g} TFLOP/s"
        table = self.to_frame().to_string(index=False)
        return f"{self.profile} on {machine}; {rate}\n{table}\ntargets are promised for: {self.targets_for}"

    def write(self, path: Path) -> Path:
        """Write it as JSON, whole or not at all."""
        return write_record(self, path)


def _row(report: CaseReport) -> dict[str, object]:
    stages = {name: round(value.value, 4) for name, value in report.seconds.items()}
    return {
        "case": report.case.name,
        "n": report.samples,
        **stages,
        "it/s": round(report.iterations_per_second.value, 2),
        "of limit": round(report.fraction_of_limit, 3),
        "to base": str(report.ratio_to_base) if report.ratio_to_base else "",
        "GiB": round(report.peak_allocated_gib, 2),
        "reserved": round(report.peak_reserved_gib, 2),
        "resident": round(report.peak_resident_gib, 2),
        "verdict": report.verdict,
    }


def read_report(path: str | os.PathLike[str]) -> BenchmarkReport:
    """Read what `write` wrote; raises InvalidValueError, which names the file."""
    return read_record(BenchmarkReport, "benchmark report", path)


def report_case(
    case: Case, own: Sequence[Sample], base: Sequence[Sample], *, flop: int, rate: float, profile: Profile
) -> CaseReport:
    """Sum up a case's samples; `base`: those of the case that it is compared with, of the same rounds."""
    stages = own[0].seconds
    seconds = {stage: median([sample.seconds[stage] for sample in own]) for stage in stages}
    targets = profile.targets
    held_to = case.quality_preset == targets.quality_preset and case.batch_size == 1 and case.engine == "imagelab"
    kind = "controlnet" if case.variant == "both" else case.variant
    return CaseReport(
        case=case,
        samples=len(own),
        seconds=seconds,
        iterations_per_second=median([sample.iterations_per_second for sample in own]),
        flop_per_picture=flop,
        fraction_of_limit=flop / rate / seconds["picture"].value,
        ratio_to_base=paired_ratio(_seconds(own), _seconds(base)) if base and base[0].case != case.name else None,
        peak_allocated_gib=max(sample.peak_allocated_gib for sample in own),
        peak_reserved_gib=max(sample.peak_reserved_gib for sample in own),
        peak_resident_gib=max(sample.peak_resident_gib for sample in own),
        target_seconds=getattr(targets.latency_seconds, kind) if held_to else None,
        target_gib=getattr(targets.vram_gib, kind if held_to else "peak") if targets.vram_gib else None,
    )


def _seconds(samples: Sequence[Sample]) -> list[float]:
    return [sample.seconds["picture"] for sample in samples]


def median(values: Sequence[float]) -> Estimate:
    """Return the median and its percentile bootstrap interval."""
    return bootstrap_interval(np.median, np.asarray(values, np.float64))
