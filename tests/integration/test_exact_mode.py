"""The parts of exact mode, measured: what changes no bit, what changes the last ones, and what each should save."""

import json

import pytest
from typer.testing import CliRunner

from imagelab.cli import app
from imagelab.errors import InvalidValueError
from imagelab.exact_mode import EAGER, measure_exact_mode

UNTOUCHED = (
    "the same again",
    "prompts encoded once",
    "keys and values of prompts asked once",
    "all that is always used",
)
FLOOR = "largest_difference_of_latents_between_float16_and_float32"


@pytest.fixture(scope="module")
def found():
    return measure_exact_mode("puppet", device="cpu", rounds=2, compiled=False, progress=False)


def test_parts_that_are_always_used_change_no_bit_and_spare_arithmetic(found):
    rows = {row["part"]: row for row in found.rows}
    assert [rows[part]["largest difference of latents"] for part in UNTOUCHED] == [0] * len(UNTOUCHED)
    spared = [rows[part]["predicted"] for part in UNTOUCHED]
    assert spared[0] == 1
    assert spared[3] < spared[2] < spared[1] < 1


def test_parts_that_change_bits_stay_below_what_half_precision_changes(found):
    rows = {row["part"]: row for row in found.rows}
    moved = [rows[part]["largest difference of latents"] for part in ("channels_last", "attention by math")]
    assert all(0 < difference < found.facts[FLOOR] / 10 for difference in moved)


def test_each_part_is_beside_the_first_by_turns(found):
    first, *others = found.rows
    assert first["part"] == EAGER
    assert "seconds to the first" not in first
    assert all(row["seconds"] > 0 and "[" in row["seconds to the first"] for row in others)


def test_one_round_has_no_interval():
    with pytest.raises(InvalidValueError, match="rounds"):
        measure_exact_mode("puppet", device="cpu", rounds=1)


def test_the_command_writes_what_it_prints(tmp_path):
    told = CliRunner().invoke(
        app, ["bench-exact", "--device", "cpu", "--rounds", "2", "--no-compile", "-o", str(tmp_path / "exact.json")]
    )
    assert told.exit_code == 0, told.output
    written = json.loads((tmp_path / "exact.json").read_text())
    assert all(row["part"] in told.output for row in written["rows"])
