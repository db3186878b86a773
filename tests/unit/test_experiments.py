"""Is A more consistent than B? Verdicts, intervals and the number of pictures, on planted truth."""

import math

import numpy as np
import pytest
from scipy.stats import binomtest, nct, t, ttest_1samp

from imagelab.errors import InvalidValueError
from imagelab.experiments import PairedComparison, compare_paired, needed_pairs

SIMULATIONS = 300


def pairs_of(rng, number, effect):
    """Scores of two experiments that share what each seed brings; differences of deviation 0.05."""
    shared = rng.normal(0.7, 0.1, number)
    return shared + rng.normal(0.05 * effect, 0.05, number), shared


def decided(effect, number):
    """Return how often A wins, and how often B does, of all simulations."""
    rng = np.random.default_rng(8)
    found = [compare_paired(*pairs_of(rng, number, effect), resamples=400).more_consistent for _ in range(SIMULATIONS)]
    return found.count("A") / SIMULATIONS, found.count("B") / SIMULATIONS


def test_equal_experiments_are_told_apart_no_oftener_than_promised():
    wrong = sum(decided(0, 12))

    assert binomtest(round(wrong * SIMULATIONS), SIMULATIONS, 0.05).pvalue > 0.001, wrong


def test_the_number_of_pairs_that_is_named_finds_the_difference_as_often_as_it_says():
    right, wrong = decided(0.6, needed_pairs(0.6, power=0.8))

    assert binomtest(round(right * SIMULATIONS), SIMULATIONS, 0.8).pvalue > 0.001, right
    assert wrong < 0.01


@pytest.mark.parametrize("effect", [0.2, 0.5, 1.0])
@pytest.mark.parametrize("power", [0.8, 0.9])
def test_no_fewer_pairs_than_named_have_the_power(effect, power):
    def power_of(pairs):
        limit, shift = t.ppf(0.975, pairs - 1), effect * math.sqrt(pairs)
        return nct.sf(limit, pairs - 1, shift) + nct.cdf(-limit, pairs - 1, shift)

    named = needed_pairs(effect, power)
    assert power_of(named - 1) < power <= power_of(named)


def test_intervals_hold_the_planted_difference_and_effect_as_often_as_promised():
    rng, hits = np.random.default_rng(2), np.zeros(2)
    for _ in range(SIMULATIONS):
        found = compare_paired(*pairs_of(rng, 15, 0.5), resamples=400)
        pairs = ((found.difference, 0.025), (found.effect_size, 0.5))
        hits += [estimate.low <= truth <= estimate.high for estimate, truth in pairs]

    assert [binomtest(int(count), SIMULATIONS, 0.95).pvalue > 0.001 for count in hits] == [True, True], hits


def test_the_verdict_agrees_with_the_t_test_of_scipy_on_normal_differences():
    a, b = pairs_of(np.random.default_rng(0), 40, 0.5)

    assert compare_paired(a, b).p_value == pytest.approx(ttest_1samp(a - b, 0).pvalue, rel=0.2, abs=0.002)


@pytest.mark.parametrize("given", [{"power": 2}, {"power": 0}, {"confidence": 2}, {"confidence": 1}, {"power": None}])
def test_a_power_or_a_confidence_that_cannot_be_is_refused(given):
    with pytest.raises(InvalidValueError, match=next(iter(given))):
        needed_pairs(0.2, **given)


def test_swapping_the_experiments_swaps_the_answer():
    a, b = pairs_of(np.random.default_rng(0), 20, 1.5)
    there, back = compare_paired(a, b), compare_paired(b, a)

    assert (there.more_consistent, back.more_consistent) == ("A", "B")
    assert there.effect_size.value == pytest.approx(-back.effect_size.value)


def test_pictures_without_a_score_enter_no_mean_and_are_compared_apart():
    found = compare_paired([0.8, None, 0.7, 0.9], [0.6, 0.1, math.nan, 0.8])

    assert (found.pairs, found.dropped) == (2, 2)
    assert (found.mean_a, found.mean_b) == pytest.approx((0.85, 0.7))
    assert (found.detection.a, found.detection.b) == (3, 3)
    assert (found.detection.only_a, found.detection.only_b) == (1, 1)
    assert found.needs[0].seeds is None or found.needs[0].seeds == 2 * found.needs[0].pairs


def test_detection_is_decided_by_the_exact_test_of_mcnemar():
    a, b = [0.8] * 30, [0.8] * 18 + [None] * 12
    found = compare_paired(a, b)

    assert found.more_consistent == "undecided"
    assert found.detection.p_value == pytest.approx(2 * 0.5**12)
    assert found.detection.more_detected == "A"
    assert found.detection.difference.low > 0


def test_equal_scores_are_undecided_and_no_number_of_pictures_would_tell():
    found = compare_paired([0.8, 0.7, 0.6], [0.8, 0.7, 0.6])

    assert (found.more_consistent, found.p_value, found.effect_size) == ("undecided", 1, None)
    assert [need.pairs for need in found.needs] == [None, None]
    assert "no number of seeds" in found.describe()


def test_five_pairs_decide_nothing_and_six_can():
    assert compare_paired([0.9, 0.8, 0.9, 0.8, 0.9], [0.1, 0.2, 0.3, 0.2, 0.1]).more_consistent == "undecided"
    assert compare_paired([0.9, 0.8, 0.9, 0.8, 0.9, 0.7], [0.1, 0.2, 0.3, 0.2, 0.1, 0.3]).more_consistent == "A"


def test_a_smaller_difference_that_matters_takes_more_pictures():
    a, b = pairs_of(np.random.default_rng(0), 20, 1)

    needs = [compare_paired(a, b, least_difference=least).needs[0].pairs for least in (0.01, 0.05)]
    assert needs[0] > needs[1]


def test_the_answer_is_a_sentence_with_the_names():
    text = compare_paired(*pairs_of(np.random.default_rng(0), 30, 2)).describe("weight 0.8", "weight 1.2")

    assert text.startswith("weight 0.8 is more consistent than weight 1.2: difference +0.")
    assert text.endswith("seeds find it with a chance of 80%")


def test_the_table_holds_similarity_and_detection_apart():
    table = compare_paired([0.8, 0.7, None, 0.6], [0.5, 0.6, 0.7, 0.65]).to_frame("this", "that")

    assert table.loc["similarity", ["seeds", "this", "that"]].tolist() == pytest.approx([3, 0.7, 1.75 / 3])
    assert table.loc["share with a score", ["seeds", "this", "that", "more"]].tolist() == [4, 0.75, 1, "undecided"]


def test_a_comparison_comes_back_from_json_as_it_was():
    found = compare_paired([0.8, 0.7, None, 0.6], [0.5, 0.6, 0.7, 0.65])

    assert PairedComparison.from_json(found.to_json()) == found


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ([0.8, 0.7], [0.8], "b must be as long as a"),
        ([0.8, None], [0.8, 0.7], "at least two seeds with both scores"),
        ([], [], "at least two seeds"),
        ([0.8, math.inf], [0.8, 0.7], "finite scores"),
        ([0.8, "x"], [0.8, 0.7], "a must be scores"),
    ],
)
def test_what_cannot_be_compared_is_refused(a, b, message):
    with pytest.raises(InvalidValueError, match=message):
        compare_paired(a, b)
