"""Read a benchmark back from its file: what isn't one is refused before anything is made of it."""

import os
from collections.abc import Sequence

from imagelab.benchmark.report import BenchmarkReport, Sample, sum_up
from imagelab.checks import check_number
from imagelab.errors import InvalidValueError
from imagelab.whole_file import read_record

_SHORTEST, _LONGEST = 1e-9, 1e9  # of seconds; also of GiB and rates: what lies beyond is no measurement
_MOST_FLOP_PER_SECOND = 1e24


def read_report(path: str | os.PathLike[str]) -> BenchmarkReport:
    """Read what `write` wrote, its cases summed up anew from its samples.

    Raises InvalidValueError, which names the file, for what is none: also of another schema, without a device, without
    rounds of a case, and for seconds that no picture takes.
    """
    report = read_record(BenchmarkReport, "benchmark report", path)
    try:
        _check(report)
    except InvalidValueError as error:
        raise InvalidValueError(f"{error.name} in {path}", error.value, error.expected) from error
    return sum_up(report)


def _check(report: BenchmarkReport) -> None:
    if "device" not in report.machine:
        raise InvalidValueError("machine", dict(report.machine), "one with a device")
    check_number(report.flop_per_second, "flop_per_second", 1, _MOST_FLOP_PER_SECOND)
    if not (report.cases or report.out_of_memory):
        raise InvalidValueError("cases", [], "at least one")
    for one in report.cases:
        _check_samples(one.case.name, [sample for sample in report.samples if sample.case == one.case.name])
    for change in report.lora_samples:
        check_number(change.seconds, f"seconds of {change.change}", _SHORTEST, _LONGEST)


def _check_samples(case: str, samples: Sequence[Sample]) -> None:
    if not samples:
        raise InvalidValueError(f"samples of {case}", [], "at least one")
    stages = {"picture", *samples[0].seconds}
    for sample in samples:
        if set(sample.seconds) != stages:
            raise InvalidValueError(f"seconds of {case}", sorted(sample.seconds), f"of {', '.join(sorted(stages))}")
        for stage, seconds in sample.seconds.items():
            # What a stage takes is a difference of clocks, which may fall below 0 where it takes next to nothing.
            least = _SHORTEST if stage == "picture" else -_LONGEST
            check_number(seconds, f"seconds of {stage} of {case}", least, _LONGEST)
        check_number(sample.iterations_per_second, f"iterations_per_second of {case}", _SHORTEST, _LONGEST)
        for gib in (
            sample.peak_allocated_gib,
            sample.peak_reserved_gib,
            sample.peak_resident_gib,
            sample.predicted_gib,
        ):
            check_number(gib, f"peak memory of {case}", 0, _LONGEST)
