"""What checking faces and storing pictures adds to a batch's drawing, since they follow it in a thread of their own.

Each picture of the batch is drawn once more right after, with nothing beside it, so that both of a pair meet the same
machine; that one is thrown away, or judged and stored in its turn. Of the batch the whole time counts that a picture
takes, from the end of the one before it to its own end; what a batch takes once, however many pictures it has, is said
apart.
"""

import time

import numpy as np
from turns import say

from imagelab import BatchImageGenerator, CharacterReferenceManager, GenerationRequest
from imagelab.batch import batch_request
from imagelab.batch.drawing import Attempt, judge_attempt
from imagelab.batch.planning import plan_batch
from imagelab.benchmark import paired_difference, paired_ratio
from imagelab.runs import RunFolder
from imagelab.runs.lines import LEDGER_FILE

PICTURES, WARM_UP, MOST_ADDED = 200, 5, 0.03
PICTURE = GenerationRequest(
    character="luca", scene_description="running on the beach", quality_preset="standard", seed=0
)
DRAWN, BATCH, IN_TURN = "drawn and thrown away", "batch", "drawn, judged and stored one after the other"


def test_judging_and_storing_add_as_little_to_drawing_as_promised(generator, tmp_path, keep):
    request = batch_request(PICTURE, WARM_UP + PICTURES)
    references = CharacterReferenceManager(store=tmp_path / "store", profile="puppet", device="cpu")
    with references:
        generator.load()
        plan, judges = plan_batch(generator, references, request)  # reads the face pack, which then is there, too
        with RunFolder(tmp_path / "in turn", plan) as run:
            jobs = iter(run.pending_jobs())

            def judge_and_store(made):
                drawn = judge_attempt(request, judges, Attempt(job=next(jobs), made=made, seconds=0.0))
                run.commit(drawn.job, drawn.item, drawn.generation, drawn.seconds)

            pairs = Pairs(generator, tmp_path / "batch" / LEDGER_FILE, judge_and_store)
            clock = time.perf_counter()
            result = BatchImageGenerator(pairs, references).run(request, tmp_path / "batch", progress=False)
            once = time.perf_counter() - clock - pairs.in_between
    took = {name: np.array(seconds[WARM_UP:]) for name, seconds in pairs.took.items()}
    times = {name: paired_ratio(took[name], took[DRAWN]) for name in took}
    more = {name: paired_difference(1e3 * took[name], 1e3 * took[DRAWN]) for name in took}
    keep(
        "overlap-puppet-cpu.json",
        f"A batch of {PICTURES} pictures of luca, 128 px, standard preset, with face check, beside each of them drawn "
        "and thrown away; by turns, seconds of the clock",
        facts={
            "promised_times_drawn_and_thrown_away_at_most": 1 + MOST_ADDED,
            "seconds_a_batch_takes_once_models_loaded": round(once, 3),
        },
        rows=[
            {
                "way": name,
                "seconds_a_picture": round(float(np.median(took[name])), 3),
                "times_drawn_and_thrown_away": "" if name == DRAWN else str(times[name]),
                "ms_more_a_picture": "" if name == DRAWN else str(more[name]),
            }
            for name in took
        ],
    )
    assert result.total_generated == WARM_UP + PICTURES
    assert times[BATCH].high <= 1 + MOST_ADDED


class Pairs:
    """A generator that draws each picture of a batch once more, alone, before the batch goes on.

    `took` has the seconds of each picture by each way, `in_between` those from the first picture to the last.
    """

    def __init__(self, generator, ledger, judge_and_store):
        self.generator, self.ledger, self.judge_and_store = generator, ledger, judge_and_store
        self.took = {DRAWN: [], BATCH: [], IN_TURN: []}
        self.begun = self.left = None

    def __getattr__(self, name):
        """Be the generator in everything else."""
        return getattr(self.generator, name)

    @property
    def in_between(self):
        """Return the seconds from the first picture's begin to the last one's end."""
        return self.left - self.begun

    def generate(self, request, on_step=None):
        """Draw for the batch, and once more for nobody."""
        if self.begun is None:
            self.begun = self.left = time.perf_counter()
        before = len(self.took[BATCH])
        made = self.generator.generate(request, on_step)
        while self.ledger.read_bytes().count(b"\n") < before:  # as the batch would wait for the picture before
            time.sleep(0.0002)
        clocks = [self.left, time.perf_counter()]
        alone = self.generator.generate(request)
        clocks.append(time.perf_counter())
        self.judge_and_store(alone)
        clocks.append(time.perf_counter())
        batch, drawn, stored = np.diff(clocks)
        for name, seconds in ((BATCH, batch), (DRAWN, drawn), (IN_TURN, drawn + stored)):
            self.took[name].append(seconds)
        if before % 20 == 0:
            say(f"picture {before}: batch {batch:.3g} s, alone {drawn:.3g} s, and {stored:.3g} s to judge and store")
        self.left = time.perf_counter()
        return made
