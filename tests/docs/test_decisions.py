"""Decision records are found by their numbers."""

import re
from pathlib import Path

import pytest

DECISIONS = sorted((Path(__file__).parents[2] / "docs/decisions").glob("*.md"))


@pytest.mark.parametrize("path", DECISIONS, ids=lambda path: path.stem[:4])
def test_a_decision_begins_with_the_number_of_its_file(path):
    heading = re.match(r"# (\d+)\. \S", path.read_text(encoding="utf-8"))
    assert heading, "the form is '# 12. What was decided'"
    assert int(heading[1]) == int(path.name[:4])


def test_no_number_is_given_twice_or_left_out():
    assert [int(path.name[:4]) for path in DECISIONS] == list(range(1, len(DECISIONS) + 1))
