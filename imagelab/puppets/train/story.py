"""How the trainings went: their losses, and a figure of them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

Story = dict[str, dict[str, list[float]]]


def training_story(work: Path, points: int = 60) -> Story:
    """Return each training's losses, thinned to about `points`: {name: {"step", "loss", "seconds": [...]}}."""
    story: Story = {}
    for log in sorted(work.glob("*.jsonl")):
        rows = [json.loads(line) for line in log.read_text().splitlines()]
        kept = rows[:: max(1, len(rows) // points)] + rows[-1:]
        story[log.stem] = {key: [float(f"{row[key]:.5g}") for row in kept] for key in ("step", "loss", "seconds")}
    return story


def read_story(work: Path, weights: Path) -> Story:
    """Return the story of the shipped weights, with what was trained in `work` in place of its own."""
    shipped: Story = json.loads((weights / "training.json").read_text())
    return dict(sorted((shipped | training_story(work)).items()))
