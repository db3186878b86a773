"""What a benchmark found: samples, their means with intervals, ratios of interleaved pairs, verdicts.

Means are geometric, as those that two benchmarks are compared by, and their intervals Student's, on the logarithms: the
bootstrap's of three rounds held the truth three times in four where 95 % were promised. Stages, of which one may take
no time at all, have arithmetic ones.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from imagelab.benchmark.cases import Case
from imagelab.benchmark.pairs import paired_ratio
from imagelab.calibration import Estimate
from imagelab.calibration.intervals import geometric_mean, mean_interval
from imagelab.config import Profile
from imagelab.results import Record
from imagelab.whole_file import write_record

if TYPE_CHECKING:
    import pandas as pd

SCHEMA_VERSION = 1
LEAST_ROUNDS = 3  # of fewer a spread says next to nothing


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
    predicted_gib: float = 0.0  # the peak that was predicted to be allocated; 0 without a limit to hold it to


@dataclass(frozen=True, kw_only=True, slots=True)
class CaseReport(Record):
    """What the samples of a case come to: means, with 95 % intervals."""

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
    predicted_gib: float = 0.0

    @property
    def verdict(self) -> str:
        """Say whether the profile's targets are met, here: they are promised for one kind of machine."""
        if self.target_seconds is None:
            return "no target"
        found = self.seconds["picture"]
        if self.memory_verdict == "missed":
            return "missed"
        if self.samples < LEAST_ROUNDS:
            return "too few rounds"
        if found.low > self.target_seconds:
            return "missed"
        return "met" if found.high <= self.target_seconds else "undecided"

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
        "to base": said(report.ratio_to_base, report.samples),
        "GiB": round(report.peak_allocated_gib, 2),
        "predicted": round(report.predicted_gib, 2),
        "reserved": round(report.peak_reserved_gib, 2),
        "resident": round(report.peak_resident_gib, 2),
        "verdict": report.verdict,
    }


def said(found: Estimate | None, rounds: int) -> str:
    """Write an estimate, without an interval where a single round gave none."""
    return "" if found is None else str(found) if rounds > 1 else f"{found.value:.3g}"


def base_of(case: Case) -> Case:
    """Return the case that a case is compared with: ours, bare, of the same preset and batch size."""
    return Case(quality_preset=case.quality_preset, batch_size=case.batch_size)


def sum_up(report: BenchmarkReport) -> BenchmarkReport:
    """Return the report with what its samples come to, whatever it said that they do."""
    own = {one.case.name: [sample for sample in report.samples if sample.case == one.case.name] for one in report.cases}
    cases = []
    for one in report.cases:
        base = own.get(base_of(one.case).name, ())
        sums = _sums(one.case, own[one.case.name], base, flop=one.flop_per_picture, rate=report.flop_per_second)
        cases.append(replace(one, **sums))
    return replace(report, cases=tuple(cases))


def report_case(
    case: Case, own: Sequence[Sample], base: Sequence[Sample], *, flop: int, rate: float, profile: Profile
) -> CaseReport:
    """Sum up a case's samples; `base`: those of the case that it is compared with, of the same rounds."""
    targets = profile.targets
    held_to = case.quality_preset == targets.quality_preset and case.batch_size == 1 and case.engine == "imagelab"
    kind = "controlnet" if case.variant == "both" else case.variant
    return CaseReport(
        case=case,
        flop_per_picture=flop,
        target_seconds=getattr(targets.latency_seconds, kind) if held_to else None,
        target_gib=getattr(targets.vram_gib, kind if held_to else "peak") if targets.vram_gib else None,
        **_sums(case, own, base, flop=flop, rate=rate),
    )


def _sums(case: Case, own: Sequence[Sample], base: Sequence[Sample], *, flop: int, rate: float) -> dict[str, Any]:
    stages = {name: [sample.seconds[name] for sample in own] for name in own[0].seconds}
    picture = geometric_mean(stages["picture"])
    means = {name: mean_interval(np.array(numbers)) for name, numbers in stages.items()}
    return {
        "samples": len(own),
        "seconds": means | {"picture": picture},
        "iterations_per_second": geometric_mean([sample.iterations_per_second for sample in own]),
        "fraction_of_limit": flop / rate / picture.value,
        "ratio_to_base": None if base_of(case) == case else _ratio(own, base),
        "peak_allocated_gib": max(sample.peak_allocated_gib for sample in own),
        "peak_reserved_gib": max(sample.peak_reserved_gib for sample in own),
        "peak_resident_gib": max(sample.peak_resident_gib for sample in own),
        "predicted_gib": max(sample.predicted_gib for sample in own),
    }


def _ratio(own: Sequence[Sample], base: Sequence[Sample]) -> Estimate | None:
    """Return how much longer a picture took, over the rounds that both have."""
    beside = {sample.round: sample.seconds["picture"] for sample in base}
    pairs = [(sample.seconds["picture"], beside[sample.round]) for sample in own if sample.round in beside]
    return paired_ratio([one for one, _ in pairs], [other for _, other in pairs]) if pairs else None
