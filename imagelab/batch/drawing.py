"""Draw the pictures of a batch, one at a time or several at once, and judge them."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from time import perf_counter

from imagelab.batch.judging import Judge, Judges, judge_picture
from imagelab.character import CharacterGenerator
from imagelab.errors import GenerationError
from imagelab.results import BatchItem, Generation, GenerationRequest
from imagelab.runs import BatchRequest, Job
from imagelab.workers import Drawn

Draw = Callable[[GenerationRequest], Generation]


def draw_job(draw: Draw, request: BatchRequest, job: Job, judge: Judge | None) -> tuple[BatchItem, Generation | None]:
    """Draw one picture of a batch and judge it; depends on nothing but its arguments, and writes nothing.

    `draw` is a generator's `generate`. A picture that fails is an item; what else is wrong with the request, the models
    or the machine is raised.
    """
    made: Generation | str
    try:
        made = draw(request.picture_of(job))
    except GenerationError as error:
        made = str(error)
    item = judge_picture(request, job, made, judge)
    return item, None if isinstance(made, str) or item.status == "failed" else made


def draw_and_judge(draw: Draw, request: BatchRequest, judges: Judges, job: Job) -> Drawn:
    """Draw one picture of a batch and have it judged by the judge of its character, if there is one."""
    clock = perf_counter()
    judge = judges.get(str(request.picture_of(job).character))
    item, generation = draw_job(draw, request, job, judge)
    return Drawn(job=job, item=item, generation=generation, seconds=perf_counter() - clock)


def draw_jobs(
    generator: CharacterGenerator, request: BatchRequest, judges: Judges, jobs: Iterable[Job]
) -> Iterator[Drawn]:
    """Yield what becomes of jobs, in their order; as many as the request says are drawn at once."""
    size = request.pictures_at_once
    for _, own in groupby(jobs, key=lambda job: job.variant):
        alike = list(own)
        for group in (alike[start : start + size] for start in range(0, len(alike), size)):
            clock = perf_counter()
            draw = _together(generator, request, group)
            share = (perf_counter() - clock) / len(group)
            for job in group:
                one = draw_and_judge(draw, request, judges, job)
                yield replace(one, seconds=one.seconds + share)


def _together(generator: CharacterGenerator, request: BatchRequest, group: Sequence[Job]) -> Draw:
    """Draw a group's pictures at once and return what gives them out; where that fails, what draws each alone."""
    if len(group) == 1:
        return generator.generate
    try:
        made = generator.generate_together(request.picture_of(group[0]), [job.seed for job in group])
    except GenerationError:  # of one picture, perhaps: the others needn't fail with it
        return generator.generate
    by_seed = {generation.record.seed: generation for generation in made}
    return lambda picture: by_seed[picture.seed or 0]
