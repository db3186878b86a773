"""Who draws what: jobs for idle workers, those of dead ones again, and the results in the jobs' own order.

In their order they are committed as one process would: the ledger is the same, and so is where a run "until 50 are
accepted" ends.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from typing import Protocol

from imagelab.errors import GenerationError
from imagelab.results import BatchItem, Generation
from imagelab.runs import Job

ATTEMPTS = 3  # of a job whose worker dies, and of starting a worker
_AHEAD = 4  # pictures a worker that wait in memory for an earlier one


@dataclass(frozen=True, kw_only=True, slots=True)
class Drawn:
    """What has become of a job."""

    job: Job
    item: BatchItem
    generation: Generation | None  # None: nothing could be drawn
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Lost:
    """What a worker leaves that died: nothing, but why."""

    reason: str
    while_starting: bool  # before it began the job that it was given: no job is to blame


Drawer = Callable[[Job], Drawn]
MakeDrawer = Callable[[], Drawer]  # goes to a worker, which calls it once: loads the models there


class Crew(Protocol):
    """Workers, counted from 0, each of which does a job at a time; a context manager, whose end is theirs."""

    @property
    def size(self) -> int:
        """Return how many workers there are."""

    def give(self, worker: int, job: Job) -> None:
        """Let an idle worker begin a job; one that has died, or not begun, is started."""

    def wait(self) -> tuple[int, Drawn | Lost]:
        """Wait for any worker to end its job or its life; raises what a job raised in it."""


def share(crew: Crew, jobs: Sequence[Job]) -> Iterator[Drawn]:
    """Let workers draw jobs, and yield what becomes of them, in the order in which the jobs are given.

    The job of a worker that dies is given to another one; after three deaths it has failed. Raises what drawing raises,
    and GenerationError when a worker can't be started in three attempts.
    """
    order = {job.index: place for place, job in enumerate(jobs)}
    waiting = list(order.values())
    heapify(waiting)
    idle = list(range(crew.size))
    running: dict[int, int] = {}  # {worker: place of its job}
    done: dict[int, Drawn] = {}
    deaths: Counter[int] = Counter()
    starts = 0
    for place, _ in enumerate(jobs):
        while place not in done:
            while idle and waiting and (waiting[0] == place or len(done) < _AHEAD * crew.size):
                running[idle[-1]] = waiting[0]
                crew.give(idle.pop(), jobs[heappop(waiting)])
            worker, outcome = crew.wait()
            its = running.pop(worker, None)
            if its is None:  # an idle one has died: it is started again when it is needed
                continue
            idle.append(worker)
            if isinstance(outcome, Drawn):
                done[its], starts = outcome, 0
                continue
            starts += outcome.while_starting
            deaths[its] += not outcome.while_starting
            if starts >= ATTEMPTS:
                raise GenerationError(f"a worker died while it started ({outcome.reason})", "See what it printed")
            if deaths[its] >= ATTEMPTS:
                done[its] = _failed(jobs[its], outcome.reason)
            else:
                heappush(waiting, its)
        yield done.pop(place)


def _failed(job: Job, reason: str) -> Drawn:
    said = f"{ATTEMPTS} workers died of it ({reason})"
    return Drawn(
        job=job,
        item=BatchItem(index=job.index, seed=job.seed, status="failed", reason=said),
        generation=None,
        seconds=0.0,
    )
