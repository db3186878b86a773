"""What more steps, and other schedulers, buy on the puppets: the quality presets are chosen by it."""

import numpy as np
from drawn_quality import draw_by_turns

from imagelab.benchmark import paired_difference, paired_ratio

# standard first, as it is drawn; then the other presets' and what the presets aren't
WAYS = (("euler_a", 10), ("dpmpp_2m_karras", 6), ("dpmpp_2m_karras", 10), ("euler", 10), ("euler", 25), ("euler_a", 30))
PICTURES = 24
USUAL = ("euler", 25)
LESS, MOST = 0.05, 0.6  # standard shows so much less than 25 steps of Euler's at most, in so much of the time at most


def test_the_standard_preset_shows_what_two_and_a_half_times_the_steps_show(generator, tmp_path, keep):
    standard = generator.profile.preset("standard")
    assert (standard.scheduler, standard.steps) == WAYS[0]
    ways = {way: {"scheduler": way[0], "steps": way[1]} for way in WAYS}
    seen = draw_by_turns(generator, tmp_path, ways, PICTURES)
    base, usual = seen[WAYS[0]], seen[USUAL]
    shown = paired_difference(np.array(base.shown), np.array(usual.shown))
    keep(
        "presets-puppet.json",
        f"Schedulers and steps: {PICTURES} held-out scenes and {PICTURES} pictures of luca, 128 px, guidance 2; by "
        "turns, seconds of the CPU",
        facts={"attributes_shown_more_than_by_25_steps_of_euler": str(shown)},
        rows=[{"scheduler": name, "steps": steps} | seen[name, steps].row(base) for name, steps in WAYS],
    )
    assert shown.low >= -LESS
    assert paired_ratio(base.seconds, usual.seconds).high <= MOST
