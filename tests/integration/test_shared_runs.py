"""A run that several processes draw, one of which dies, is the run that one process draws, bit for bit."""

import os
import signal
from dataclasses import dataclass
from pathlib import Path

import pytest

from imagelab.batch import BatchImageGenerator, BatchSetup, batch_request
from imagelab.config.sweeps import SweepConfig
from imagelab.errors import GenerationError, InvalidValueError
from imagelab.references import CharacterReferenceManager
from imagelab.results import GenerationRequest
from imagelab.runs import read_ledger
from imagelab.sweeps import sweep_request

SWEEP = SweepConfig.model_validate(
    {
        "base": {"character": "luca", "scene": "on the beach", "steps": 2, "quality_preset": "draft"},
        "axes": {"loras": {"portorosso_town": [0.0, 1.0]}, "seeds": [3, 1, 2]},
        "threshold": 0.5,
    }
)


@dataclass(frozen=True)
class Mortal:
    """A setup whose first worker to come to the marked seed is killed, as when memory runs out."""

    setup: BatchSetup
    marker: Path
    seed: int

    def __call__(self):
        batches = self.setup()
        batches.generator.generate = self.deadly(batches.generator.generate)
        return batches

    def deadly(self, generate):
        def draw(request, on_step=None):
            if request.seed == self.seed and not self.marker.exists():
                self.marker.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return generate(request, on_step)

        return draw


class Shared(BatchImageGenerator):
    """Draws with mortal workers."""

    marker = None

    def setup(self, device):
        return Mortal(super().setup(device), self.marker, 1)


@pytest.fixture(scope="module")
def references(generator, tmp_path_factory):
    store = tmp_path_factory.mktemp("store")
    with CharacterReferenceManager(store=store, profile="puppet", configs=generator.configs, device="cpu") as manager:
        yield manager


@pytest.fixture(scope="module")
def alone(generator, references, tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone") / "run"
    BatchImageGenerator(generator, references).run(sweep_request(SWEEP), folder, progress=False)
    return folder


def left(folder):
    """Return what a run left but for times: its pictures and its ledger's rows, in order."""
    rows = [{**row, "seconds": 0, "mtime_ns": 0} for row in read_ledger(folder / "ledger.jsonl")]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.glob("*/*.png")}, rows


@pytest.mark.slow
@pytest.mark.parametrize("ray", [None, "local"], ids=["processes", "ray"])
def test_two_workers_one_of_which_is_killed_leave_what_one_process_leaves(
    generator, references, alone, tmp_path, monkeypatch, ray
):
    if ray is not None:
        pytest.importorskip("ray", reason="the extra ray isn't installed")
        monkeypatch.setenv("RAY_worker_niceness", "0")  # by default 15, which a busy machine hardly ever serves
    shared = Shared(generator, references)
    shared.marker = tmp_path / "killed"
    try:
        shared.run(sweep_request(SWEEP), tmp_path / "run", progress=False, workers=2, ray=ray)
    except GenerationError as error:
        if "Ray doesn't start" not in str(error):
            raise
        pytest.skip(str(error))  # of the machine, not of ours
    assert shared.marker.exists()
    assert left(tmp_path / "run") == left(alone)
    assert len(left(alone)[0]) == 6


@pytest.mark.parametrize("workers", [0, 1.5, True])
def test_a_number_of_workers_that_is_none_is_refused(generator, references, tmp_path, workers):
    request = batch_request(GenerationRequest(character="luca", seed=0), 2)
    with pytest.raises(InvalidValueError, match="workers must be"):
        BatchImageGenerator(generator, references).run(request, tmp_path / "run", workers=workers)
    assert not (tmp_path / "run").exists()
