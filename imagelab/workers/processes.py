"""Workers that are processes of this machine."""

import multiprocessing as mp
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Self

from imagelab.errors import GenerationError
from imagelab.runs import Job
from imagelab.workers.sharing import Drawn, Lost, MakeDrawer

_PATIENCE_SECONDS = 5.0
# A forked process can't use CUDA, nor the locks that a thread of its parent held.
_SPAWN = mp.get_context("spawn")


@dataclass(kw_only=True, slots=True)
class _Worker:
    process: SpawnProcess
    connection: Connection
    has_begun: bool = False  # the job that it was given last


class ProcessCrew:
    """A process for each of `makes`, started when it gets its first job, and again when it has died."""

    def __init__(self, makes: Sequence[MakeDrawer]) -> None:
        self._makes = tuple(makes)
        self._workers: dict[int, _Worker] = {}

    @property
    def size(self) -> int:
        """Return how many workers there are."""
        return len(self._makes)

    def give(self, worker: int, job: Job) -> None:
        """Let an idle worker begin a job."""
        if worker in self._workers and not self._workers[worker].process.is_alive():  # it died while it was idle
            self._bury(worker)
        if worker not in self._workers:
            self._workers[worker] = _start(self._makes[worker])
        its = self._workers[worker]
        its.has_begun = False
        try:
            its.connection.send(job)
        except OSError:  # it has died since: `wait` finds that out
            return

    def wait(self) -> tuple[int, Drawn | Lost]:
        """Wait for any worker to end its job or its life, an idle one's too; raises what a job raised in it.

        Without end: how long a picture may take, nobody knows. One that hangs for good is to be killed from outside.
        """
        while True:
            numbers = {worker.connection: number for number, worker in self._workers.items()}
            ready = wait(list(numbers))[0]
            number = numbers[ready]  # type: ignore[index]  # it is one of those that were given
            worker = self._workers[number]
            try:
                said = worker.connection.recv()
            except (EOFError, OSError):
                return number, self._bury(number)
            if isinstance(said, BaseException):
                raise said
            if said is not None:
                return number, said
            worker.has_begun = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        for worker in self._workers.values():
            worker.process.terminate()
        for worker in self._workers.values():
            _end(worker)
        self._workers.clear()

    def _bury(self, number: int) -> Lost:
        worker = self._workers.pop(number)
        _end(worker)
        code = worker.process.exitcode or 0
        reason = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return Lost(reason=reason, while_starting=not worker.has_begun)


def _start(make: MakeDrawer) -> _Worker:
    ours, its = _SPAWN.Pipe()
    process = _SPAWN.Process(target=_work, args=(make, its), daemon=True)
    process.start()
    its.close()  # else its end would stay open when it dies
    return _Worker(process=process, connection=ours)


def _end(worker: _Worker) -> None:
    worker.process.join(_PATIENCE_SECONDS)
    if worker.process.is_alive():
        worker.process.kill()
        worker.process.join()
    worker.connection.close()


def _work(make: MakeDrawer, connection: Connection) -> None:
    """Draw what the parent asks for, until it is gone; None says that a job has begun."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of a terminal: the parent decides
    signal.signal(signal.SIGTERM, _leave)
    try:
        draw = make()
        while True:
            job = connection.recv()
            connection.send(None)
            connection.send(draw(job))
    except (EOFError, BrokenPipeError):
        return
    except Exception as error:  # noqa: BLE001  the parent raises it
        _tell(connection, error)


def _leave(number: int, _: object) -> None:
    """End in order: Python would say of the locks of one that is killed, tqdm's for one, that they have leaked."""
    sys.exit(128 + number)


def _tell(connection: Connection, error: Exception) -> None:
    try:
        connection.send(error)
    except BrokenPipeError:
        return
    except Exception:  # noqa: BLE001  whatever can't be pickled
        connection.send(GenerationError(f"a worker raised {error!r}"))
