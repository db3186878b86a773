"""Figures about calibrations and experiments: what they draw, and what they say where there is nothing to draw."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from imagelab.calibration import calibrate
from imagelab.calibration_plots import det_figure, paired_figure, roc_figure, score_histogram
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


@pytest.mark.parametrize("draw", [score_histogram, det_figure, roc_figure])
def test_without_scores_a_figure_says_so(draw):
    figure = draw([], [])

    assert isinstance(figure, Figure)
    assert "scores" in texts(figure)
