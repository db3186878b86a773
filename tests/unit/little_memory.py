"""Draw where there is little memory: as a process of its own, whose heap holds nothing that other tests have freed.

Prints what eight pictures together, and then a larger one, come to with so many mebibytes more than the models take.
"""

import sys
import warnings
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from resource import RLIM_INFINITY, RLIMIT_AS, getpagesize, setrlimit

import numpy as np

from imagelab import CharacterGenerator, GenerationRequest
from imagelab.errors import DegradedWarning, OutOfMemoryError

REQUEST = GenerationRequest(character="luca", scene_description="on the beach", quality_preset="draft", steps=3, seed=7)
MANY = range(8)
SAID = "out of memory: not 8 pictures at once"


@contextmanager
def more_memory(mebibytes):
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    setrlimit(RLIMIT_AS, (pages * getpagesize() + mebibytes * 2**20, RLIM_INFINITY))
    try:
        yield
    finally:
        setrlimit(RLIMIT_AS, (RLIM_INFINITY, RLIM_INFINITY))


def drawn_within(generator, mebibytes, request):
    with more_memory(mebibytes):
        return generator.generate(request)


def outcome(draw):
    try:
        return draw()
    except OutOfMemoryError as error:
        return error


def drawn_at_once(generator, mebibytes, alone):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always", DegradedWarning)
        with more_memory(mebibytes):
            drawn = generator.generate_together(REQUEST, MANY)
    at_once = max(made.record.batch_size for made in drawn)
    assert [made.record.seed for made in drawn] == list(MANY)
    assert (at_once < len(MANY)) == any("not 8 pictures at once" in str(each.message) for each in seen)
    assert all((SAID in made.record.degraded) == (at_once < len(MANY)) for made in drawn)
    assert np.abs(np.asarray(drawn[REQUEST.seed].image, np.int16) - alone).max() <= 1
    return at_once


def main():
    warnings.simplefilter("ignore", DegradedWarning)
    with CharacterGenerator("puppet", "cpu") as generator:
        alone = np.asarray(generator.generate(REQUEST).image, np.int16)
        generator.generate_together(REQUEST, MANY[:2])  # what is made once is made
        large = replace(REQUEST, width=256, height=256)
        sys.stdout.write(f"{outcome(partial(drawn_at_once, generator, 64, alone))}\n")
        sys.stdout.write(f"{outcome(partial(drawn_within, generator, 2, large))}\n")


if __name__ == "__main__":
    main()
