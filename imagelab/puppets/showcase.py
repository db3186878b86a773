"""Draw the README's picture: `python -m imagelab.puppets.showcase [FILE]`, after the weights have changed."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from imagelab import BatchImageGenerator
from imagelab.imagefiles import open_image
from imagelab.plots import contact_sheet

SHOWN = 20
SCENE = "running on the beach, excited expression"


def draw_showcase(path: Path) -> None:
    """Draw a batch of luca as anybody would and write its contact sheet, rejected pictures included."""
    with tempfile.TemporaryDirectory() as folder, BatchImageGenerator(profile="puppet", device="cpu") as batches:
        result = batches.generate_batch("luca", SCENE, num_images=SHOWN, quality_preset="standard", output_dir=folder)
        items = [item for item in result.items if item.path is not None]
        pictures = [open_image(Path(folder) / str(item.path)) for item in items]
    scores = ["no score" if item.similarity_score is None else f"{item.similarity_score:.2f}" for item in items]
    captions = [f"{score}, {item.status}" for item, score in zip(items, scores, strict=True)]
    title = f"{result.total_accepted} of {result.total_generated} accepted at {result.threshold:.2f}"
    contact_sheet(pictures, captions, title=title, columns=10).savefig(path, dpi=100, bbox_inches="tight")


if __name__ == "__main__":
    draw_showcase(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/images/contact_sheet.png"))
