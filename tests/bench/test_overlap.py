"""What checking faces and storing pictures adds to a batch's drawing, since they follow it in a thread of their own.

Each picture of the batch is drawn once more right after, with nothing beside it, so that both of a pair meet the same
machine; that one is thrown away, or judged and stored in its turn. Of the batch the whole time counts that a picture
takes, from the end of the one before it to its own end; what a batch takes once, however many pictures it has, is said
apart.

What follows a picture is the same for any number of steps, so it is measured beside pictures of few, which take longer
than that, and of which there can be many: milliseconds, and their share of a standard picture. A batch of standard
pictures stands beside it.
"""

import time
from dataclasses import replace

import numpy as np
from turns import say

from imagelab import BatchImageGenerator, CharacterReferenceManager, GenerationRequest
from imagelab.batch import batch_request
from imagelab.batch.drawing import Attempt, judge_attempt
from imagelab.batch.planning import plan_batch
from imagelab.benchmark import paired_difference, paired_ratio
from imagelab.runs import RunFolder
from imagelab.runs.lines import LEDGER_FILE

PICTURES = {"standard": 60, "few": 400}
FEW_STEPS, WARM_UP, MOST_ADDED = 3, 5, 0.03
LEAST_COMPARED = 0.9  # of the pictures: one without a face takes less to judge
PICTURE = GenerationRequest(
    character="luca", scene_description="running on the beach", quality_preset="standard", seed=0
)
DRAWN, BATCH, IN_TURN = "drawn and thrown away", "batch", "drawn, judged and stored one after the other"


def test_judging_and_storing_add_as_little_to_drawing_as_promised(generator, tmp_path, keep):
    with CharacterReferenceManager(store=tmp_path / "store", profile="puppet", device="cpu") as references:
        standard, once = measure(generator, references, tmp_path / "standard", PICTURE, PICTURES["standard"])
        few, _ = measure(generator, references, tmp_path / "few", replace(PICTURE, steps=FEW_STEPS), PICTURES["few"])
    seconds = float(np.median(standard[DRAWN]))
    more = paired_difference(few[BATCH], few[DRAWN])
    keep(
        "overlap-puppet-cpu.json",
        "Batches of luca, 128 px, with face check, beside each of their pictures drawn and thrown away, by turns: "
        f"{PICTURES['standard']} pictures of the standard preset, {PICTURES['few']} of {FEW_STEPS} steps; by the clock",
        facts={
            "promised_of_a_standard_picture_at_most": MOST_ADDED,
            "of_a_standard_picture_at_most": round(more.high / seconds, 4),
            "of_a_standard_picture": round(more.value / seconds, 4),
            "seconds_a_batch_takes_once_models_loaded": round(once, 3),
        },
        rows=[
            {
                "pictures": what,
                "way": name,
                "seconds_a_picture": round(float(np.median(took[name])), 3),
                "ms_more_a_picture": "" if name == DRAWN else str(paired_difference(*ms(took, name))),
                "times_drawn_and_thrown_away": "" if name == DRAWN else str(paired_ratio(*ms(took, name))),
            }
            for what, took in (("standard", standard), (f"{FEW_STEPS} steps", few))
            for name in took
        ],
    )
    assert more.high <= MOST_ADDED * seconds


def ms(took, name):
    """Return the milliseconds of pictures by a way, and drawn and thrown away."""
    return 1e3 * took[name], 1e3 * took[DRAWN]


def measure(generator, references, folder, picture, pictures):
    """Draw a batch; return the seconds of each picture by each way, {way: array}, and those of the batch alone."""
    generator.load()
    request = batch_request(picture, WARM_UP + pictures)
    plan, judges = plan_batch(generator, references, request)  # reads the face pack, which then is there, too
    with RunFolder(folder / "in turn", plan) as run:
        jobs = iter(run.pending_jobs())

        def judge_and_store(made):
            drawn = judge_attempt(request, judges, Attempt(job=next(jobs), made=made, seconds=0.0))
            run.commit(drawn.job, drawn.item, drawn.generation, drawn.seconds)

        pairs = Pairs(generator, folder / "batch" / LEDGER_FILE, judge_and_store)
        clock = time.perf_counter()
        result = BatchImageGenerator(pairs, references).run(request, folder / "batch", progress=False)
        once = time.perf_counter() - clock - pairs.in_between
    compared = sum(item.similarity_score is not None for item in result.items)
    assert compared >= LEAST_COMPARED * len(result.items)
    return {name: np.array(seconds[WARM_UP:]) for name, seconds in pairs.took.items()}, once


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
        if before % 50 == 0:
            say(f"picture {before}: batch {batch:.3g} s, alone {drawn:.3g} s, and {stored:.3g} s to judge and store")
        self.left = time.perf_counter()
        return made
