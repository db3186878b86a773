import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imagelab.errors import InvalidValueError
from imagelab.results import Verdict
from imagelab.verdict_summary import ok_scores, summarise, summarise_verdicts

OTHERS = ("no_face", "several_faces", "low_quality", "decode_error")
cosines = st.floats(-1, 1)


def verdict(status="ok", score=0.5, **changes):
    given = {"character_name": "luca", "threshold": 0.65, "metric": "cosine", "encoder": "pack"}
    return Verdict(status=status, similarity_score=score, **given | changes)


@settings(deadline=None)  # scipy is imported by the first example
@given(
    st.lists(cosines, max_size=20),
    st.lists(st.tuples(st.sampled_from(OTHERS), st.none() | cosines | st.just(math.nan)), max_size=60),
    st.randoms(),
)
def test_pictures_without_a_compared_face_never_enter_a_mean_whatever_their_number(scores, others, random):
    compared = [("ok", score) for score in scores]
    mixed = [*compared, *others]
    random.shuffle(mixed)
    alone = summarise([status for status, _ in compared], scores, [True] * len(scores))
    among = summarise([status for status, _ in mixed], [score for _, score in mixed], [True] * len(mixed))
    assert among.mean_similarity == alone.mean_similarity or (not scores and math.isnan(among.mean_similarity))
    assert among.ok == among.consistent == len(scores)
    assert among.total == sum(among.counts.values()) == len(mixed)
    if mixed:
        assert among.comparable_rate == len(scores) / len(mixed)
        assert 0 <= among.comparable_low <= among.comparable_rate <= among.comparable_high <= 1


def test_means_are_over_ok_and_say_of_how_many():
    summary = summarise_verdicts([verdict(score=0.9), verdict(score=0.5), verdict("no_face", None)])
    assert summary.mean_similarity == pytest.approx(0.7)
    assert (summary.ok, summary.total, summary.consistent) == (2, 3, 1)
    assert "mean over 2 ok" in summary.to_text()
    assert "1/3" in summary.to_text()
    assert "comparable    0.667 (" in summary.to_text()


def test_without_a_single_compared_face_there_is_no_mean():
    summary = summarise_verdicts([verdict("no_face", None)] * 4)
    assert math.isnan(summary.mean_similarity)
    assert "nan" not in summary.to_text()
    assert summary.comparable_rate == summary.comparable_low == 0
    assert summary.comparable_high == pytest.approx(0.4899, abs=1e-4)  # z²/(n+z²), n = 4
    assert math.isnan(summarise_verdicts([]).comparable_rate)


def test_the_interval_is_wilsons():
    summary = summarise(["ok"] * 8 + ["no_face"] * 2, [0.5] * 8 + [None] * 2, [True] * 10)
    z = 1.959963985
    centre, half = (0.8 + z * z / 20) / (1 + z * z / 10), z * math.sqrt(0.016 + z * z / 400) / (1 + z * z / 10)
    assert (summary.comparable_low, summary.comparable_high) == pytest.approx((centre - half, centre + half))


@pytest.mark.parametrize("change", [{"encoder": "another"}, {"metric": "euclidean"}])
def test_scores_that_mean_different_things_are_not_averaged(change):
    with pytest.raises(InvalidValueError, match="one encoder and one metric"):
        summarise_verdicts([verdict(), replace(verdict(), **change)])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ((["ok"], [], [True]), "one length"),
        ((["fine"], [0.5], [True]), "no_face"),
        ((["ok"], [None], [True]), "scores"),
        ((["ok"], [math.nan], [True]), "scores"),
    ],
)
def test_what_does_not_fit_together_is_refused(given, said):
    with pytest.raises(InvalidValueError, match=said):
        summarise(*given)


def test_scores_are_those_of_ok_pictures_alone_in_their_order():
    given = [verdict(score=0.7), verdict("no_face", None), verdict("low_quality", None), verdict(score=0.2)]

    assert ok_scores(given) == [0.7, 0.2]
