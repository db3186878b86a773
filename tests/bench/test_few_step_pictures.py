"""What few steps cost and save on the puppets: with the LoRA that guided steps were distilled into, and without it."""

import numpy as np
from drawn_quality import draw_by_turns

from imagelab.benchmark import paired_difference, paired_ratio

FEW = {"quality_preset": "lcm_4"}
PLAIN = {"quality_preset": "draft", "guidance_scale": 1.0, "scheduler": "lcm"}  # no LoRA for few steps
WAYS = {
    "standard": {},
    "lcm_4": FEW,
    "lcm_4 in 2 steps": FEW | {"steps": 2},
    "lcm_4 in 8 steps": FEW | {"steps": 8},
    "4 steps of its scheduler, no LoRA, no guidance": PLAIN | {"steps": 4},
    "4 steps of DPM++ 2M Karras, guided": {"quality_preset": "draft", "steps": 4},
    "2 steps of DPM++ 2M Karras, guided": {"quality_preset": "draft", "steps": 2},
}
PICTURES = 24
MOST, LESS = 0.5, 0.05  # of the time of standard at most, and so much less of the attributes at most


def test_four_distilled_steps_show_what_ten_guided_ones_show_in_half_the_time(generator, tmp_path, keep):
    seen = draw_by_turns(generator, tmp_path, WAYS, PICTURES)
    base, few = seen["standard"], seen["lcm_4"]
    shown = paired_difference(np.array(few.shown), np.array(base.shown))
    keep(
        "few-steps-puppet.json",
        f"Few steps: {PICTURES} held-out scenes and {PICTURES} pictures of luca, 128 px; by turns, seconds of the CPU; "
        "standard is 10 guided steps of Euler a",
        facts={"attributes_shown_more_than_by_standard": str(shown), "promised_of_the_seconds": MOST},
        rows=[{"way": name} | one.row(base) for name, one in seen.items()],
    )
    assert paired_ratio(few.seconds, base.seconds).high <= MOST
    assert shown.low >= -LESS
