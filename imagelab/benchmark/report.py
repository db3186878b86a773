"""What a benchmark found: samples, their means with intervals, ratios of interleaved pairs, verdicts.

A bare picture is held against stock diffusers', one with LoRAs or a ControlNet against our own bare one.

Means are geometric, as those that two benchmarks are compared by, and their intervals Student's, on the logarithms: the
bootstrap's of three rounds held the truth three times in four where 95 % were promised. Stages, of which one may take
no time at all, have arithmetic ones.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from imagelab.benchmark.cases import Case, LoraChange
from imagelab.benchmark.pairs import paired_ratio
from imagelab.calibration import Estimate
from imagelab.calibration.intervals import geometric_mean, mean_interval
from imagelab.config import Profile
from imagelab.records import Record
from imagelab.whole_file import write_record

if TYPE_CHECKING:
    import pandas as pd

SCHEMA_VERSION = 1
LEAST_ROUNDS = 3  # of fewer a spread says next to nothing
OUT_OF_MEMORY = "out of memory"
OLDER_SECONDS = "Seconds a picture count the putting in or taking out of LoRAs before it, as they did in older reports"
PERCENTILES = {50: LEAST_ROUNDS, 90: 10, 99: 100}  # {percentile: the fewest rounds that say anything of it}


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample(Record):
    """One measurement of a case."""

    case: str
    round: int  # cases of one round were measured one after the other: they are pairs
    # text, denoise, vae, face and write, of the whole batch; picture: to draw one of it, the first three. Of reports
    # that are older than the changes of LoRAs also loras, a part of the picture
    seconds: Mapping[str, float]
    iterations_per_second: float  # passes of the UNet, which draws the whole batch
    peak_allocated_gib: float  # 0 without a GPU
    peak_reserved_gib: float
    peak_resident_gib: float = 0.0  # of the process, libraries included; 0 where it wasn't measured
    predicted_gib: float = 0.0  # the peak that was predicted to be allocated; 0 without a limit to hold it to
    degraded: tuple[str, ...] = ()  # what was given up for the memory


@dataclass(frozen=True, kw_only=True, slots=True)
class CaseReport(Record):
    """What the samples of a case come to: means, with 95 % intervals."""

    case: Case
    samples: int
    seconds: Mapping[str, Estimate]  # as those of a sample
    iterations_per_second: Estimate
    flop_per_picture: int
    fraction_of_limit: float  # of the arithmetic that the machine would have done in the time that a picture took
    ratio_to_base: Estimate | None  # of a variant: seconds a picture, our bare one of the same preset and batch being 1
    peak_allocated_gib: float
    peak_reserved_gib: float
    target_seconds: float | None = None
    target_gib: float | None = None
    peak_resident_gib: float = 0.0
    predicted_gib: float = 0.0
    ratio_to_stock: Estimate | None = None  # of a bare one, stock's likewise being 1; of stock once more: the noise
    percentiles: Mapping[str, float] = field(default_factory=dict)  # of the seconds a picture, as far as rounds allow
    first_seconds: float | None = None  # of the process's first batch of it, with all that it had to wait for
    latents_to_stock: float | None = None  # of a bare one: largest difference of the last latents, on the same seeds
    degraded: tuple[str, ...] = ()  # in any round

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
class LoraSample(Record):
    """One measurement of a change of LoRAs."""

    change: str
    round: int
    seconds: float  # until the weights are rewritten


@dataclass(frozen=True, kw_only=True, slots=True)
class LoraChangeReport(Record):
    """What the samples of a change come to."""

    change: LoraChange
    samples: int
    seconds: Estimate


@dataclass(frozen=True, kw_only=True, slots=True)
class OutOfMemory(Record):
    """What the memory was too small for: a result, without seconds."""

    of: str  # a case, or a change of LoRAs
    reason: str
    round: int | None = None  # None: of the warm-up


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
    rounds: int | None = None  # that were asked for; a benchmark that was ended before has fewer
    finished_rounds: int = 0
    load_seconds: float | None = None  # for the models to be read
    out_of_memory: tuple[OutOfMemory, ...] = ()
    lora_changes: tuple[LoraChangeReport, ...] = ()
    lora_samples: tuple[LoraSample, ...] = field(default=(), repr=False)
    schema_version: int = SCHEMA_VERSION

    @property
    def file_name(self) -> str:
        """Return the name of its file: profile, device and when it was measured."""
        device = re.sub(r"[^A-Za-z0-9]+", "-", self.machine["device"]).strip("-")
        return f"{self.profile}-{device}-{re.sub(r'[:+-]', '', self.measured_at)[:15]}.json"

    @property
    def limit(self) -> str:
        """Say what `fraction_of_limit` is a fraction of."""
        return f"the rate of matrix products measured on that machine, {self.flop_per_second / 1e12:.4g} TFLOP/s"

    @property
    def seconds_with_lora_changes(self) -> bool:
        """Say whether a picture had to wait for the LoRAs of the case before it to make room: in older reports."""
        return self.rounds is None and any(one.case.loras for one in self.cases)

    @property
    def unfinished(self) -> str:
        """Say how many rounds a benchmark that was ended early has; empty for one that has them all."""
        asked, done = self.rounds or 0, self.finished_rounds
        return f"{done} of {asked} rounds: it was ended early" if done < asked else ""

    def verdict_here(self, case: CaseReport) -> str:
        """Return a case's verdict with the machine that the target is promised for, which needn't be this one."""
        told = case.verdict in ("met", "missed", "undecided")
        return f"{case.verdict} here; promised for {self.targets_for}" if told else case.verdict

    def to_frame(self) -> "pd.DataFrame":
        """Return a row per case: seconds by stage, it/s, fraction of the limit, ratios, latents, memory, verdict."""
        import pandas as pd

        rows = [_row(case) for case in self.cases]
        rows += [{"case": one.of, "n": 0, "verdict": OUT_OF_MEMORY} for one in self.out_of_memory]
        return pd.DataFrame(rows)

    def lora_frame(self) -> "pd.DataFrame":
        """Return a row per change of LoRAs: how many measurements, seconds with their interval."""
        import pandas as pd

        rows = [
            {"change": one.change.name, "n": one.samples, "seconds": said(one.seconds, one.samples)}
            for one in self.lora_changes
        ]
        return pd.DataFrame(rows, columns=["change", "n", "seconds"])

    def to_text(self) -> str:
        """Return its tables for a terminal."""
        machine = ", ".join(f"{key} {value}" for key, value in self.machine.items())
        lines = [f"{self.profile} on {machine}", f"of limit: of {self.limit}"]
        lines += [self.unfinished] if self.unfinished else []
        lines += [self.to_frame().to_string(index=False, na_rep="")]
        lines += [f"{one.of}: {one.reason}" for one in self.out_of_memory]
        lines += [f"{one.case.name}: {what}" for one in self.cases for what in one.degraded]
        lines += [self.lora_frame().to_string(index=False)] if self.lora_changes else []
        return "\n".join([*lines, f"verdicts are of this machine; targets are promised for: {self.targets_for}"])

    def write(self, path: Path) -> Path:
        """Write it as JSON, whole or not at all."""
        return write_record(self, path)


def _row(report: CaseReport) -> dict[str, object]:
    stages = {name: round(value.value, 4) for name, value in report.seconds.items()}
    return {
        "case": report.case.name,
        "n": report.samples,
        **stages,
        **{name: round(value, 4) for name, value in report.percentiles.items()},
        "to stock": said(report.ratio_to_stock, report.samples),
        "to base": said(report.ratio_to_base, report.samples),
        "latents to stock": "" if report.latents_to_stock is None else f"{report.latents_to_stock:.3g}",
        "it/s": round(report.iterations_per_second.value, 2),
        "of limit": round(report.fraction_of_limit, 3),
        "GiB": round(report.peak_allocated_gib, 2),
        "predicted": round(report.predicted_gib, 2),
        "reserved": round(report.peak_reserved_gib, 2),
        "resident": round(report.peak_resident_gib, 2),
        "first": report.first_seconds and round(report.first_seconds, 4),
        "verdict": report.verdict,
    }


def said(found: Estimate | None, rounds: int) -> str:
    """Write an estimate, without an interval where a single round gave none."""
    return "" if found is None else str(found) if rounds > 1 else f"{found.value:.3g}"


def base_of(case: Case) -> Case:
    """Return the case that a variant is compared with: ours, bare, of the same preset and batch size."""
    return Case(quality_preset=case.quality_preset, batch_size=case.batch_size)


def stock_of(case: Case) -> Case:
    """Return the case that a bare one is compared with: stock diffusers', with a VAE that is fit for its dtype."""
    return replace(base_of(case), engine="diffusers")


