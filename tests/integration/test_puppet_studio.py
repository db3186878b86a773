"""The shipped studio is what its checksums, its card and its evaluation say."""

import json
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

from imagelab.models import file_sha256, verify_weights
from imagelab.puppets.card import evaluation_table, section, training_table
from imagelab.puppets.evaluate import ALONE, JOBS, LINES, evaluate
from imagelab.puppets.measures.studio import Row, held_out_scene
from imagelab.puppets.render import render
from imagelab.puppets.world import full_caption

WEIGHTS = Path(str(files("imagelab.puppets"))) / "weights"
MAX_MIB = 48  # of weights
SUFFIXES = {".safetensors", ".onnx", ".json", ".txt", ".png", ".md"}


@pytest.fixture(scope="module")
def report() -> dict[str, object]:
    loaded: dict[str, object] = json.loads((WEIGHTS / "evaluation.json").read_text())
    return loaded


def test_every_weight_file_has_its_checksum_and_none_is_a_pickle() -> None:
    shipped = [path for path in WEIGHTS.rglob("*") if path.is_file()]
    assert verify_weights(WEIGHTS)
    assert {path.suffix for path in shipped} <= SUFFIXES
    assert sum(path.stat().st_size for path in shipped if path.suffix in {".safetensors", ".onnx"}) <= MAX_MIB * 2**20


def test_the_evaluation_is_of_these_weights_and_whole(report: dict[str, object]) -> None:
    assert report["weights_sha256"] == file_sha256(WEIGHTS / "SHA256SUMS.json")
    assert report["share"] == 1.0
    assert len(report["rows"]) > len(LINES)


def test_the_model_card_shows_the_evaluation_and_the_training(report: dict[str, object]) -> None:
    card = (WEIGHTS / "MODEL_CARD.md").read_text()
    story = json.loads((WEIGHTS / "training.json").read_text())
    assert section(card, "evaluation") == evaluation_table(report)
    assert section(card, "training") == training_table(story)


def test_a_row_passes_only_on_the_right_side_of_its_bar() -> None:
    assert Row("psnr", 28.5, 28.0).passed is True
    assert Row("psnr", 27.9, 28.0).passed is False
    assert Row("seconds", 1.6, 1.5, smaller_is_better=True).passed is False
    assert Row("shown", 1.0).passed is None


def test_every_line_is_measured_by_exactly_one_job() -> None:
    assert sorted(line for job in (*JOBS, ALONE) for line in job) == sorted(LINES)


def test_a_small_evaluation_agrees_with_the_committed_one(report: dict[str, object]) -> None:
    committed = {row["line"]: row["value"] for row in report["rows"]}
    for row in evaluate(["vae", "recogniser", "annotators"], share=0.12):
        assert row.value == pytest.approx(committed[row.line], rel=0.05), row.line


def test_clip_finds_the_caption_that_belongs_to_a_picture() -> None:
    model = CLIPModel.from_pretrained(WEIGHTS / "clip", dtype=torch.float32).eval()
    tokenizer, processor = (
        CLIPTokenizer.from_pretrained(WEIGHTS / "clip"),
        CLIPImageProcessor.from_pretrained(WEIGHTS / "clip"),
    )
    scenes = [held_out_scene(70_000 + k) for k in range(32)]
    pixels = processor([Image.fromarray(render(s).image) for s in scenes], return_tensors="pt").pixel_values
    ids = tokenizer(
        [full_caption(s) for s in scenes], padding="max_length", max_length=77, return_tensors="pt"
    ).input_ids
    with torch.no_grad():
        logits = model(input_ids=ids, pixel_values=pixels).logits_per_image.numpy()
    assert (logits.argmax(1) == np.arange(32)).mean() >= 0.6
