"""Runs of small painted pictures: the real folder, plan and ledger, without models."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from imagelab.results import BatchItem, Generation, GenerationRecord, GenerationRequest, Verdict
from imagelab.runs import FOLDERS, BatchRequest, RunFolder, RunPlan

STATUSES = ("accepted", "rejected", "accepted", "unscorable", "failed")


def handmade_plan(count=5, until=None, scene="on the beach", at_once=1, **recipe):
    picture = GenerationRequest(character="luca", scene_description=scene, seed=7)
    request = BatchRequest(
        picture=picture,
        num_images=count,
        enable_consistency_check=True,
        threshold=0.5,
        save_rejected=True,
        until_accepted=until,
        pictures_at_once=at_once,
    )
    drawn_as = {"prompt": f"luca {scene}", "width": 16, "height": 16, "steps": 2, "quality_preset": "draft"}
    judging = {"encoder": "painted", "references_sha256": "00", "threshold": 0.5}
    environment = {"device": "cpu", "dtype": "float32", "threads": 1, "versions": {"torch": "2.13"}}
    return RunPlan(request=request, recipes=(drawn_as | recipe,), judgings=(judging,), environment=environment)


def paint(job):
    """Return what becomes of a job: depends on its seed alone, like a drawing."""
    status = STATUSES[job.seed % len(STATUSES)]
    item = BatchItem(index=job.index, seed=job.seed, status=status)
    if status == "failed":
        return replace(item, reason="NaN in the latents"), None
    if status != "unscorable":
        score = round(float(np.random.default_rng(job.seed).uniform(0.5, 1)) - 0.5 * (status == "rejected"), 4)
        verdict = Verdict(
            character_name="luca",
            status="ok",
            similarity_score=score,
            threshold=0.5,
            metric="cosine",
            encoder="painted",
        )
        item = replace(item, similarity_score=score, verdict=verdict)
    pixels = np.random.default_rng(job.seed).integers(0, 256, (16, 16, 3), np.uint8)
    item = replace(item, path=Path(FOLDERS[status]) / job.file_name)
    return item, Generation(image=Image.fromarray(pixels), record=handmade_record(job.seed))


def handmade_record(seed):
    return GenerationRecord(
        profile="puppet", base_model="none", model_sha256={}, character="luca", scene_description="on the beach",
        style=None, quality_preset="draft", prompt="luca", negative_prompt="", seed=seed, width=16, height=16, steps=1,
        guidance_scale=1.0, scheduler="euler", loras=(), device="cpu", dtype="float32", memory_policy="resident",
        seconds={"total": float(np.random.default_rng().uniform())},
    )  # fmt: skip


def run(folder, plan, at_most=None, order=None, draw=paint, **options):
    """Do what is pending, or `at_most` of it; return the result."""
    with RunFolder(folder, plan, **options) as opened:
        pending = opened.pending_jobs()
        for job in [pending[place] for place in order] if order else pending[:at_most]:
            if opened.is_over:
                break
            opened.commit(job, *draw(job), 0.1)
        return opened.result()


def content(folder):
    """Return what a run left, without times and places: pictures as bytes, metadata as values."""
    pictures = {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.glob("*/*.png"))}
    metadata = json.loads((folder / "metadata.json").read_text())
    del metadata["result"]["seconds"], metadata["result"]["output_dir"]
    return pictures | {"metadata": metadata, "page": (folder / "index.html").read_text()}


def check(folder, result):
    """Hold a folder to what is always true of one: every picture that is told of is there, whole, and as told."""
    from imagelab.imagefiles import open_image
    from imagelab.models import file_sha256

    assert sum(result.counts.values()) == result.requested
    assert result.pending >= 0
    assert len({item.index for item in result.items}) == len(result.items)
    for item in result.items:
        if item.path is not None:
            open_image(folder / item.path)
            assert file_sha256(folder / item.path) == item.sha256
