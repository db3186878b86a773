"""Processes share the jobs of a run: each job once, in order, whoever dies."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import psutil
import pytest

from imagelab.errors import GenerationError, InvalidValueError
from imagelab.results import BatchItem
from imagelab.runs import Job
from imagelab.runs.recipe import one_gpu_each, worker_devices
from imagelab.workers import Drawn, ProcessCrew, RayCrew, share
from imagelab.workers.sharing import Lost


def jobs(count):
    return tuple(Job(index=index + 3, seed=index, id=str(index)) for index in range(count))


def kill(pid):
    """Kill a process, and wait until it is gone, but for what its parent has to be told of it."""
    os.kill(pid, signal.SIGKILL)
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)


@dataclass(frozen=True)
class Hand:
    """Does jobs in no time, and notes which; those that are named go wrong, always or `once`."""

    folder: Path
    slow: tuple[int, ...] = ()
    deadly: tuple[int, ...] = ()
    wrong: tuple[int, ...] = ()
    murderous: tuple[int, ...] = ()  # let the other worker do something, and kill it when it is idle
    once: bool = False
    stillborn: bool = False

    def __call__(self):
        if self.stillborn:
            os._exit(7)
        return self.draw

    def draw(self, job):
        tried = self.folder / f"{job.seed}-{os.getpid()}"
        first = not list(self.folder.glob(f"{job.seed}-*"))
        tried.touch()
        if job.seed in self.slow:
            time.sleep(0.3)
        if job.seed in self.murderous:
            while not (others := self.pids() - {os.getpid()}):
                time.sleep(0.01)
            time.sleep(0.3)  # by then it has said what it did
            kill(others.pop())
            time.sleep(0.3)
        if job.seed in self.deadly and (first or not self.once):
            os.kill(os.getpid(), signal.SIGKILL)
        if job.seed in self.wrong:
            raise InvalidValueError("seed", job.seed, "another")
        item = BatchItem(index=job.index, seed=job.seed, status="accepted", reason=str(os.getpid()))
        return Drawn(job=job, item=item, generation=None, seconds=0.1)

    def pids(self):
        return {int(path.name.partition("-")[2]) for path in self.folder.iterdir()}


@pytest.fixture
def hand(tmp_path):
    return partial(Hand, tmp_path)


@pytest.fixture(scope="module")
def cluster():
    """Start a Ray of this machine alone, which all crews that follow join."""
    pytest.importorskip("ray", reason="the extra ray isn't installed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_worker_niceness", "0")  # by default 15, which a busy machine hardly ever serves
        holder = RayCrew(Hand(Path()), 2, address="local")
        try:
            holder.__enter__()
        except GenerationError as error:
            pytest.skip(str(error))  # of the machine, not of ours
        with holder:
            yield


@pytest.fixture(params=["processes", "ray"])
def crew(request):
    """Return what makes a crew of so many hands."""
    if request.param == "processes":
        return lambda hand, workers=2: ProcessCrew([hand] * workers)
    request.getfixturevalue("cluster")
    return lambda hand, workers=2: RayCrew(hand, workers)


def work(crew, hand, count=6):
    with crew(hand) as workers:
        return list(share(workers, jobs(count)))


def all_gone(pids):
    until = time.monotonic() + 20
    while any(psutil.pid_exists(pid) for pid in pids) and time.monotonic() < until:
        time.sleep(0.05)
    return not any(psutil.pid_exists(pid) for pid in pids)


def test_all_jobs_are_done_once_in_their_order_by_several_processes(crew, hand):
    drawn = work(crew, hand(slow=(0, 1, 2)))
    assert [one.job for one in drawn] == list(jobs(6))
    assert {int(one.item.reason) for one in drawn} == hand().pids()
    assert len(hand().pids()) == 2
    assert len(list(hand().folder.iterdir())) == 6
    assert all_gone(hand().pids())


def test_the_job_of_a_worker_that_dies_is_given_to_another(crew, hand):
    drawn = work(crew, hand(deadly=(1, 4), once=True))
    assert [one.job for one in drawn] == list(jobs(6))
    assert {one.item.status for one in drawn} == {"accepted"}
    assert len(list(hand().folder.iterdir())) == 8


def test_a_job_that_kills_every_worker_has_failed_and_the_others_are_done(crew, hand):
    drawn = work(crew, hand(deadly=(2,)), count=5)
    assert [one.item.status for one in drawn] == ["accepted", "accepted", "failed", "accepted", "accepted"]
    assert "3 workers died of it (" in drawn[2].item.reason


def test_the_death_of_an_idle_worker_ends_nothing(crew, hand):
    drawn = work(crew, hand(murderous=(0,)), count=2)
    assert [one.item.status for one in drawn] == ["accepted", "accepted"]
    assert len(list(hand().folder.iterdir())) == 2, "no job was done twice"


def test_the_death_of_an_idle_worker_is_not_the_fault_of_its_next_job(crew, hand):
    with crew(hand(), 1) as one:
        for job in jobs(4):
            one.give(0, job)
            _, outcome = one.wait()
            assert (outcome.job, outcome.item.status) == (job, "accepted")
            kill(int(outcome.item.reason))
    assert len(hand().pids()) == 4


def test_a_worker_that_dies_before_it_begins_its_job_has_not_died_of_it(crew, hand):
    with crew(hand(stillborn=True), 1) as one:
        one.give(0, jobs(1)[0])
        worker, outcome = one.wait()
    assert (worker, type(outcome), outcome.while_starting) == (0, Lost, True)


def test_what_a_job_raises_is_raised_here_and_no_worker_is_left(crew, hand):
    with pytest.raises(InvalidValueError, match="seed must be another, got 2"):
        work(crew, hand(wrong=(2,)))
    assert all_gone(hand().pids())


def test_workers_that_cannot_start_are_no_jobs_fault(crew, hand):
    with pytest.raises(GenerationError, match="died while it started"):
        work(crew, hand(stillborn=True))


def test_workers_of_a_parent_that_was_killed_end(tmp_path):
    code = (
        "import sys; from pathlib import Path; from test_workers import Hand, ProcessCrew, work\n"
        "hand = Hand(Path(sys.argv[1]), slow=tuple(range(99)))\n"
        "if __name__ == '__main__': work(lambda hand: ProcessCrew([hand] * 2), hand, 99)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    (tmp_path / "out").mkdir()
    parent = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "out")], env=environment)
    while not list((tmp_path / "out").iterdir()):
        assert parent.poll() is None
        time.sleep(0.05)
    parent.kill()
    parent.wait()
    assert all_gone(Hand(tmp_path / "out").pids())


@dataclass(frozen=True)
class Locking(Hand):
    """Has a lock between processes, as tqdm has, and takes its time."""

    def draw(self, _):
        lock = get_context("spawn").RLock()
        (self.folder / "begun").touch()
        time.sleep(60)
        return lock


def stop_while_it_draws(hand):
    with ProcessCrew([hand]) as crew:
        crew.give(0, jobs(1)[0])
        while not (hand.folder / "begun").exists():
            time.sleep(0.05)


def test_workers_that_are_stopped_while_they_draw_leave_no_lock_behind(tmp_path):
    code = (
        "import sys; from pathlib import Path; from test_workers import Locking, stop_while_it_draws\n"
        "if __name__ == '__main__': stop_while_it_draws(Locking(Path(sys.argv[1])))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    assert "leaked" not in done.stderr


def test_ray_that_is_not_installed_is_named_with_the_fix(hand, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InvalidValueError, match=r"pip install imagelab\[ray\]"), RayCrew(hand(), 2):
        pass


@pytest.mark.parametrize(
    ("device", "first", "count", "devices"),
    [
        ("cuda", 0, 4, ("cuda:0", "cuda:1", "cuda:2", "cuda:3")),
        ("auto", 0, 1, ("cuda:0",)),
        ("cuda:2", 2, 2, ("cuda:2", "cuda:3")),
    ],
)
def test_each_worker_gets_a_gpu_of_its_own(device, first, count, devices):
    assert one_gpu_each(device, first, count, gpus=4) == devices


@pytest.mark.parametrize(("device", "first", "count"), [("cuda", 0, 5), ("cuda:2", 2, 3)])
def test_more_workers_than_gpus_are_refused_with_how_many_there_are(device, first, count):
    with pytest.raises(InvalidValueError, match=f"one for each GPU from {device} on: {4 - first}, got {count}"):
        one_gpu_each(device, first, count, gpus=4)


def test_workers_share_a_cpu():
    assert worker_devices("cpu", 3) == ("cpu",) * 3
