"""Measure what checking faces and storing pictures adds to the time that drawing them takes, and write it as JSON.

    OMP_NUM_THREADS=1 .venv/bin/python tests/bench/measure_overlap.py reports/benchmarks/overlap-puppet-cpu.json

The same pictures of luca, by turns: drawn and thrown away; drawn by a batch, which judges and stores each one while the
next is drawn; and drawn, judged and stored one after the other. A whole batch counts, with its planning, its folder and
its last picture, which nothing follows. The machine should do nothing else. By what a batch takes longer than its own
drawing is told besides: others disturb that less, but by how much judging slows drawing down isn't in it.
"""

import math
import os
import sys
import tempfile
import time
from dataclasses import replace
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from statistics import median

import numpy as np
import torch

from imagelab import BatchImageGenerator, CharacterGenerator, CharacterReferenceManager, GenerationRequest
from imagelab.batch import batch_request, draw_job
from imagelab.batch.planning import plan_batch
from imagelab.calibration.intervals import bootstrap_interval
from imagelab.reporting import write_measurement
from imagelab.reporting.measurement import Measurement
from imagelab.runs import RunFolder
from imagelab.versions import drawing_versions

PICTURES, ROUNDS = 8, 6
PRESETS = ("draft", "standard")
PICTURE = GenerationRequest(character="luca", scene_description="running on the beach, excited expression", seed=0)
DRAWN, BATCH, IN_TURN = "drawn only", "batch", "one after the other"


def draw_only(batches, request, _):
    """Draw the pictures of a batch."""
    for seed in range(PICTURES):
        batches.generator.generate(replace(request.picture, seed=seed))


def draw_batch(batches, request, folder):
    """Draw a batch as anybody does."""
    batches.run(request, folder, progress=False)


def draw_in_turn(batches, request, folder):
    """Draw, judge and store the same pictures without a second thread."""
    plan, judges = plan_batch(batches.generator, batches.references, request)
    with RunFolder(folder, plan) as run:
        for job in run.pending_jobs():
            clock = time.perf_counter()
            item, generation = draw_job(batches.generator.generate, request, job, judges["luca"])
            run.commit(job, item, generation, time.perf_counter() - clock)


WAYS = {DRAWN: draw_only, BATCH: draw_batch, IN_TURN: draw_in_turn}


def main(path):
    """Draw each way in turn, forwards and backwards, and write."""
    with (
        Timed("puppet", "cpu") as generator,
        CharacterReferenceManager(store="nowhere", profile="puppet", device="cpu") as references,
        tempfile.TemporaryDirectory() as runs,
    ):
        batches = BatchImageGenerator(generator, references)
        folders = (Path(runs) / str(number) for number in count())
        take_turns(batches, PRESETS[0], folders, rounds=1)  # what is loaded and imported once
        rows = [row for preset in PRESETS for row in measure(batches, preset, folders)]
    machine = {"device": "cpu", "cores": str(os.cpu_count()), "threads": str(torch.get_num_threads())}
    machine |= {"load of the last minutes": f"{os.getloadavg()[1]:.1f}", **drawing_versions()}
    machine["measured"] = datetime.now(UTC).date().isoformat()
    what = f"Batches of {PICTURES} pictures of luca, 128 px, with face check, by turns with the same drawn only:"
    what += f" percent of the latter's seconds, 95 % intervals over {ROUNDS} rounds"
    command = f"OMP_NUM_THREADS=1 .venv/bin/python tests/bench/measure_overlap.py {path}"
    write_measurement(Measurement(what=what, command=command, machine=machine, rows=tuple(rows)), Path(path))


class Timed(CharacterGenerator):
    """Knows how long it has been drawing."""

    seconds = 0.0

    def generate(self, request, on_step=None):
        """Draw, and count the time."""
        clock = time.perf_counter()
        generation = super().generate(request, on_step)
        self.seconds += time.perf_counter() - clock
        return generation


def measure(batches, preset, folders):
    """Return a row for each way that does more than draw."""
    whole, drawing = take_turns(batches, preset, folders, ROUNDS)
    shared = {"preset": preset, "seconds a picture, drawn only": round(median(whole[DRAWN]) / PICTURES, 3)}
    return [shared | row(name, whole, drawing[name]) for name in (BATCH, IN_TURN)]


def take_turns(batches, preset, folders, rounds):
    """Return the seconds of each way in each round, and those of them that were spent drawing."""
    request = batch_request(replace(PICTURE, quality_preset=preset), PICTURES)
    whole, drawing = ({way: [] for way in WAYS} for _ in range(2))
    for number in range(rounds):
        for name in list(WAYS)[:: 1 if number % 2 else -1]:
            clock, before = time.perf_counter(), batches.generator.seconds
            WAYS[name](batches, request, next(folders))
            whole[name].append(time.perf_counter() - clock)
            drawing[name].append(batches.generator.seconds - before)
    return whole, drawing


def row(name, whole, drawing):
    """Return what a way adds to drawing only, and to what it draws itself."""
    to_others, to_itself = (added(whole[name], base) for base in (whole[DRAWN], drawing))
    return {
        "way": name,
        "added percent": round(to_others.value, 2),
        "from": round(to_others.low, 2),
        "to": round(to_others.high, 2),
        "added percent of its own drawing": round(to_itself.value, 2),
        "own from": round(to_itself.low, 2),
        "own to": round(to_itself.high, 2),
    }


def added(seconds, base):
    """Return by how many percent seconds are more than those of the same round."""
    logs = np.log(np.divide(seconds, base))
    n = len(logs)
    found = bootstrap_interval(np.mean, logs, freedom=n - 1, stretch=math.sqrt(n / (n - 1)))
    return replace(found, **{name: 100 * math.expm1(getattr(found, name)) for name in ("value", "low", "high")})


if __name__ == "__main__":
    main(sys.argv[1])