def sum_up(report: BenchmarkReport) -> BenchmarkReport:
    """Return the report with what its samples come to, whatever it said that they do."""
    samples, changes = by_case(report.samples), [one.change for one in report.lora_changes]
    cases = tuple(
        replace(one, **_sums(one.case, samples, flop=one.flop_per_picture, rate=report.flop_per_second))
        for one in report.cases
    )
    return replace(report, cases=cases, lora_changes=report_lora_changes(changes, report.lora_samples))


def by_case(samples: Iterable[Sample]) -> dict[str, list[Sample]]:
    """Return {a case's name: its samples}."""
    found: dict[str, list[Sample]] = {}
    for sample in samples:
        found.setdefault(sample.case, []).append(sample)
    return found


def report_case(
    case: Case,
    samples: Mapping[str, Sequence[Sample]],
    *,
    flop: int,
    rate: float,
    profile: Profile,
    first_seconds: float | None = None,
    latents_to_stock: float | None = None,
) -> CaseReport:
    """Sum up a case's samples; `samples`: {case: those of it}, also of the cases that it is compared with."""
    targets = profile.targets
    held_to = case.quality_preset == targets.quality_preset and case.batch_size == 1 and case.engine == "imagelab"
    kind = "controlnet" if case.variant == "both" else case.variant
    return CaseReport(
        case=case,
        flop_per_picture=flop,
        target_seconds=getattr(targets.latency_seconds, kind) if held_to else None,
        target_gib=getattr(targets.vram_gib, kind if held_to else "peak") if targets.vram_gib else None,
        first_seconds=first_seconds,
        latents_to_stock=latents_to_stock,
        **_sums(case, samples, flop=flop, rate=rate),
    )


