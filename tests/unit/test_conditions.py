"""A grid of conditions: few pictures show each of them, and its breakdown mixes nothing up."""

import math
from collections import Counter
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import t

from imagelab.conditions import condition_requests, condition_table, spread_conditions, summarise_conditions
from imagelab.errors import InvalidValueError
from imagelab.results import GenerationRequest, Verdict

ASPECTS = {"pose": ["standing", "running"], "expression": ["happy", "sad"], "scene": ["at night", "underwater"]}


def verdict(score, threshold=0.65):
    status = "ok" if score is not None else "no_face"
    return Verdict(
        character_name="luca", status=status, similarity_score=score, threshold=threshold, metric="cosine", encoder="x"
    )


def test_every_combination_comes_before_one_comes_again():
    cells = [tuple(one.values()) for one in spread_conditions(ASPECTS, 16)]

    assert len(set(cells[:8])) == 8
    assert cells[:8] == cells[8:]


def test_four_pictures_are_enough_for_each_two_conditions_to_meet_once():
    cells = spread_conditions(ASPECTS, 4)

    for first, second in combinations(ASPECTS, 2):
        assert set(Counter((one[first], one[second]) for one in cells).values()) == {1}


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 40))
def test_conditions_of_an_aspect_are_shown_about_equally_often(poses, places, count):
    aspects = {"pose": [f"pose {i}" for i in range(poses)], "place": [f"place {i}" for i in range(places)]}
    cells = spread_conditions(aspects, count)

    for aspect, choices in aspects.items():
        counts = Counter(one[aspect] for one in cells)
        assert max(counts.values()) - min(counts.get(choice, 0) for choice in choices) <= max(poses, places)


@pytest.mark.parametrize("choices", [[], "standing", ["running", "running"]])
def test_an_aspect_without_conditions_or_with_one_twice_is_refused(choices):
    with pytest.raises(InvalidValueError, match="at least one condition, each once"):
        spread_conditions({"pose": choices}, 2)


def test_requests_differ_in_scene_and_seed_alone():
    request = GenerationRequest(character="luca", quality_preset="draft")
    one, other = condition_requests(request, spread_conditions(ASPECTS, 2), 5)

    assert (one.scene_description, one.seed) == ("standing, happy, at night", 5)
    assert (other.scene_description, other.seed) == ("standing, sad, underwater", 6)
    assert (one.character, one.quality_preset) == ("luca", "draft")


def test_a_picture_without_a_face_lowers_the_count_and_no_mean():
    conditions = [{"pose": "standing"}] * 3 + [{"pose": "running"}] * 2
    standing, running = summarise_conditions(conditions, [verdict(s) for s in (0.6, 0.8, None, 0.5, None)])
    half = t.ppf(0.975, 1) * math.sqrt(0.02 / 2)

    assert (standing.ok, standing.total, standing.consistent) == (2, 3, 1)
    assert standing.mean == pytest.approx(0.7)
    assert (standing.low, standing.high) == pytest.approx((0.7 - half, 0.7 + half))
    assert (running.ok, running.total, running.mean, running.low) == (1, 2, 0.5, None)


def test_a_condition_without_any_face_has_no_mean():
    (night,) = summarise_conditions([{"scene": "at night"}] * 2, [verdict(None)] * 2)

    assert night.mean is None
    assert (night.ok, night.total, night.consistent) == (0, 2, 0)


def test_every_picture_counts_once_in_each_aspect():
    conditions = spread_conditions(ASPECTS, 12)
    summaries = summarise_conditions(conditions, [verdict(0.7)] * 12)
    table = condition_table(summaries)

    assert [one.condition for one in summaries if one.aspect == "pose"] == ["standing", "running"]
    assert {sum(one.total for one in summaries if one.aspect == aspect) for aspect in ASPECTS} == {12}
    assert table.loc[("pose", "standing"), "n/N"] == "6/6"
    assert table.loc[("pose", "standing"), "consistent"] == "6/6"


def test_each_picture_needs_its_condition():
    with pytest.raises(InvalidValueError, match="one for each of 1 pictures"):
        summarise_conditions([{"pose": "standing"}], [])
