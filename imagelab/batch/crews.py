"""Let a batch be drawn by other processes: what they are made of, and what each of them does with a job."""

import platform
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from imagelab.batch.drawing import attempt, judge_attempt
from imagelab.batch.judging import Judges, references_for
from imagelab.batch.planning import plan_batch
from imagelab.character import CharacterGenerator
from imagelab.config import load_configs
from imagelab.errors import InvalidValueError
from imagelab.runs import BatchRequest, Job, RunPlan
from imagelab.workers import Drawn, ProcessCrew, RayCrew

if TYPE_CHECKING:
    from imagelab.batch.generator import BatchImageGenerator

Setup = Callable[[], "BatchImageGenerator"]  # makes it in the process where it is called; can be pickled


def make_crew(
    setup: Callable[[str], Setup], device: str, request: BatchRequest, plan: RunPlan, workers: int, ray: str | None
) -> ProcessCrew | RayCrew | None:
    """Return who draws a plan, None for this process alone; `setup` is called with a worker's device.

    Raises InvalidValueError for what workers can't draw, and for more of them than there are GPUs.
    """
    if workers == 1 and ray is None:
        return None
    if request.pictures_at_once > 1:
        raise InvalidValueError("determinism", "fast", "strict where workers draw, a picture at a time")
    from imagelab.runs.recipe import worker_devices  # imports torch

    if ray is not None:
        on_gpu = str(plan.environment["device"]).startswith("cuda")
        return RayCrew(_DrawerOf(setup(device), request, plan), workers, address=ray, num_gpus=float(on_gpu))
    return ProcessCrew([_DrawerOf(setup(where), request, plan) for where in worker_devices(device, workers)])


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchSetup:
    """What it takes to make the same BatchImageGenerator in another process."""

    profile: str
    device: str
    configs: Path  # the folder of the YAML files
    store: Path  # of references and calibrations
    compiled: bool = False

    def __call__(self) -> "BatchImageGenerator":
        """Make it; nothing is loaded yet."""
        from imagelab.batch.generator import BatchImageGenerator  # which imports this module

        configs = load_configs(self.configs)
        generator = CharacterGenerator(self.profile, self.device, configs, compiled=self.compiled)
        return BatchImageGenerator(generator, references_for(generator, self.store))


@dataclass(frozen=True)
class _DrawerOf:
    """A worker's part of a run: loads what draws it, once it is there."""

    setup: Setup
    request: BatchRequest
    plan: RunPlan

    def __call__(self) -> Callable[[Job], Drawn]:
        """Plan for itself, compare, load, and return what draws a job."""
        from imagelab.runs.recipe import use_threads  # imports torch

        use_threads(self.plan.environment)
        batches = self.setup()
        plan, judges = plan_batch(batches.generator, batches.references, self.request)
        if changes := self.plan.changes(plan):
            raise InvalidValueError("worker", platform.node(), f"as the process that planned ({'; '.join(changes)})")
        batches.generator.load()
        return partial(_draw_and_judge, batches.generator, self.request, judges)


def _draw_and_judge(generator: CharacterGenerator, request: BatchRequest, judges: Judges, job: Job) -> Drawn:
    return judge_attempt(request, judges, attempt(generator, request, job))
