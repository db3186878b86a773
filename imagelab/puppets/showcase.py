"""Draw the README's pictures: `python -m imagelab.puppets.showcase [FOLDER]`, after the weights have changed."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from imagelab import BatchImageGenerator, CharacterGenerator
from imagelab.imagefiles import open_image
from imagelab.plots import contact_sheet
from imagelab.preprocess import make_control_map

SHOWN = 20
KINDS = ("pose", "canny", "depth", "seg", "normal")
SCENE = "running on the beach, excited expression"
TOWN = "standing in the town, happy expression"


def draw_batch(path: Path) -> None:
    """Draw a batch of luca as anybody would and write its contact sheet, rejected pictures included."""
    with tempfile.TemporaryDirectory() as folder, BatchImageGenerator(profile="puppet", device="cpu") as batches:
        result = batches.generate_batch("luca", SCENE, num_images=SHOWN, quality_preset="standard", output_dir=folder)
        items = [item for item in result.items if item.path is not None]
        pictures = [open_image(Path(folder) / str(item.path)) for item in items]
    scores = ["no score" if item.similarity_score is None else f"{item.similarity_score:.2f}" for item in items]
    captions = [f"{score}, {item.status}" for item, score in zip(items, scores, strict=True)]
    title = f"{result.total_accepted} of {result.total_generated} accepted at {result.threshold:.2f}"
    contact_sheet(pictures, captions, title=title, columns=10).savefig(path, dpi=100, bbox_inches="tight")


def draw_loras(path: Path) -> None:
    """Draw luca with two other LoRAs: without, with each, and with both."""
    town, light = {"name": "portorosso_town", "weight": 0.7}, {"name": "warm_summer_lighting", "weight": 0.5}
    sets: dict[str, list[dict[str, Any]]] = {
        "luca": [], "portorosso_town 0.7": [town], "warm_summer_lighting 0.5": [light], "both": [town, light]
    }  # fmt: skip
    with CharacterGenerator(profile="puppet", device="cpu") as generator:
        pictures = [
            generator.generate_character(
                "luca",
                "standing in the town, happy expression",
                quality_preset="ultra",
                seed=123,
                additional_loras=loras,
            )
            for loras in sets.values()
        ]
    contact_sheet(pictures, tuple(sets), columns=len(sets)).savefig(path, dpi=100, bbox_inches="tight")


def draw_control(path: Path) -> None:
    """Draw alberto, and luca following five maps of that picture."""
    with CharacterGenerator(profile="puppet", device="cpu") as generator:
        source = generator.generate_character("alberto", "arms up, on the beach", quality_preset="high", seed=1)
        maps = [make_control_map(kind, source, "puppet").image for kind in KINDS]
        controls = [
            {"type": kind, "image": made, "is_map": True, "scale": 0.9} for kind, made in zip(KINDS, maps, strict=True)
        ]
        words: dict[str, Any] = {"scene_description": "at night", "quality_preset": "high", "seed": 1}
        free = generator.generate_character("luca", **words)
        drawn = [generator.generate_character("luca", controls=[control], **words) for control in controls]
    captions = ["source", *KINDS, "no control", *(f"by {kind}" for kind in KINDS)]
    sheet = contact_sheet([source, *maps, free, *drawn], captions, columns=len(KINDS) + 1)
    sheet.savefig(path, dpi=100, bbox_inches="tight")


def main(folder: Path) -> None:
    """Draw all three into a folder."""
    draw_batch(folder / "contact_sheet.png")
    draw_loras(folder / "loras.png")
    draw_control(folder / "control.png")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/images"))
