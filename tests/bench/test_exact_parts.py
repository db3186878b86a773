"""The parts of exact mode on the puppets, each alone beside models as diffusers loads them."""

from imagelab.exact_mode import measure_exact_mode

ROUNDS = 30
MOST_ALWAYS, MOST_COMPILED = 1.02, 0.9  # of the eager seconds, by what is always used and by what is compiled
FLOOR = "largest_difference_of_latents_between_float16_and_float32"


def test_parts_of_exact_mode_move_the_latents_less_than_half_precision_and_cost_nothing(keep):
    found = measure_exact_mode("puppet", device="cpu", rounds=ROUNDS, progress=False)
    keep("exact-mode-puppet-cpu.json", found.what, facts=found.facts, rows=found.rows, machine=found.machine)
    rows = {row["part"]: row for row in found.rows[1:]}
    moved = {part: row["largest difference of latents"] for part, row in rows.items()}
    always = [part for part, row in rows.items() if row["imagelab uses it"] == "always"]
    assert [moved[part] for part in always] == [0] * 3
    assert max(moved.values()) < found.facts[FLOOR] / 10
    assert upper_end(rows["all that is always used"]) <= MOST_ALWAYS
    assert upper_end(rows["compiled, and all that is always used"]) <= MOST_COMPILED


def upper_end(row):
    """Return the upper end of the interval of a row's seconds to the first."""
    return float(row["seconds to the first"].rstrip("]").split(", ")[1])
