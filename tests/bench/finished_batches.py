"""A batch of thousands of pictures that has ended: the real plan, ledger and files, of pictures that were rendered.

Drawing and judging so many takes hours on a CPU; reading what that leaves is what is measured.
"""

from pathlib import Path

import numpy as np
from PIL import Image

from imagelab import BatchImageGenerator, GenerationRequest
from imagelab.batch import batch_request
from imagelab.puppets.render import render
from imagelab.puppets.world import CHARACTERS, sample_scene
from imagelab.results import BatchItem, Generation, GenerationRecord, Verdict
from imagelab.runs import FOLDERS, RunFolder

DISTINCT = 64  # pictures; the batch shows each of them many times
UNSCORABLE = 0.03  # of all pictures: no face was found


def finish_batch(batches: BatchImageGenerator, folder: Path, *, similarity: float, **wanted) -> None:
    """Leave a batch in `folder` as `generate_batch(**wanted)` would, of made-up scores around `similarity`."""
    picture = {name: wanted.pop(name) for name in ("scene_description", "quality_preset", "seed", "character")}
    loras = wanted.pop("use_character_loras", True)
    plan = batches.plan(batch_request(GenerationRequest(**picture, use_character_loras=loras), **wanted))
    rng = np.random.default_rng(0)
    images = [draw(rng, picture["character"]) for _ in range(DISTINCT)]
    with RunFolder(folder, plan) as run:
        for job in run.pending_jobs():
            score = None if rng.random() < UNSCORABLE else float(np.clip(rng.normal(similarity, 0.1), -1, 1))
            item = judged(job, score, plan.request.threshold, picture["character"])
            run.commit(job, item, Generation(image=images[job.index % DISTINCT], record=record(job, picture)), 1.0)


def draw(rng: np.random.Generator, character: str) -> Image.Image:
    """Render the character in any scene, at the size of the puppets' pictures."""
    scene = sample_scene(rng, figures=1, identity=CHARACTERS[character].identity)
    return Image.fromarray(render(scene, width=128, height=128).image)


def judged(job, score, threshold, character):
    """Return what becomes of a job whose picture has a score, or none."""
    verdict = Verdict(
        character_name=character,
        status="no_face" if score is None else "ok",
        similarity_score=score,
        threshold=threshold,
        metric="cosine",
        encoder="made up",
    )
    status = "unscorable" if score is None else "accepted" if verdict.is_consistent else "rejected"
    return BatchItem(
        index=job.index,
        seed=job.seed,
        status=status,
        reason={"accepted": "", "rejected": "below the threshold", "unscorable": "no face"}[status],
        path=Path(FOLDERS[status]) / job.file_name,
        similarity_score=score,
        verdict=verdict,
    )


def record(job, picture):
    """Return the record of a picture, as far as a reader of the batch needs it."""
    return GenerationRecord(
        profile="puppet", base_model="none", model_sha256={}, style=None, prompt="", negative_prompt="", width=128,
        height=128, steps=1, guidance_scale=1.0, scheduler="euler", loras=(), device="cpu", dtype="float32",
        memory_policy="resident", seconds={}, **picture | {"seed": job.seed},
    )  # fmt: skip
