"""Two benchmarks: each case that both have, by its seconds and its memory, and each change of LoRAs, by its seconds."""

from collections.abc import Collection, Mapping
from itertools import chain

import numpy as np

from imagelab.benchmark import BenchmarkReport, Case, CaseReport, Sample
from imagelab.benchmark.report import LEAST_ROUNDS
from imagelab.compare.changes import Change, make_change
from imagelab.compare.shifts import log_shift
from imagelab.compare.values import CONFIDENCE, Comparison, check_alike, check_limits
from imagelab.differences import differences
from imagelab.errors import InvalidValueError

CONDITIONS = ("profile", "device", "processor", "threads", "vram_cap", "clock")


def compare_benchmarks(
    a: BenchmarkReport,
    b: BenchmarkReport,
    *,
    names: tuple[str, str] = ("A", "B"),
    fail_over: float | None = None,
    across: Collection[str] = (),
    relative: bool = False,
    confidence: float = CONFIDENCE,
) -> Comparison:
    """Compare two benchmarks case by case: ratios of the seconds a picture takes, of the peak VRAM, of LoRA changes.

    The rounds of two benchmarks have nothing in common, so they are no pairs: what is paired is the cases. Stock
    diffusers is shown as a control: where it has changed too, it was the machine. `relative` divides the seconds by
    stock diffusers' of the same round, preset and batch size, so that what slows both down cancels. `across` names
    conditions that may differ: profile, device, processor, threads, vram_cap, clock (whether seconds count changes of
    LoRAs, as those of older benchmarks do). Raises InvalidValueError for others that do, for benchmarks that share no
    case, for fewer than three rounds, and for `relative` without stock diffusers.
    """
    limit, level = check_limits(fail_over, confidence)
    differs = check_alike(_conditions(a), _conditions(b), across, CONDITIONS)
    ours, theirs = ({one.case.name: one for one in report.cases} for report in (a, b))
    shared = [name for name in ours if name in theirs]
    switches = [_lora_seconds(report) for report in (a, b)]
    gated = {name for name, one in ours.items() if _gates(one)} | switches[0].keys()
    lost = [one.of for one in b.out_of_memory if one.of in gated]
    if not (shared or lost):
        raise InvalidValueError("B", sorted(theirs), f"a benchmark of a case that A has: {', '.join(ours)}")
    measured = [
        (name, _numbers(a, ours[name].case, relative), _numbers(b, ours[name].case, relative), _gates(ours[name]))
        for name in shared
    ]
    switched = [name for name in switches[0] if name in switches[1]]
    measured += [(name, switches[0][name], switches[1][name], True) for name in switched]
    everything = dict.fromkeys([*ours, *theirs, *switches[0], *switches[1]])
    each = 1 - (1 - level) / max(1, sum(gates * len(one) for _, one, _, gates in measured))
    changes = chain.from_iterable(
        _changes(name, one, other, each, limit, gates=gates) for name, one, other, gates in measured
    )
    machines = [{k: v for k, v in report.machine.items() if k not in CONDITIONS} for report in (a, b)]
    return Comparison(
        kind="benchmark",
        a=names[0],
        b=names[1],
        changes=tuple(changes),
        fail_over=fail_over,
        confidence=level,
        paired=False,
        differs=(*differs, *differences(*machines)),
        unmatched=tuple(name for name in everything if name not in {*shared, *switched, *lost}),
        lost=tuple(lost),
    )


def case_samples(report: BenchmarkReport, case: str) -> list[Sample]:
    """Return the samples of a case, round by round."""
    return sorted((sample for sample in report.samples if sample.case == case), key=lambda sample: sample.round)


def _conditions(report: BenchmarkReport) -> Mapping[str, str]:
    known = {name: report.machine[name] for name in ("device", "processor", "threads") if name in report.machine}
    clock = "before LoRAs are changed" if report.seconds_with_lora_changes else "once LoRAs are changed"
    return {"profile": report.profile, "vram_cap": str(report.vram_cap_gib or "none"), "clock": clock, **known}


def _gates(report: CaseReport) -> bool:
    return report.case.engine == "imagelab"


def _numbers(report: BenchmarkReport, case: Case, relative: bool) -> Mapping[str, list[float]]:  # noqa: FBT001
    samples = case_samples(report, case.name)
    if len(samples) < LEAST_ROUNDS:
        raise InvalidValueError(f"rounds of {case.name}", len(samples), f"{LEAST_ROUNDS} or more (--num-runs)")
    seconds = [sample.seconds["picture"] for sample in samples]
    gib = [sample.peak_allocated_gib for sample in samples]
    memory = {"peak GiB": gib} if all(gib) else {}
    if not relative or case.engine != "imagelab":
        return {"seconds a picture": seconds} | memory
    stock = Case(quality_preset=case.quality_preset, batch_size=case.batch_size, engine="diffusers").name
    beside = [sample.seconds["picture"] for sample in case_samples(report, stock)]
    if len(beside) != len(seconds):
        raise InvalidValueError("relative", f"no {stock!r}", "of benchmarks with stock diffusers beside each case")
    return {"seconds, diffusers' = 1": [one / other for one, other in zip(seconds, beside, strict=True)]} | memory


def _lora_seconds(report: BenchmarkReport) -> Mapping[str, Mapping[str, list[float]]]:
    """Return {change of LoRAs: its seconds, round by round}, of those with enough rounds for an interval."""
    found: dict[str, list[float]] = {}
    for sample in report.lora_samples:
        found.setdefault(sample.change, []).append(sample.seconds)
    return {name: {"seconds": seconds} for name, seconds in found.items() if len(seconds) >= LEAST_ROUNDS}


def _changes(
    name: str,
    a: Mapping[str, list[float]],
    b: Mapping[str, list[float]],
    confidence: float,
    limit: float,
    *,
    gates: bool,
) -> list[Change]:
    return [
        make_change(
            name,
            measure,
            log_shift(a[measure], b[measure], confidence),
            (float(np.exp(np.mean(np.log(a[measure])))), float(np.exp(np.mean(np.log(b[measure]))))),  # as the shift's
            (len(a[measure]), len(b[measure])),
            limit=limit,
            worse_if_more=True,
            gates=gates,
        )
        for measure in a
        if measure in b
    ]
