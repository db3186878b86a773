"""Measure what checking faces and storing pictures adds to the time that drawing them takes, and write it as JSON.

    OMP_NUM_THREADS=1 .venv/bin/python tests/bench/measure_overlap.py reports/benchmarks/overlap-puppet-cpu.json

The same pictures of luca, by turns: drawn and thrown away; drawn by a batch, which judges and stores each one while the
next is drawn; and drawn, judged and stored one after the other. A whole batch counts, with its planning, its folder and
its last picture, which nothing follows. Wall time is that of whoever waits, so the machine should do nothing else; the
CPU seconds of the thread that draws tell the same story on a busy one.
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

PICTURES, ROUNDS = 8, 8
PICTURE = GenerationRequest(character="luca", scene_description="running on the beach, excited expression", seed=0)
REQUEST = batch_request(PICTURE, PICTURES)
DRAWN, BATCH, IN_TURN = "drawn only", "batch", "one after the other"


def draw_only(batches, _):
    """Draw the pictures of a batch."""
    for seed in range(PICTURES):
        batches.generator.generate(replace(PICTURE, seed=seed))


def draw_batch(batches, folder):
    """Draw a batch as anybody does."""
    batches.run(REQUEST, folder, progress=False)


def draw_in_turn(batches, folder):
    """Draw, judge and store the same pictures without a second thread."""
    plan, judges = plan_batch(batches.generator, batches.references, REQUEST)
    with RunFolder(folder, plan) as run:
        for job in run.pending_jobs():
            clock = time.perf_counter()
            item, generation = draw_job(batches.generator.generate, REQUEST, job, judges["luca"])
            run.commit(job, item, generation, time.perf_counter() - clock)


WAYS = {DRAWN: draw_only, BATCH: draw_batch, IN_TURN: draw_in_turn}


def main(path):
    """Draw each way in turn, forwards and backwards, and write."""
    wall, cpu = ({way: [] for way in WAYS} for _ in range(2))
    with (
        CharacterGenerator("puppet", "cpu") as generator,
        CharacterReferenceManager(store="nowhere", profile="puppet", device="cpu") as references,
        tempfile.TemporaryDirectory() as runs,
    ):
        batches, folders = BatchImageGenerator(generator, references), count()
        for way in WAYS.values():  # what is loaded and imported once
            way(batches, Path(runs) / str(next(folders)))
        for number in range(ROUNDS):
            for name in list(WAYS)[:: 1 if number % 2 else -1]:
                clock = time.perf_counter(), time.thread_time()
                WAYS[name](batches, Path(runs) / str(next(folders)))
                wall[name].append(time.perf_counter() - clock[0])
                cpu[name].append(time.thread_time() - clock[1])
    machine = {"device": "cpu", "cores": str(os.cpu_count()), "threads": str(torch.get_num_threads())}
    machine |= {"load of the last minutes": f"{os.getloadavg()[1]:.1f}", **drawing_versions()}
    machine["measured"] = datetime.now(UTC).date().isoformat()
    what = (
        f"{ROUNDS} batches of {PICTURES} pictures of luca, 128 px, standard preset, with face check, by turns with the"
    )
    what += " the same pictures drawn only; percent of the latter's seconds, 95 % intervals"
    command = f"OMP_NUM_THREADS=1 .venv/bin/python tests/bench/measure_overlap.py {path}"
    facts = {"seconds a picture, drawn only": round(median(wall[DRAWN]) / PICTURES, 3)}
    rows = tuple(row(name, wall, cpu) for name in (BATCH, IN_TURN))
    write_measurement(Measurement(what=what, command=command, machine=machine, facts=facts, rows=rows), Path(path))


def row(name, wall, cpu):
    """Return what a way adds to drawing."""
    waited, worked = (added(seconds[name], seconds[DRAWN]) for seconds in (wall, cpu))
    return {
        "way": name,
        "added percent": round(waited.value, 2),
        "from": round(waited.low, 2),
        "to": round(waited.high, 2),
        "added percent of the drawing thread's cpu": round(worked.value, 2),
        "cpu from": round(worked.low, 2),
        "cpu to": round(worked.high, 2),
    }


def added(seconds, base):
    """Return by how many percent seconds are more than those of the same round."""
    logs = np.log(np.divide(seconds, base))
    n = len(logs)
    found = bootstrap_interval(np.mean, logs, freedom=n - 1, stretch=math.sqrt(n / (n - 1)))
    return replace(found, **{name: 100 * math.expm1(getattr(found, name)) for name in ("value", "low", "high")})


if __name__ == "__main__":
    main(sys.argv[1])
