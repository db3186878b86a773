"""Measure stock diffusers where there is little memory: as a process of its own, as `little_memory` does.

Prints what became of a batch that is too large for it, and of the cases after that.
"""

import sys

from little_memory import more_memory

from imagelab import load_configs
from imagelab.benchmark import Case, run_benchmark

CONFIGS = load_configs()
MEBIBYTES = 600
SMALL = [Case(quality_preset="draft"), Case(quality_preset="draft", engine="diffusers")]
LARGE = Case(quality_preset="draft", engine="diffusers", batch_size=64)


def measured(cases):
    return run_benchmark(cases, profile="puppet", device="cpu", runs=1, configs=CONFIGS, progress=False)


if __name__ == "__main__":
    measured(SMALL)  # what is loaded once is in memory by now
    with more_memory(MEBIBYTES):
        found = measured([LARGE, *SMALL])
    for one in found.out_of_memory:
        sys.stdout.write(f"{one.of}: {one.reason}\n")
    for one in found.cases:
        sys.stdout.write(f"{one.case.name}: {one.samples} samples\n")
