"""Workers that are actors of a Ray cluster; needs the extra `ray`, which is imported when the crew begins."""

import sys
from collections.abc import Sequence
from traceback import walk_tb
from typing import Any, Self

from imagelab.errors import GenerationError, InvalidValueError
from imagelab.runs import Job
from imagelab.workers.sharing import Drawer, Drawn, Lost, MakeDrawer

LOCAL = "local"  # a cluster of this machine alone, which ends with the crew
_STARTS = 2  # Ray's processes have 15 and 30 s to import themselves: on a busy machine the second time, if at all


class _Actor:
    """Holds a pipeline, on whatever machine."""

    _draw: Drawer | None = None

    def find(self, paths: Sequence[str]) -> None:
        """Look for modules where the asking process does: what it sends may be made of them."""
        sys.path += [path for path in paths if path not in sys.path]

    def start(self, make: MakeDrawer) -> None:
        self._draw = make()

    def is_there(self) -> bool:
        return True

    def draw(self, job: Job) -> Drawn:
        assert self._draw is not None  # noqa: S101  an actor does its calls in order
        return self._draw(job)


class RayCrew:
    """`count` actors, each with `num_cpus` and `num_gpus` for itself; those that die are replaced, perhaps elsewhere.

    `address` is Ray's: "auto" for the cluster that this machine is of, "ray://host:10001", or "local" for one of this
    machine alone. Code, configuration, models and the references' store must lie at the same paths on all machines.
    Raises InvalidValueError where Ray isn't installed or there is no such cluster.
    """

    def __init__(
        self, make: MakeDrawer, count: int, *, address: str = "auto", num_cpus: float = 1, num_gpus: float = 0
    ) -> None:
        self._make, self._count, self._address = make, count, address
        self._resources = {"num_cpus": num_cpus, "num_gpus": num_gpus}
        self._ray: Any = None
        self._is_ours = False
        self._actors: dict[int, tuple[Any, Any]] = {}  # {worker: actor, and whether it has started, to be asked}
        self._running: dict[Any, int] = {}

    @property
    def size(self) -> int:
        """Return how many workers there are."""
        return self._count

    def give(self, worker: int, job: Job) -> None:
        """Let an idle worker begin a job."""
        self._forget_dead(worker)
        if worker not in self._actors:
            # Ray would restart it by itself, but forget that a job had killed it.
            actor = self._ray.remote(max_restarts=0, **self._resources)(_Actor).remote()
            actor.find.remote(sys.path)
            self._actors[worker] = actor, actor.start.remote(self._make)
        self._running[self._actors[worker][0].draw.remote(job)] = worker

    def wait(self) -> tuple[int, Drawn | Lost]:
        """Wait for any worker to end its job or its life; raises what a job raised in it."""
        (ended,), _ = self._ray.wait(list(self._running), num_returns=1)
        worker = self._running.pop(ended)
        actor, started = self._actors[worker]
        errors = self._ray.exceptions
        is_starting = True
        try:
            self._ray.get(started)
            is_starting = False
            return worker, self._ray.get(ended)
        except errors.RayTaskError as error:
            raise getattr(error, "cause", error) from error
        except errors.RayActorError as error:
            del self._actors[worker]
            self._ray.kill(actor)
            return worker, Lost(reason=str(error).partition("\n")[0], while_starting=is_starting)
        except errors.RayError as error:
            raise GenerationError(f"Ray: {str(error).splitlines()[0]}", "See the cluster's log") from error

    def __enter__(self) -> Self:
        try:
            import ray
        except ImportError as error:
            raise InvalidValueError("ray", "not installed", "installed: pip install imagelab[ray]") from error
        self._ray = ray
        if not ray.is_initialized():
            self._is_ours = True
            self._begin()
        try:
            self._check_room()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        for actor, _ in self._actors.values():
            self._ray.kill(actor)
        self._actors.clear()
        self._running.clear()
        if self._is_ours:
            self._ray.shutdown()
            self._is_ours = False

    def _forget_dead(self, worker: int) -> None:
        """Forget an idle actor that has died, so that its death isn't the next job's fault."""
        if worker not in self._actors:
            return
        try:
            self._ray.get(self._actors[worker][0].is_there.remote())
        except self._ray.exceptions.RayActorError:
            del self._actors[worker]

    def _begin(self) -> None:
        """Join a cluster, or start one; what is left of a failed start is ended."""
        where = {"num_cpus": self._count} if self._address == LOCAL else {}
        for left in reversed(range(_STARTS)):
            try:
                self._ray.init(
                    self._address, include_dashboard=False, log_to_driver=False, logging_level="error", **where
                )
            except (ConnectionError, ValueError) as error:
                raise InvalidValueError("ray", self._address, f"a cluster's address, or {LOCAL}") from error
            except Exception as error:  # a plain Exception, when a node of this machine's own doesn't come up in time
                _end_node(error)
                if left:
                    continue
                reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                raise GenerationError(
                    f"Ray doesn't start: {reason}", "See its log, or use processes: ray=None"
                ) from error
            return

    def _check_room(self) -> None:
        there = self._ray.cluster_resources()
        for name, each in (("CPU", self._resources["num_cpus"]), ("GPU", self._resources["num_gpus"])):
            if self._count * each > there.get(name, 0):  # Ray would wait for a machine to join, without a word
                raise InvalidValueError(
                    "workers", self._count, f"few enough for the cluster's {there.get(name, 0):g} {name}s"
                )


def _end_node(error: BaseException) -> None:
    """End the processes of a node that didn't come up: Ray itself does so at exit only, and only for those that did."""
    for frame, _ in walk_tb(error.__traceback__):
        node: Any = frame.f_locals.get("self")
        if hasattr(node, "kill_all_processes"):
            node.kill_all_processes(check_alive=False, allow_graceful=False, wait=True)
