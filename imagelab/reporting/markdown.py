"""What was gathered as Markdown: tables of numbers that all come from the files beside them."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from imagelab.benchmark.report import OLDER_SECONDS, OUT_OF_MEMORY, said
from imagelab.reporting.gathering import Gathered
from imagelab.reporting.measurement import Measurement, Unmeasured, Value
from imagelab.reporting.runs import RunResult
from imagelab.whole_file import write_text

if TYPE_CHECKING:
    from imagelab.benchmark import BenchmarkReport, CaseReport

_HEAD = """# What has been measured

`python -m imagelab report` writes this page from the JSON files that it links to; no measurement is typed by hand. Each
holds for the machine that is named with it and says nothing about another. Of pictures it has geometric means of
n rounds, with Student's 95 % intervals, which a single round hasn't. `to stock`: the bare picture of diffusers' own
pipeline in the same rounds being 1, and what that pipeline strays from 1 once more is noise; `to base`: our own bare
picture being 1. `of the limit`: the arithmetic of a picture at the rate of matrix products measured on that machine."""


def to_markdown(gathered: Gathered) -> str:
    """Return the report, a chapter for each file, the runs after them, and last what hasn't been measured."""
    chapters = [_HEAD]
    chapters += [_benchmark(name, report) for name, report in gathered.benchmarks.items()]
    chapters += [_measurement(name, one) for name, one in gathered.measurements.items()]
    if gathered.runs:
        chapters.append(f"## Runs\n\n{_table([_run(run) for run in gathered.runs])}")
    if gathered.unmeasured:
        chapters.append(f"## Not measured yet\n\n{_table([_unmeasured(one) for one in gathered.unmeasured])}")
    return "\n\n".join(chapters) + "\n"


def write_summary(gathered: Gathered, path: Path) -> Path:
    """Write the report as Markdown, whole or not at all; raises InvalidValueError for a place that takes no file."""
    return write_text(to_markdown(gathered), path)


def _benchmark(name: str, report: "BenchmarkReport") -> str:
    told = [f"{_source(name, report.machine)}; measured {report.measured_at[:10]}", f"The limit is {report.limit}"]
    told += [f"PyTorch had {report.vram_cap_gib:g} GiB of the GPU's memory"] if report.vram_cap_gib else []
    told += [OLDER_SECONDS] if report.seconds_with_lora_changes else []
    told += [report.unfinished[:1].upper() + report.unfinished[1:]] if report.unfinished else []
    rows = [_case(report, case) for case in report.cases]
    rows += [{"case": one.of, "n": 0, "s a picture": OUT_OF_MEMORY} for one in report.out_of_memory]
    parts = [
        f"## Pictures: profile {_text(report.profile)} on {_text(report.machine['device'])}",
        f"{'. '.join(told)}.",
        _table(_filled(rows)),
    ]
    if report.lora_changes:
        changes: list[dict[str, Value]] = [
            {"change of the weights": one.change.name, "n": one.samples, "s": said(one.seconds, one.samples)}
            for one in report.lora_changes
        ]
        parts.append(_table(changes))
    return "\n\n".join(parts)


def _case(report: "BenchmarkReport", case: "CaseReport") -> dict[str, Value]:
    differs = case.latents_to_stock
    return {
        "case": case.case.name,
        "n": case.samples,
        "s a picture": said(case.seconds["picture"], case.samples),
        **{name: f"{value:.3g}" for name, value in case.percentiles.items()},
        "to stock": said(case.ratio_to_stock, case.samples),
        "to base": said(case.ratio_to_base, case.samples),
        "largest difference of latents to stock": "" if differs is None else f"{differs:.3g}",
        "s the first": "" if case.first_seconds is None else f"{case.first_seconds:.3g}",
        "it/s": f"{case.iterations_per_second.value:.3g}",
        "of the limit": f"{case.fraction_of_limit:.1%}",
        "GiB allocated": f"{case.peak_allocated_gib:.2f}" if case.peak_allocated_gib else "",
        "GiB predicted": f"{case.predicted_gib:.2f}" if case.predicted_gib else "",
        "given up": "; ".join(case.degraded),
        "target": report.verdict_here(case),
    }


def _filled(rows: Sequence[Mapping[str, Value]]) -> list[Mapping[str, Value]]:
    """Leave out the columns in which no row has anything: those of older reports, or of other machines."""
    there = {name for row in rows for name, value in row.items() if value != ""}
    return [{name: value for name, value in row.items() if name in there} for row in rows]


def _measurement(name: str, one: Measurement) -> str:
    parts = [f"## {_text(one.what)}", f"{_source(name, one.machine)}. Again: {_code(one.command)}"]
    if one.facts:
        parts.append(_table([{"fact": _words(key), "value": value} for key, value in one.facts.items()]))
    if one.rows:
        parts.append(_table(one.rows))
    return "\n\n".join(parts)


def _run(run: RunResult) -> dict[str, Value]:
    return {"run": run.name, "of": run.kind, "status": run.status, "result": run.headline}


def _unmeasured(one: Unmeasured) -> dict[str, Value]:
    return {
        "what": one.what,
        "needs": one.needs,
        "predicted, not measured": one.predicted,
        "command": one.command,
    }


def _source(name: str, machine: Mapping[str, str]) -> str:
    return f"[{name}]({name}): {_text(', '.join(f'{_words(key)} {value}' for key, value in machine.items()))}"


def _words(name: str) -> str:
    return name.replace("_", " ")


def _table(rows: Sequence[Mapping[str, Value]]) -> str:
    columns = list(dict.fromkeys(column for row in rows for column in row))
    lines = [_line(_text(_words(column)) for column in columns), "|" + "---|" * len(columns)]
    return "\n".join([*lines, *(_line(_cell(column, row.get(column)) for column in columns) for row in rows)])


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(column: str, value: Value) -> str:
    if value is None:
        return ""
    text = f"{value:.5g}" if isinstance(value, float) else str(value)
    # Within a table a pipe ends the cell also where it is code.
    return _code(text).replace("|", "\\|") if column == "command" and text else _text(text)


def _text(text: str) -> str:
    """Write text so that it stays on its line and in its cell, and is no Markdown but for pairs of backticks."""
    special = r"[\\|*<]" if text.count("`") % 2 == 0 else r"[\\|*<`]"
    return re.sub(special, r"\\\g<0>", " ".join(text.split()))


def _code(text: str) -> str:
    """Write text as code, between more backticks than there are in it."""
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    space = " " if len(fence) > 1 else ""
    return f"{fence}{space}{' '.join(text.split())}{space}{fence}"
