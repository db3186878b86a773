"""A picture is judged and stored while the next one is drawn, and nothing else is another than one after the other."""

import gc
import threading
import time
import warnings
import weakref
from dataclasses import replace
from signal import SIGINT, pthread_kill

import numpy as np
import pytest

from imagelab.batch import BatchImageGenerator
from imagelab.batch.drawing import attempt, judge_attempt
from imagelab.batch.planning import plan_batch
from imagelab.batch.request import batch_request
from imagelab.character import CharacterGenerator
from imagelab.errors import GenerationError
from imagelab.references import CharacterReferenceManager
from imagelab.results import GenerationRequest
from imagelab.runs import RunFolder, read_batch, read_ledger

PATIENCE = 60  # seconds; what is waited for comes at once
PICTURE = GenerationRequest(
    character="luca",
    scene_description="standing in the town, happy expression",
    quality_preset="draft",
    width=64,
    height=64,
    steps=2,
    seed=0,
)
LONGER = replace(PICTURE, steps=10)
LAX = {"consistency_threshold": -1.0}  # whatever face is found is accepted


class Watched(CharacterGenerator):
    """Draws by another generator; tells of each picture's beginning, as step 0, and of its steps; some seeds fail."""

    def __init__(self, real, tell=None, failing=(), kept=None):
        super().__init__(profile=real.profile.name, device=real.device, configs=real.configs)
        self.real, self.told, self.failing, self.kept = real, tell, failing, kept
        self.seen = []  # (seed, step)

    def load(self):
        return self.real.load()

    def tell(self, seed, step=0):
        self.seen.append((seed, step))
        if self.told is not None:
            self.told(seed, step)

    def generate(self, request, on_step=None):
        self.tell(request.seed)
        if request.seed in self.failing:
            raise GenerationError("no")
        if self.kept is not None and request.seed in self.kept:
            return self.kept[request.seed]
        return self.real.generate(request, lambda *at: (self.tell(request.seed, at[0]), on_step(*at)))

    def generate_together(self, request, seeds, on_step=None):
        self.tell(min(seeds))
        return self.real.generate_together(request, seeds, on_step)


class Judging(CharacterReferenceManager):
    """Judges as its base does, and lets something happen before, told the number of the picture."""

    happen = None
    judged = 0

    def judge(self, references, image, threshold):
        if self.happen is not None:
            self.happen(self.judged)
        self.judged += 1
        return super().judge(references, image, threshold)


@pytest.fixture(scope="module")
def judging(generator, tmp_path_factory):
    store = tmp_path_factory.mktemp("store")
    with Judging(store=store, profile="puppet", configs=generator.configs, device="cpu") as manager:
        manager.references("luca")
        yield manager


@pytest.fixture
def batches(generator, judging):
    """Return a function that makes a batch generator, of whose pictures we are told."""
    judging.judged = 0

    def make(tell=None, happen=None, painter=Watched, **options):
        judging.happen = happen
        return BatchImageGenerator(painter(generator, tell, **options), judging)

    yield make
    judging.happen = None


def left(folder):
    """Return what a run left but for times: its pictures, and its ledger's rows in their order."""
    rows = [{**row, "seconds": 0, "mtime_ns": 0} for row in read_ledger(folder / "ledger.jsonl")]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.glob("*/*.png")}, rows


def followers():
    return [thread for thread in threading.enumerate() if thread.name.startswith("follower")]


@pytest.fixture(scope="module")
def one_by_one(generator, judging, tmp_path_factory):
    """Return what four pictures leave that are drawn, judged and committed one after the other, without a thread."""
    judging.happen = None
    folder, request = tmp_path_factory.mktemp("runs") / "run", batch_request(PICTURE, 4, **LAX)
    plan, judges = plan_batch(generator, judging, request)
    with RunFolder(folder, plan) as run:
        for job in run.pending_jobs():
            drawn = judge_attempt(request, judges, attempt(generator, request, job))
            run.commit(job, drawn.item, drawn.generation, 0.0)
    return left(folder)


def run(batches, folder, count=4, picture=PICTURE, **options):
    return batches.run(batch_request(picture, count, **(LAX | options)), folder, progress=False)


def test_a_picture_is_judged_while_the_next_is_drawn_and_all_is_as_one_by_one(batches, one_by_one, tmp_path):
    began = [threading.Event() for _ in range(5)]
    began[4].set()  # after the last there is none
    threads, met = set(), []

    def draw(seed, _):
        threads.add(("draws", threading.current_thread() is threading.main_thread()))
        began[seed].set()

    def judge(number):
        threads.add(("judges", threading.current_thread() is threading.main_thread()))
        met.append(began[number + 1].wait(PATIENCE))

    run(batches(draw, judge), tmp_path / "run")
    assert met == [True] * 4
    assert threads == {("draws", True), ("judges", False)}
    assert left(tmp_path / "run") == one_by_one
    assert followers() == []


