"""Run a batch that is planned: draw what is left of it, and take each picture into the run's folder."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from traceback import clear_frames, walk_tb
from types import TracebackType

from tqdm.auto import tqdm

from imagelab.batch.drawing import draw_jobs
from imagelab.batch.judging import Judges
from imagelab.character import CharacterGenerator
from imagelab.results import BatchResult
from imagelab.runs import BatchRequest, RunFolder
from imagelab.vram import release_memory
from imagelab.workers import Drawn, ProcessCrew, RayCrew, share


def run_batch(
    folder: RunFolder,
    generator: CharacterGenerator,
    request: BatchRequest,
    judges: Judges,
    crew: ProcessCrew | RayCrew | None,
    *,
    progress: bool,
) -> BatchResult:
    """Open a run's folder, draw what is pending, by a crew if there is one, and return what has become of it all.

    Raises what RunFolder and drawing raise; after a KeyboardInterrupt nothing of the drawing stays in memory.
    """
    try:
        with folder as run:
            with _drawing(run, generator, request, judges, crew) as drawn:
                _commit(run, drawn, progress=progress)
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
    judges: Judges,
    crew: ProcessCrew | RayCrew | None,
) -> Iterator[Iterable[Drawn]]:
    """Give what becomes of the pending jobs, one after the other; nothing is loaded where there are none."""
    jobs = run.pending_jobs()
    if not jobs:
        yield ()
    elif crew is None:
        generator.load()
        generator.restore_memory_policy()  # what an earlier run lacked says nothing about this one
        yield draw_jobs(generator, request, judges, jobs)
    else:
        with crew:
            yield share(crew, jobs)


def _commit(run: RunFolder, drawn: Iterable[Drawn], *, progress: bool) -> None:
    character = str(run.plan.request.picture.character)
    bar = tqdm(total=len(run.pending_jobs()), desc=character, unit="picture", disable=not progress)
    with bar:
        for one in drawn:
            run.commit(one.job, one.item, one.generation, one.seconds)
            bar.update()
            bar.set_postfix(accepted=run.result().total_accepted)
            if run.is_over:
                break


def _forget(traceback: TracebackType | None) -> None:
    """Empty the frames of a traceback: a notebook keeps the last one, and with it whatever was being drawn."""
    clear_frames(traceback)
    for frame, _ in walk_tb(traceback):
        # diffusers calls locals(), and Python keeps what that returned until the frame is asked again.
        _ = frame.f_locals
