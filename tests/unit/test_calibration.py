"""Separation of genuine scores from impostors'."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagelab.calibration import leave_one_out, separate

scores = st.lists(st.floats(-1, 1), min_size=1, max_size=20)


def test_scores_that_don_t_overlap_are_told_apart_perfectly():
    separation = separate([0.8, 0.9], [0.1, 0.2, 0.3], 0.5)

    assert (separation.auroc, separation.eer, separation.fnmr, separation.fmr) == (1, 0, 0, 0)
    assert (separation.genuine, separation.impostors) == (2, 3)


def test_rates_at_the_threshold_count_what_is_refused_and_what_is_accepted():
    separation = separate([0.8, 0.7, 0.6, 0.2], [0.7, 0.1], 0.7)

    assert separation.fnmr == 0.5, "a score at the threshold is accepted"
    assert separation.fmr == 0.5


def test_equal_error_rate_is_where_both_rates_meet():
    assert separate([0.4, 0.6, 0.8, 0.9], [0.1, 0.2, 0.3, 0.5], 0.5).eer == pytest.approx(0.25)


@given(scores, scores)
def test_auroc_is_the_chance_that_a_genuine_score_is_above_an_impostors(genuine, impostors):
    pairs = [(a > b) + (a == b) / 2 for a in genuine for b in impostors]

    assert separate(genuine, impostors, 0).auroc == pytest.approx(np.mean(pairs))


@pytest.mark.parametrize(("genuine", "impostors"), [([], [0.1]), ([0.9], []), ([], [])])
def test_without_either_the_rates_are_unknown(genuine, impostors):
    separation = separate(genuine, impostors, 0.5)

    assert all(math.isnan(rate) for rate in (separation.auroc, separation.eer, separation.fnmr, separation.fmr))


def test_leave_one_out_finds_the_stranger():
    embeddings = np.array([[1, 0, 0], [1, 0.1, 0], [0, 0, 1]], np.float32)
    left_out = leave_one_out(embeddings)

    assert min(left_out) == left_out[2] == pytest.approx(0, abs=1e-6)


def test_a_single_reference_has_no_others_to_agree_with():
    assert math.isnan(leave_one_out(np.ones((1, 3), np.float32))[0])