def test_pictures_drawn_at_once_are_judged_while_the_next_are_drawn(batches, tmp_path):
    began, met = {seed: threading.Event() for seed in (0, 2)}, []
    run(
        batches(lambda seed, _: began[seed].set(), lambda number: met.append(number > 1 or began[2].wait(PATIENCE))),
        tmp_path / "run",
        determinism="fast",
        batch_size=2,
    )
    assert met == [True] * 4
    assert [item.index for item in read_batch(tmp_path / "run").items] == [0, 1, 2, 3]


def test_no_second_picture_is_drawn_while_one_waits_and_none_stays_in_memory(batches, tmp_path):
    """When a picture is begun, all but the last one are committed; only that one is still in memory."""
    pictures, committed, alive = [], [], []

    class Forgetful(Watched):
        def generate(self, request, on_step=None):
            gc.collect()
            committed.append(len(read_batch(tmp_path / "run").items))
            alive.append(sum(one() is not None for one in pictures))
            made = self.real.generate(request, on_step)
            pictures.append(weakref.ref(made.image))
            return made

    run(batches(happen=lambda _: time.sleep(0.2), painter=Forgetful), tmp_path / "run")
    assert all(number - 1 <= count <= number for number, count in enumerate(committed))
    assert max(alive) == 1
    gc.collect()
    assert [one() for one in pictures] == [None] * 4


@pytest.fixture(scope="module")
def undisturbed(generator, judging, tmp_path_factory):
    judging.happen = None
    folder = tmp_path_factory.mktemp("runs") / "run"
    run(BatchImageGenerator(generator, judging), folder, 3, LONGER)
    return left(folder)


@pytest.mark.parametrize("error", [MemoryError(), GenerationError("the judge"), OSError("no"), KeyboardInterrupt()])
def test_what_fails_while_the_next_is_drawn_ends_that_drawing_and_loses_nothing(batches, undisturbed, tmp_path, error):
    """An error of memory isn't taken for one of the drawing that it ends, nor is any other."""
    drawing, failing = threading.Event(), threading.Event()

    def draw(seed, step):
        if seed == 2 and step:
            drawing.set()
            assert failing.wait(PATIENCE)
            time.sleep(0.1)  # in one of these it is noticed

    def judge(number):
        if number == 1:
            assert drawing.wait(PATIENCE)
            failing.set()
            raise error

    failed = batches(draw, judge)
    with pytest.raises(type(error)) as caught:
        run(failed, tmp_path / "run", count=3, picture=LONGER)
    assert caught.value is error
    assert error.__context__ is None
    assert 0 < sum(seed == 2 for seed, _ in failed.generator.seen) < LONGER.steps
    assert len(read_batch(tmp_path / "run").items) == 1
    assert followers() == []
    again = batches()
    run(again, tmp_path / "run", count=3, picture=LONGER)
    assert {seed for seed, _ in again.generator.seen} == {1, 2}
    assert left(tmp_path / "run") == undisturbed


def test_a_picture_that_is_being_judged_when_somebody_stops_the_batch_is_kept(batches, one_by_one, tmp_path):
    """Ctrl-C twice: the first ends the drawing, the second doesn't end what is being written."""
    pressed = []

    def judge(number):
        if number == 1:
            for _ in range(2):
                pthread_kill(threading.main_thread().ident, SIGINT)
                pressed.append(1)
                time.sleep(0.2)

    with pytest.raises(KeyboardInterrupt):
        run(batches(lambda seed, _: time.sleep(PATIENCE if seed == 2 else 0), judge), tmp_path / "run")
    assert pressed == [1, 1]
    assert [item.seed for item in read_batch(tmp_path / "run").items] == [0, 1]
    assert followers() == []
    run(batches(), tmp_path / "run")
    assert left(tmp_path / "run") == one_by_one


def test_no_picture_is_drawn_that_one_after_the_other_would_not_have_been(batches, generator, tmp_path):
    """Until so many are accepted, whichever have failed: also where the last of them is yet to be judged."""
    kept = {seed: generator.generate(replace(PICTURE, seed=seed)) for seed in range(8)}
    rng, options = np.random.default_rng(0), {"enable_consistency_check": False, "max_images": 8}
    for number in range(24):
        until = int(rng.integers(1, 5))
        failing = set(rng.choice(8, int(rng.integers(0, 5)), replace=False).tolist())
        fine = [seed for seed in range(8) if seed not in failing]
        last = fine[until - 1] if len(fine) >= until else 7
        own = batches(failing=failing, kept=kept)
        run(own, tmp_path / str(number), consistency_threshold=None, until_accepted=until, **options)
        assert [seed for seed, _ in own.generator.seen] == list(range(last + 1))
        assert [item.seed for item in read_batch(tmp_path / str(number)).items] == list(range(last + 1))


def test_what_follows_the_drawing_sets_no_warning_filters(batches, tmp_path, monkeypatch):
    """They are every thread's: set in one and restored in another, they would be wrong for good."""
    threads = set()

    class Recorded(warnings.catch_warnings):
        def __enter__(self):
            threads.add(threading.current_thread() is threading.main_thread())
            return super().__enter__()

    monkeypatch.setattr(warnings, "catch_warnings", Recorded)
    with warnings.catch_warnings():
        assert threads == {True}
    run(batches(), tmp_path / "run")
    assert threads == {True}
