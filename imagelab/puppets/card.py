"""The model card: what the puppet weights are, how long they were trained, and the numbers of the last evaluation."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def evaluation_table(report: Mapping[str, Any]) -> str:
    """Return the evaluation as a Markdown table."""
    lines = ["| line | pictures | measured | must reach | |", "|---|--:|--:|--:|---|"]
    for row in report["rows"]:
        bar = "" if row["bar"] is None else f"{'≤' if row['smaller_is_better'] else '≥'} {row['bar']:g}"
        mark = {True: "reached", False: "**not reached**", None: ""}[row["passed"]]
        lines.append(f"| {row['line']} | {row['pictures']} | {row['value']:.4g} | {bar} | {mark} |")
    versions = ", ".join(f"{name} {number}" for name, number in report["versions"].items())
    return "\n".join([*lines, "", f"Measured with {versions} on {report['processor']}."])


def training_table(story: Mapping[str, Mapping[str, list[float]]]) -> str:
    """Return what each training took as a Markdown table."""
    lines = ["| training | steps | minutes | last loss |", "|---|--:|--:|--:|"]
    for name, curve in story.items():
        minutes = curve["seconds"][-1] / 60
        lines.append(f"| {name} | {curve['step'][-1]:.0f} | {minutes:.0f} | {curve['loss'][-1]:.3g} |")
    return "\n".join(lines)


def section(card: str, name: str) -> str:
    """Return the part of a card between the marks of a generated section."""
    return card.split(f"<!-- {name} -->", 1)[1].split(f"<!-- end of {name} -->", 1)[0].strip()


def write_card(weights: Path, report: Mapping[str, Any]) -> None:
    """Write `evaluation.json` and put the tables between the model card's marks."""
    (weights / "evaluation.json").write_text(json.dumps(report, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    path = weights / "MODEL_CARD.md"
    card = path.read_text(encoding="utf-8")
    story = json.loads((weights / "training.json").read_text(encoding="utf-8"))
    for name, body in {"evaluation": evaluation_table(report), "training": training_table(story)}.items():
        start, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
        before, rest = card.split(start, 1)
        card = f"{before}{start}\n{body}\n{end}{rest.split(end, 1)[1]}"
    path.write_text(card, encoding="utf-8")
