"""The model card: what the puppet weights are, and the numbers of the last evaluation."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

START, END = "<!-- evaluation: written by python -m imagelab.puppets.evaluate --write -->", "<!-- end of evaluation -->"


def table(report: Mapping[str, Any]) -> str:
    """Return the evaluation as a Markdown table."""
    lines = ["| line | pictures | measured | must reach | |", "|---|--:|--:|--:|---|"]
    for row in report["rows"]:
        bar = "" if row["bar"] is None else f"{'≤' if row['smaller_is_better'] else '≥'} {row['bar']:g}"
        mark = {True: "reached", False: "**not reached**", None: ""}[row["passed"]]
        lines.append(f"| {row['line']} | {row['pictures']} | {row['value']:.4g} | {bar} | {mark} |")
    versions = ", ".join(f"{name} {number}" for name, number in report["versions"].items())
    return "\n".join([*lines, "", f"Measured with {versions} on {report['processor']}."])


def write_card(weights: Path, report: Mapping[str, Any]) -> None:
    """Write `evaluation.json` and put its table between the model card's marks."""
    (weights / "evaluation.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    card = weights / "MODEL_CARD.md"
    before, rest = card.read_text(encoding="utf-8").split(START, 1)
    _, after = rest.split(END, 1)
    card.write_text(f"{before}{START}\n{table(report)}\n{END}{after}", encoding="utf-8")
