"""Run a batch that is planned: draw what is left of it, and take each picture into the run's folder."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from itertools import chain
from traceback import clear_frames, walk_tb
from types import TracebackType

from tqdm.auto import tqdm

from imagelab.batch.drawing import Attempt, OnStep, draw_jobs, judge_attempt
from imagelab.batch.following import AbandonedError, Follower
from imagelab.batch.judging import Judges
from imagelab.batch.reusing import find_drawn
from imagelab.character import CharacterGenerator
from imagelab.results import BatchResult
from imagelab.runs import BatchRequest, RunFolder
from imagelab.vram import release_memory
from imagelab.workers import Drawn, ProcessCrew, RayCrew, share

Group = Sequence[Attempt | Drawn]  # what was drawn at once; workers have judged it already


def run_batch(
    folder: RunFolder,
    generator: CharacterGenerator,
    request: BatchRequest,
    judges: Judges,
    crew: ProcessCrew | RayCrew | None,
    *,
    reuse: Iterable[str | os.PathLike[str]],
    progress: bool,
) -> BatchResult:
    """Open a run's folder, draw what is pending, by a crew if there is one, and return what has become of it all.

    What runs in the folders of `reuse` have drawn of it is taken from there.

    What was drawn is judged and committed in a thread, while the next is drawn here. Raises what RunFolder and drawing
    raise; after a KeyboardInterrupt nothing of the drawing stays in memory.
    """
    try:
        with folder as run:
            with (
                Follower() as follower,
                suppress(AbandonedError),  # the follower raises why
                _drawing(run, generator, request, crew, reuse, follower.check) as groups,
            ):
                _follow(run, groups, partial(_commit, run, request, judges), follower, progress=progress)
            return run.result()
    except KeyboardInterrupt as stop:
        _forget(stop.__traceback__)
        release_memory()
        raise


@contextmanager
def _drawing(
    run: RunFolder,
    generator: CharacterGenerator,
    request: BatchRequest,
    crew: ProcessCrew | RayCrew | None,
    reuse: Iterable[str | os.PathLike[str]],
    on_step: OnStep,
) -> Iterator[Iterable[Group]]:
    """Give the pending jobs, as they are drawn, one after the other; nothing is loaded where there are none."""
    jobs = run.pending_jobs()
    elsewhere = find_drawn(reuse, request, jobs)
    taken = ((found.drawn(request),) for found in elsewhere)
    there = {found.job for found in elsewhere}
    jobs = tuple(job for job in jobs if job not in there)
    if not jobs:
        yield taken
    elif crew is None:
        generator.load()
        generator.restore_memory_policy()  # what an earlier run lacked says nothing about this one
        yield chain(taken, draw_jobs(generator, request, jobs, on_step))
    else:
        with crew:
            yield chain(taken, ((drawn,) for drawn in share(crew, jobs)))


def _follow(
    run: RunFolder, groups: Iterable[Group], commit: Callable[[Group], None], follower: Follower, *, progress: bool
) -> None:
    """Commit group after group while the next is drawn; none is drawn while it isn't known whether the run is over."""
    character = str(run.plan.request.picture.character)
    bar = tqdm(total=len(run.pending_jobs()), desc=character, unit="picture", disable=not progress)
    with bar:
        for group in groups:
            follower.wait()
            bar.set_postfix(accepted=run.total_accepted, refresh=False)
            bar.update(len(group))
            may_be_last = run.may_end_with(len(group))
            follower.begin(partial(commit, group))
            if may_be_last:
                follower.wait()
                if run.is_over:
                    break
        follower.wait()
        bar.set_postfix(accepted=run.total_accepted)


def _commit(run: RunFolder, request: BatchRequest, judges: Judges, group: Group) -> None:
    for one in group:
        drawn = judge_attempt(request, judges, one) if isinstance(one, Attempt) else one
        run.commit(drawn.job, drawn.item, drawn.generation, drawn.seconds)
        if run.is_over:
            break


def _forget(traceback: TracebackType | None) -> None:
    """Empty the frames of a traceback: a notebook keeps the last one, and with it whatever was being drawn."""
    clear_frames(traceback)
    for frame, _ in walk_tb(traceback):
        # diffusers calls locals(), and Python keeps what that returned until the frame is asked again.
        _ = frame.f_locals
