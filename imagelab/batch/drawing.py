"""Draw the pictures of a batch, one at a time or several at once; judging them is left for later."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from time import perf_counter
from typing import Any

from imagelab.batch.judging import Judges, judge_picture
from imagelab.character import CharacterGenerator
from imagelab.errors import GenerationError
from imagelab.results import Generation
from imagelab.runs import BatchRequest, Job
from imagelab.workers import Drawn

OnStep = Callable[[int, int, Any], object]  # (step, of how many, latents)


@dataclass(frozen=True, kw_only=True, slots=True)
class Attempt:
    """What drawing a job has come to; nobody has looked at it yet."""

    job: Job
    made: Generation | str  # its picture, or in words why there is none
    seconds: float


def draw_jobs(
    generator: CharacterGenerator, request: BatchRequest, jobs: Iterable[Job], on_step: OnStep
) -> Iterator[tuple[Attempt, ...]]:
    """Draw jobs in their order and yield those that were drawn at once, as many as the request says, together."""
    size = request.pictures_at_once
    for _, own in groupby(jobs, key=lambda job: job.variant):
        alike = list(own)
        for start in range(0, len(alike), size):
            yield from _draw_group(generator, request, alike[start : start + size], on_step)


def _draw_group(
    generator: CharacterGenerator, request: BatchRequest, group: Sequence[Job], on_step: OnStep
) -> Iterator[tuple[Attempt, ...]]:
    """Draw a group's pictures at once; where that fails, each alone."""
    clock = perf_counter()
    made: Sequence[Generation] = ()
    if len(group) > 1:
        try:
            made = generator.generate_together(request.picture_of(group[0]), [job.seed for job in group], on_step)
        except GenerationError:  # of one picture, perhaps: the others needn't fail with it
            made = ()
    share = (perf_counter() - clock) / len(group)
    if made:
        yield tuple(Attempt(job=job, made=one, seconds=share) for job, one in zip(group, made, strict=True))
        return
    for job in group:
        alone = attempt(generator, request, job, on_step)
        yield (replace(alone, seconds=alone.seconds + share),)


def attempt(generator: CharacterGenerator, request: BatchRequest, job: Job, on_step: OnStep | None = None) -> Attempt:
    """Draw a job's picture; one that fails is an attempt, too.

    Where pictures are drawn one at a time, what an earlier one has given up because memory ran out is taken back first:
    a picture depends on its own job. Raises what else is wrong with the request, the models or the machine.
    """
    clock = perf_counter()
    made: Generation | str
    if request.pictures_at_once == 1:
        generator.restore_memory_policy()
    try:
        made = generator.generate(request.picture_of(job), on_step)
    except GenerationError as error:
        made = str(error)  # its traceback would keep what was being drawn in memory
    return Attempt(job=job, made=made, seconds=perf_counter() - clock)


def judge_attempt(request: BatchRequest, judges: Judges, drawn: Attempt) -> Drawn:
    """Have a picture judged by the judge of its character, if there is one."""
    clock = perf_counter()
    judge = judges.get(str(request.picture_of(drawn.job).character))
    item, generation = judge_picture(request, drawn.job, drawn.made, judge)
    return Drawn(job=drawn.job, item=item, generation=generation, seconds=drawn.seconds + perf_counter() - clock)
