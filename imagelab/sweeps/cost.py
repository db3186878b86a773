"""What a run is going to cost: seconds from pictures that were drawn before, or from one that is drawn to measure."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter

from imagelab.batch import BatchImageGenerator
from imagelab.batch.reusing import find_drawn
from imagelab.config import project_root
from imagelab.errors import ImageLabError
from imagelab.records import Record
from imagelab.runs import RunPlan, pending_jobs, read_run

_RUNS = 30  # the newest ones that are looked into
_CONTROLNET = 0.4  # of a UNet's step: it is a copy of the half that narrows, and of the middle


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost(Record):
    """What is left of a run, and how long that takes."""

    pictures: int  # of the whole run
    pending: int
    seconds: float  # for the pending ones, by all workers at once
    basis: str  # which pictures' seconds that is estimated from
    workers: int = 1  # that have something to draw

    def to_text(self) -> str:
        """Say it on two lines."""
        by = f" by {self.workers} workers that don't slow each other down" if self.workers > 1 else ""
        return (
            f"left       {self.pending} of {self.pictures}\ncost       {_duration(self.seconds)}{by}, from {self.basis}"
        )


def estimate_cost(
    batches: BatchImageGenerator,
    plan: RunPlan,
    output_dir: str | os.PathLike[str] | None = None,
    *,
    retry_failed: bool = False,
    verify: bool = False,
    reuse: Iterable[str | os.PathLike[str]] = (),
    workers: int = 1,
) -> Cost:
    """Estimate what is left of a run in `output_dir`, as `pending_jobs` counts it, or of a new one.

    What the runs in the folders of `reuse` have of it isn't left.

    Time is taken to grow with steps × pixels, to double where steps are guided, and to grow with each ControlNet; to be
    divided by `workers`, which doesn't count how long they take to start, nor that those on one CPU share its cores.

    From pictures of the same profile on the same device in `output_dir` and reports/runs; where there are none, the
    run's first picture is drawn twice, the second time to measure it, and not kept. Raises what `pending_jobs` and
    drawing raise.
    """
    folder = None if output_dir is None else Path(output_dir)
    given = {"retry_failed": retry_failed, "verify": verify}
    pending = plan.jobs if folder is None else pending_jobs(folder, plan, **given)
    taken = {found.job for found in find_drawn(reuse, plan.request, pending)}
    pending = tuple(job for job in pending if job not in taken)
    work = sum(_work(plan, job.variant) for job in pending)
    if not pending:
        return Cost(pictures=len(plan.jobs), pending=0, seconds=0.0, basis="nothing: all are drawn")
    rates = [rate for run in _runs(folder) for rate in _rates(run, plan)]
    device = plan.environment["device"]
    if rates:
        pace, basis = median(rates), f"{len(rates)} earlier pictures of {plan.recipe['profile']} on {device}"
    else:
        pace, basis = _measured(batches, plan), f"one picture that was drawn for it on {device}"
    busy = min(workers, len(pending))
    return Cost(pictures=len(plan.jobs), pending=len(pending), seconds=pace * work / busy, basis=basis, workers=busy)


def _measured(batches: BatchImageGenerator, plan: RunPlan) -> float:
    job = plan.jobs[0]
    picture = plan.request.picture_of(job)
    batches.generator.generate(picture)  # the first one also loads LoRAs and ControlNets, and finds its kernels
    clock = perf_counter()
    batches.generator.generate(picture)
    return (perf_counter() - clock) / _work(plan, job.variant)


def _runs(folder: Path | None) -> Iterator[Path]:
    plans = list((project_root() / "reports" / "runs").glob("*/plan.json"))
    newest = sorted(plans, key=lambda path: path.stat().st_mtime, reverse=True)[:_RUNS]
    yield from dict.fromkeys([*([folder] if folder else []), *(path.parent for path in newest)])


def _rates(folder: Path, wanted: RunPlan) -> list[float]:
    """Return the seconds by step and pixel of a run's pictures, none where they were drawn otherwise."""
    try:
        plan, told = read_run(folder)
    except ImageLabError:  # a run of another version, or none: others will tell
        return []
    alike = plan.environment["device"] == wanted.environment["device"]
    if not alike or plan.recipe["profile"] != wanted.recipe["profile"]:
        return []
    variants = {job.index: job.variant for job in plan.jobs}
    done = ((index, seconds) for index, (item, seconds) in told.items() if item.status != "failed")
    return [seconds / _work(plan, variants[index]) for index, seconds in done]


def _work(plan: RunPlan, variant: int) -> float:
    recipe = plan.recipes[variant]
    guided = recipe.get("guidance_stop", 1.0) - recipe.get("guidance_start", 0.0)
    passes = 1 + (guided if recipe["guidance_scale"] > 1 else 0)
    nets = 1 + _CONTROLNET * len(recipe["controls"])
    return float(recipe["steps"] * recipe["width"] * recipe["height"] * passes * nets)


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"about {seconds:.0f} s"
    return f"about {seconds / 60:.0f} min" if seconds < 7200 else f"about {seconds / 3600:.1f} h"