def report_lora_changes(changes: Iterable[LoraChange], samples: Sequence[LoraSample]) -> tuple[LoraChangeReport, ...]:
    """Sum up the samples of changes; one that has none is left out."""
    seconds = {change: [one.seconds for one in samples if one.change == change.name] for change in changes}
    return tuple(
        LoraChangeReport(change=change, samples=len(own), seconds=geometric_mean(own))
        for change, own in seconds.items()
        if own
    )


def _sums(case: Case, samples: Mapping[str, Sequence[Sample]], *, flop: int, rate: float) -> dict[str, Any]:
    own = samples[case.name]
    stages = {name: [sample.seconds[name] for sample in own] for name in own[0].seconds}
    picture = geometric_mean(stages["picture"])
    means = {name: mean_interval(np.array(numbers)) for name, numbers in stages.items()}
    bare = case.variant == "base"
    other = stock_of(case) if bare else base_of(case)
    ratio = None if other == case else _ratio(own, samples.get(other.name, ()))
    return {
        "samples": len(own),
        "seconds": means | {"picture": picture},
        "iterations_per_second": geometric_mean([sample.iterations_per_second for sample in own]),
        "fraction_of_limit": flop / rate / picture.value,
        "ratio_to_stock": ratio if bare else None,
        "ratio_to_base": None if bare else ratio,
        "percentiles": {
            f"p{which}": float(np.percentile(stages["picture"], which))
            for which, rounds in PERCENTILES.items()
            if len(own) >= rounds
        },
        "peak_allocated_gib": max(sample.peak_allocated_gib for sample in own),
        "peak_reserved_gib": max(sample.peak_reserved_gib for sample in own),
        "peak_resident_gib": max(sample.peak_resident_gib for sample in own),
        "predicted_gib": max(sample.predicted_gib for sample in own),
        "degraded": tuple(dict.fromkeys(what for sample in own for what in sample.degraded)),
    }


def _ratio(own: Sequence[Sample], base: Sequence[Sample]) -> Estimate | None:
    """Return how much longer a picture took, over the rounds that both have."""
    beside = {sample.round: sample.seconds["picture"] for sample in base}
    pairs = [(sample.seconds["picture"], beside[sample.round]) for sample in own if sample.round in beside]
    return paired_ratio([one for one, _ in pairs], [other for _, other in pairs]) if pairs else None
