"""The parts of exact mode on the puppets, each alone beside models as diffusers loads them."""

from imagelab.exact_mode import measure_exact_mode

ROUNDS = 10
FLOOR = "largest_difference_of_latents_between_float16_and_float32"


def test_no_part_moves_the_latents_further_than_half_precision_does(keep):
    found = measure_exact_mode("puppet", device="cpu", rounds=ROUNDS, progress=False)
    keep("exact-mode-puppet-cpu.json", found.what, facts=found.facts, rows=found.rows, machine=found.machine)
    moved = [row["largest difference of latents"] for row in found.rows[1:]]
    assert max(moved) < found.facts[FLOOR] / 10
