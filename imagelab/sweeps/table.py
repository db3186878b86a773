"""A run as a tidy table: a row a picture, with how it was drawn and what became of it."""

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imagelab.errors import InvalidValueError
from imagelab.imagefiles import mean_difference, open_image
from imagelab.results import BatchItem
from imagelab.runs import Job, RunPlan, read_run
from imagelab.set_measures import sharpness

if TYPE_CHECKING:
    import pandas as pd

_PENDING = "pending"


def sweep_table(folder: str | os.PathLike[str]) -> "pd.DataFrame":
    """Return a row per picture of a run, also of one that goes on: its axes and seed, how it was drawn, what it became.

    `lora NAME` is a LoRA's weight, 0 where it isn't applied, `control TYPE` a control's scale, NaN where there is none.
    `file` is relative to the folder; `status` is also pending; `similarity` a cosine, NaN for a face that can't be
    compared; `sharpness` the variance of the picture's Laplacian over that of its grey levels; `seconds` those of
    drawing, comparing and writing. Raises RunFolderError, or ImageFileError for a picture that can't be read.
    """
    import pandas as pd  # slow to import

    plan, told = read_run(folder)
    drawn = [_drawn_as(plan, variant) for variant in range(len(plan.recipes))]
    axes = dict.fromkeys(axis for variant in plan.request.swept for axis in variant.settings)
    columns = dict.fromkeys([*axes, "seed", *(name for row in drawn for name in row)])
    rows = [
        {"seed": job.seed, **drawn[job.variant], **_outcome(Path(folder), job, told.get(job.index))}
        for job in plan.jobs
    ]
    table = pd.DataFrame(rows)
    table = table[[*columns, *(name for name in table.columns if name not in columns)]]
    loras = [name for name in table.columns if name.startswith("lora ")]
    return table.fillna(dict.fromkeys(loras, 0.0)).astype({"similarity": float, "sharpness": float, "seconds": float})


def picture_changes(
    folder: str | os.PathLike[str], table: "pd.DataFrame", axis: str, value: object, alike: Sequence[str]
) -> list[float]:
    """Return how far each picture lies from the one that has `value` on `axis`, and the same in the columns `alike`.

    The mean absolute difference in grey levels, 0 to 255; 0 means that they are the same to the bit, and NaN that one
    of them wasn't drawn. `picture_changes(folder, sweep_table(folder), "weight", 0.0, alike=["loras", "seed"])`
    compares each weight with none. Raises InvalidValueError where no picture has the value, ImageFileError.
    """
    keys = list(zip(*(table[name] for name in alike), strict=True))
    is_base = (table[axis] == value).tolist()
    bases = {key: file for key, file, base in zip(keys, table["file"], is_base, strict=True) if base}
    if missing := [key for key in keys if key not in bases]:
        raise InvalidValueError(
            axis, value, f"a value that a picture has with {dict(zip(alike, missing[0], strict=True))}"
        )
    place = Path(folder)
    pairs = [(file, bases[key]) for file, key in zip(table["file"], keys, strict=True)]
    known = [isinstance(one, str) and isinstance(other, str) for one, other in pairs]
    return [
        mean_difference(open_image(place / one), open_image(place / other)) if drawn else math.nan
        for (one, other), drawn in zip(pairs, known, strict=True)
    ]


def _drawn_as(plan: RunPlan, number: int) -> dict[str, Any]:
    variant, recipe = plan.request.variants[number], plan.recipes[number]
    loras = {f"lora {name}": lora["weight"] for name, lora in recipe["loras"].items()}
    controls = {f"control {control['type']}": control["scale"] for control in recipe["controls"]}
    return {
        **variant.settings,
        "character": recipe["character"],
        "scene": recipe["scene_description"],
        "style": recipe["style"],
        "quality_preset": recipe["quality_preset"],
        "scheduler": recipe["scheduler"]["name"],
        "sampler": recipe["scheduler"]["sampler"],
        "schedule_type": recipe["scheduler"]["schedule_type"],
        "guidance_scale": float(recipe["guidance_scale"]),
        "steps": recipe["steps"],
        "width": recipe["width"],
        "height": recipe["height"],
        **loras,
        **controls,
        "profile": recipe["profile"],
        "prompt": recipe["prompt"],
        "negative_prompt": recipe["negative_prompt"],
    }


def _outcome(folder: Path, job: Job, told: tuple[BatchItem, float] | None) -> dict[str, Any]:
    item, seconds = told or (BatchItem(index=job.index, seed=job.seed, status="failed"), None)
    verdict = item.verdict
    is_there = item.path is not None and (folder / item.path).is_file()
    return {
        "index": job.index,
        "file": item.path.as_posix() if item.path else None,
        "sha256": item.sha256,
        "status": item.status if told else _PENDING,
        "reason": item.reason,
        "face": verdict.status if verdict else None,
        "similarity": item.similarity_score,
        "threshold": verdict.threshold if verdict else None,
        "sharpness": sharpness(folder / item.path) if item.path and is_there else None,
        "seconds": seconds,
        "job": job.id,
    }
