"""SIGKILL a batch over and over, let it go on each time, and count what that has done to its pictures.

The process that is killed is a fork of this one, which has the models loaded: so a kill costs a fraction of a second.
"""

import os
import signal
import time
from collections import Counter
from itertools import count
from pathlib import Path

import numpy as np
from forks import fork, wait_for
from PIL import Image

from imagelab.batch import BatchImageGenerator
from imagelab.character import CharacterGenerator
from imagelab.models import file_sha256
from imagelab.runs import read_batch, read_ledger

BATCH = {
    "character": "luca",
    "scene_description": "standing in the town, happy expression",
    "num_images": 4,
    "quality_preset": "draft",
    "width": 64,
    "height": 64,
    "steps": 1,
    "consistency_threshold": -1.0,  # a picture of one step shows hardly a face: whatever is found is accepted
    "progress": False,
}


class Replaying(CharacterGenerator):
    """Draws each picture once and then gives it again: kills then hit what comes after drawing."""

    def __init__(self, real):
        super().__init__(profile=real.profile.name, device=real.device, configs=real.configs)
        self.real, self.drawn = real, {}

    def load(self):
        return self.real.load()

    def generate(self, request, on_step=None):
        if request.seed not in self.drawn:
            self.drawn[request.seed] = self.real.generate(request, on_step)
        return self.drawn[request.seed]


def campaign(batches: BatchImageGenerator, folder: Path, kills: int, seed: int) -> Counter:
    """Kill a batch so often, in as many runs as that takes; return what was counted, zeros included."""
    expected = pictures(batches.generate_batch(**BATCH, output_dir=folder / "whole"))  # loads what there is to load
    clock = time.perf_counter()
    killed_after(60, lambda: batches.generate_batch(**BATCH, output_dir=folder / "timed"))
    longest = 0.6 * (time.perf_counter() - clock)  # so that a run is killed more than once
    rng = np.random.default_rng(seed)
    counted = Counter(kills=0, runs=0, pictures=0, lost=0, duplicated=0, corrupt=0, changed=0)
    for number in count():
        if counted["kills"] >= kills:
            return counted
        counted += one_run(batches, folder / str(number), expected, rng, longest)
        counted.update(runs=1)
    raise AssertionError("unreachable")


def one_run(batches, folder, expected, rng, longest):
    counted, told = Counter(), set()
    while True:
        killed = killed_after(
            float(rng.uniform(0, longest)), lambda: batches.generate_batch(**BATCH, output_dir=folder)
        )
        counted.update(kills=killed)
        if not (folder / "plan.json").exists():
            continue
        result = read_batch(folder)
        there = {item.index for item in result.items}
        jobs = [record["job"] for record in read_ledger(folder / "ledger.jsonl")] if there else []
        counted.update(lost=len(told - there), duplicated=len(jobs) - len(set(jobs)), corrupt=corrupt(folder, result))
        told = there
        if not killed:
            drawn = pictures(result)
            counted.update(pictures=len(expected), changed=sum(drawn.get(name) != expected[name] for name in expected))
            counted.update(lost=len(set(expected) - set(drawn)), duplicated=len(set(drawn) - set(expected)))
            return counted


def killed_after(seconds, work):
    """Do something in a fork, and kill it after so long; return whether it had to be killed."""
    child = fork(work)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        if os.waitpid(child, os.WNOHANG)[0]:
            break
        time.sleep(0.002)
    else:
        os.kill(child, signal.SIGKILL)
        code = wait_for(child)
        assert code in (0, -signal.SIGKILL)  # it may have ended a moment before
        return code != 0
    return False


def pictures(result):
    """Return {name: bytes} of all pictures in a batch's folder, told of or not."""
    return {
        path.relative_to(result.output_dir).as_posix(): path.read_bytes() for path in result.output_dir.glob("*/*.png")
    }


def corrupt(folder, result):
    """Count the files under a final name that aren't whole pictures, and those that aren't what the ledger says."""
    bad = 0
    for path in folder.glob("*/[0-9]*.png"):
        try:
            with Image.open(path) as image:
                image.load()
        except OSError:
            bad += 1
    told = [(folder / item.path, item.sha256) for item in result.items if item.path]
    return bad + sum(file_sha256(path) != sha256 for path, sha256 in told)
