"""A1: batches that are killed at random times, again and again, end as if they had not been."""

import os
import time
from collections import Counter

import pytest
from kill_campaign import Replaying, campaign

from imagelab.batch import BatchImageGenerator
from imagelab.config import project_root
from imagelab.references import CharacterReferenceManager
from imagelab.reporting import Measurement, write_measurement

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")  # it forks
HARM = ("lost", "duplicated", "corrupt", "changed")


def kill(generator, folder, while_drawing, while_storing):
    """Kill so often a batch that draws each picture, and so often one that has drawn them before."""
    store = folder / "store"
    with CharacterReferenceManager(store=store, profile="puppet", configs=generator.configs, device="cpu") as manager:
        drawing = campaign(BatchImageGenerator(generator, manager), folder / "drawing", while_drawing, seed=0)
        replaying = BatchImageGenerator(Replaying(generator), manager)
        storing = campaign(replaying, folder / "storing", while_storing, seed=1)
    return Counter({name: drawing[name] + storing[name] for name in drawing}) | Counter(while_drawing=drawing["kills"])


@pytest.mark.slow
def test_two_hundred_kills_lose_double_break_and_change_nothing(generator, tmp_path, record_property):
    """A1: 15 kills while pictures are drawn, 185 while drawn ones are judged and stored, in batches with a LoRA."""
    counted = kill(generator, tmp_path, 15, 185)
    assert counted["kills"] >= 200
    assert {name: counted[name] for name in HARM} == dict.fromkeys(HARM, 0)
    record_property(
        "counted",
        f"{counted['kills']} kills in {counted['runs']} runs: 0 of {counted['pictures']} pictures "
        "lost, doubled, corrupt or changed",
    )


@pytest.mark.kills
def test_a_thousand_kills_lose_double_break_and_change_nothing(generator, tmp_path):
    """A1: writes reports/kills.json."""
    clock = time.perf_counter()
    counted = kill(generator, tmp_path, 75, 925)
    report = Measurement(
        what="SIGKILL at random times of batches of 4 pictures (64 px, 1 step, LoRA), which then go on",
        command="OMP_NUM_THREADS=1 .venv/bin/pytest -m kills tests/integration/test_batch_kills.py",
        machine={"device": "cpu", "cores": str(os.cpu_count())},
        facts={name: counted[name] for name in ("kills", "while_drawing", "runs", "pictures", *HARM)}
        | {
            "upper_bound_95_percent": round(3 / counted["kills"], 4),  # of the rate of each harm that was never seen
            "seconds": round(time.perf_counter() - clock),
        },
    )
    write_measurement(report, project_root() / "reports" / "kills.json")
    assert {name: counted[name] for name in HARM} == dict.fromkeys(HARM, 0)
