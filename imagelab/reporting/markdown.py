"""What was gathered as Markdown: tables of numbers that all come from the files beside them."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from imagelab.benchmark.report import said
from imagelab.reporting.gathering import Gathered
from imagelab.reporting.measurement import Measurement, Unmeasured, Value
from imagelab.reporting.runs import RunResult
from imagelab.whole_file import write_text

if TYPE_CHECKING:
    from imagelab.benchmark import BenchmarkReport

_HEAD = """# What has been measured

`python -m imagelab report` writes this page from the JSON files that it links to: no number in it is typed by hand.
Each holds for the machine that is named with it and says nothing about another. Of pictures it has geometric means of
n rounds, with Student's 95 % intervals, which a single round hasn't."""


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
    limit = f"matrix products at {report.flop_per_second / 1e12:.4g} TFLOP/s"
    rows: list[dict[str, Value]] = [
        {
            "case": case.case.name,
            "n": case.samples,
            "s a picture": said(case.seconds["picture"], case.samples),
            "to base": said(case.ratio_to_base, case.samples),
            "it/s": f"{case.iterations_per_second.value:.3g}",
            "of the limit": f"{case.fraction_of_limit:.1%}",
            "GiB allocated": f"{case.peak_allocated_gib:.2f}" if case.peak_allocated_gib else "",
            **({"GiB predicted": f"{case.predicted_gib:.2f}"} if case.predicted_gib else {}),
            "target": case.verdict,
        }
        for case in report.cases
    ]
    targets = f"Targets are promised for: {report.targets_for}."
    return (
        f"## Pictures: profile {_text(report.profile)} on {_text(report.machine['device'])}\n\n"
        f"{_source(name, report.machine)}; measured {report.measured_at[:10]}; {limit}. {targets}\n\n{_table(rows)}"
    )


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
