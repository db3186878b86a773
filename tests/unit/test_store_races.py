"""Several processes at one store of references, some of which are killed: whole at every moment, and no update lost."""

import os
import signal
import time

import numpy as np
import pytest
from forks import fork, wait_for

from imagelab.reference_store import CharacterReferences, locked_store, read_references, write_references

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")  # it forks


def add_one(path, references):
    """Add a reference as the manager does, but for finding a face: under the lock, from what lies there now."""
    with locked_store(path):
        old = read_references(path)
        embeddings = np.concatenate([old.embeddings, references.embeddings[:1]])
        pictures = (*old.provenance.pictures, references.provenance.pictures[0])
        provenance = type(old.provenance).from_dict(
            old.provenance.to_dict() | {"pictures": [p.to_dict() for p in pictures]}
        )
        write_references(path, CharacterReferences.of(provenance, embeddings))


def test_updates_of_which_some_are_killed_leave_a_store_with_all_of_the_others(manager, folder, record_property):
    """Matrix C7: SIGKILL at a random time; the lock goes with its process, and what it wrote is there whole or not."""
    made = manager.create_character_embedding("luca", folder / "given")
    path, rng, killed, done = manager.store_path("luca"), np.random.default_rng(0), 0, 1
    clock = time.perf_counter()
    assert wait_for(fork(lambda: add_one(path, made))) == 0
    usual = time.perf_counter() - clock
    for _ in range(20):
        others = [fork(lambda: add_one(path, made)) for _ in range(2)]
        victim = fork(lambda: add_one(path, made))
        time.sleep(rng.uniform(0, usual))
        os.kill(victim, signal.SIGKILL)
        read_references(path)
        code = wait_for(victim)
        assert code in {0, -signal.SIGKILL}
        assert [wait_for(other) for other in others] == [0, 0]
        killed, done = killed + (code != 0), done + 2 + (code == 0)
        there = len(read_references(path).embeddings)
        assert 3 + done <= there <= 3 + done + killed, "a killed one may have written before it died"
    assert killed >= 5
    assert np.array_equal(read_references(path).embeddings[:3], made.embeddings)
    record_property("counted", f"0 of {done} updates of a store lost beside {killed} that were killed")
