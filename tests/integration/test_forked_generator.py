"""Matrix C6: a fork has none of its parent's threads, and drawing on two of them would wait for them for ever."""

import os
import subprocess
import sys

FORKING = """
import os, signal
from imagelab import CharacterConsistencyChecker, CharacterGenerator, GenerationRequest
from imagelab.errors import GenerationError
request = GenerationRequest(character="luca", scene_description="on the beach", quality_preset="draft", steps=1, seed=1)
generator, checker = CharacterGenerator("puppet", "cpu"), CharacterConsistencyChecker("cpu", "puppet")
image = generator.generate(request).image
faces = len(checker.faces(image))
child = os.fork()
if not child:
    signal.alarm(60)  # ends what hangs
    try:
        print("found", len(checker.faces(image)) - faces, "more faces", flush=True)
        again = generator.generate(request).image
        print("the same" if again.tobytes() == image.tobytes() else "another", flush=True)
    except GenerationError as error:
        print(error, flush=True)
    os._exit(0)
print("child:", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def said(threads):
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-W", "ignore", "-c", FORKING]
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout


def test_a_fork_of_a_generator_with_threads_is_refused_and_compares_faces_all_the_same():
    faces, refused, child = said(2).splitlines()
    assert faces == "found 0 more faces"
    assert "loaded in another process, of which this one is a fork. Load them in it" in refused
    assert child == "child: 0"


def test_a_fork_of_a_generator_on_one_thread_draws_the_same_picture():
    assert said(1).splitlines() == ["found 0 more faces", "the same", "child: 0"]
