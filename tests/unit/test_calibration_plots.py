"""Figures about calibrations and experiments: what they draw, and what they say where there is nothing to draw."""

from dataclasses import replace

import numpy as np
import pytest
from matplotlib.figure import Figure

from imagelab.calibration import calibrate
from imagelab.calibration_plots import condition_figure, det_figure, paired_figure, roc_figure, score_histogram
from imagelab.conditions import ConditionSummary
from imagelab.experiments import compare_paired


@pytest.fixture(scope="module")
def scores():
    rng = np.random.default_rng(0)
    return rng.normal(0.7, 0.1, 40), rng.normal(0.3, 0.15, 200)


@pytest.fixture(scope="module")
def calibration(scores):
    return calibrate(*scores, resamples=100)


def texts(figure):
    legends = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    return " | ".join([*legends, *(text.get_text() for axis in figure.axes for text in axis.texts)])


def test_histogram_counts_both_kinds_and_marks_both_thresholds(scores, calibration):
    figure = score_histogram(*scores, calibration, configured=0.65)

    assert "genuine (n = 40)" in texts(figure)
    assert "impostor (n = 200)" in texts(figure)
    assert "configured: 0.65" in texts(figure)
    assert f"calibrated, eer: {calibration.threshold.value:.2f}" in texts(figure)


def test_histogram_names_each_of_several_configured_thresholds(scores):
    figure = score_histogram(*scores, configured={"consistency": 0.65, "batch": 0.7})

    assert "consistency: 0.65" in texts(figure)
    assert "batch: 0.70" in texts(figure)


def summary(aspect, condition, ok, mean, low, high):
    rates = {"comparable_low": 0.0, "comparable_high": 1.0, "consistent": 0}
    return ConditionSummary(aspect=aspect, condition=condition, total=4, ok=ok, mean=mean, low=low, high=high, **rates)


def test_conditions_stand_under_their_aspects_with_how_many_pictures_count():
    rows = [
        summary("pose", "standing", 4, 0.8, 0.7, 0.9),
        summary("pose", "running", 1, 0.5, None, None),
        summary("scene", "at night", 0, None, None, None),
    ]
    figure = condition_figure(rows, 0.65)
    dots = [line for line in figure.axes[0].lines if line.get_marker() == "o"]

    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["standing", "running", "at night"]
    assert texts(figure) == "threshold 0.65 | n/N | 4/4 | pose | 1/4 | 0/4 | scene"
    assert [line.get_markerfacecolor() for line in dots] == [dots[0].get_color(), "white"]
    assert condition_figure([]).axes[0].texts[0].get_text() == "no conditions"


def test_kinds_differ_in_hatch_and_not_in_colour_alone(scores):
    hatches = {patch.get_hatch() for patch in score_histogram(*scores).axes[0].patches if patch.get_fill()}

    assert "////" in hatches
    assert len(hatches) > 1


def test_det_figure_greys_out_what_the_impostors_cannot_show(scores, calibration):
    assert "FMR below 1.5 %: too few impostors to tell" in texts(det_figure(*scores, calibration))


def test_roc_figure_names_the_area_with_its_interval(scores, calibration):
    assert f"AUROC {calibration.auroc.value:.3f} [" in texts(roc_figure(*scores, calibration))


def test_paired_figure_counts_the_pairs_that_each_side_wins():
    figure = paired_figure(compare_paired([0.8, 0.7, 0.6, 0.5], [0.7, 0.6, 0.7, None]), names=("low", "high"))

    assert "low is nearer in 2 of 3 pairs" in texts(figure)
    assert "with a score: 4 and 3 of 4" in texts(figure)


def test_det_without_a_curve_inside_says_where_it_is():
    apart, overlapping = det_figure([0.8, 0.9, 0.7], [0.1, 0.2]), det_figure([0.8, 0.9, 0.3], [0.1, 0.5])
    assert [text.get_text() for text in overlapping.axes[0].texts] == []
    assert "no threshold errs both ways" in apart.axes[0].texts[0].get_text()
    assert "all thresholds" in [line.get_label() for line in overlapping.axes[0].lines]
    assert "all thresholds" not in [line.get_label() for line in apart.axes[0].lines]


def test_histogram_reaches_to_the_ends_of_the_thresholds_interval_unless_they_are_far_off():
    own, others = [0.7, 0.75, 0.81], [-0.3, -0.2, 0.0, 0.45]
    near = calibrate(own, others, score_range=(-1, 1), resamples=200)
    far = replace(near, threshold=replace(near.threshold, low=-20.0, high=20.0))
    shown, cut = (score_histogram(own, others, found).axes[0].get_xlim() for found in (near, far))
    assert shown[0] < min(others)
    assert shown[1] >= near.threshold.high > max(own)
    assert cut[1] - cut[0] < 2 * (max(own) - min(others))


@pytest.mark.parametrize("draw", [score_histogram, det_figure, roc_figure])
def test_without_scores_a_figure_says_so(draw):
    figure = draw([], [])

    assert isinstance(figure, Figure)
    assert "scores" in texts(figure)
