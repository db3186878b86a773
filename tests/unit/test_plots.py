"""Figures are made, closed and never shown."""

import math
import warnings

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from PIL import Image

from imagelab.errors import InvalidValueError
from imagelab.plots import contact_sheet, loss_curves, similarity_histogram, similarity_matrix

mpl.use("agg")


def pictures(count, size=(128, 128)):
    return [Image.new("RGB", size, (index, 0, 0)) for index in range(count)]


def drawn(figure):
    """Draw a figure for real, with warnings as errors: a missing glyph or a crowded layout warns only then."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure.canvas.draw()
    return figure


FIGURES = {
    "sheet": lambda: contact_sheet(pictures(7), [f"seed {n}\n0.9{n}" for n in range(7)], title="Accepted"),
    "portrait sheet": lambda: contact_sheet(pictures(3, (96, 160)), ["a", "b", "c"]),
    "empty sheet": lambda: contact_sheet([], [], title="Rejected", if_empty="every picture was accepted"),
    "histogram": lambda: similarity_histogram({"with": [0.9, 0.95], "without": [0.1, None, math.nan]}, 0.7, title="x"),
    "empty histogram": lambda: similarity_histogram({"with": [], "without": []}, 0.7),
    "crowded histogram": lambda: similarity_histogram({f"character {n}": [n / 10] for n in range(9)}, 0.7, title="x"),
    "histogram of nothing": lambda: similarity_histogram({}, 0.7),
    "matrix of nothing": lambda: similarity_matrix([], []),
    "losses": lambda: loss_curves({"vae": {"step": [1, 2], "loss": [0.5, 0.1], "seconds": [60, 120]}}),
    "losses of nothing": lambda: loss_curves({}),
    "matrix": lambda: similarity_matrix(np.eye(3), ["a", "b", "c"], title="x"),
}


@pytest.mark.parametrize("make", FIGURES.values(), ids=FIGURES)
def test_figure_is_returned_closed_and_draws_without_a_warning(make):
    figure = make()

    assert isinstance(drawn(figure), Figure)
    assert plt.get_fignums() == []


def test_contact_sheet_shows_every_picture_with_its_caption():
    figure = contact_sheet(pictures(7), [f"seed {n}" for n in range(7)], columns=3)
    shown = [axis for axis in figure.axes if axis.images]

    assert [axis.texts[0].get_text() for axis in shown] == [f"seed {n}" for n in range(7)]
    assert all((axis.images[0].get_array()[0, 0] == (n, 0, 0)).all() for n, axis in enumerate(shown))


def test_empty_contact_sheet_says_why_it_is_empty():
    figure = contact_sheet([], if_empty="every picture was accepted")

    assert "every picture was accepted" in [text.get_text() for text in figure.axes[0].texts]


def test_histogram_shares_its_bins_is_a_density_and_counts_only_scores():
    figure = similarity_histogram({"with": [0.91, 0.93], "without": [0.1, None, math.nan]}, 0.7)
    axis = figure.axes[0]
    with_lora, without = axis.containers[0], axis.containers[2] if len(axis.containers) > 2 else axis.containers[1]

    assert [bar.get_x() for bar in with_lora] == [bar.get_x() for bar in without]
    assert math.isclose(sum(bar.get_height() * bar.get_width() for bar in with_lora), 1)
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["with (n = 2)", "without (n = 1)"]


@pytest.mark.parametrize("count", [1, 6, 7, 12])
def test_histogram_shows_each_group_in_a_colour_of_its_own(count):
    axis = similarity_histogram({str(n): [n / count] for n in range(count)}).axes[0]
    fills = {container[0].get_facecolor() for container in axis.containers}

    assert [text.get_text() for text in axis.get_legend().get_texts()] == [f"{n} (n = 1)" for n in range(count)]
    assert len(fills) == count


@pytest.mark.parametrize("columns", [0, -1, 2.5])
def test_contact_sheet_without_columns_is_refused(columns):
    with pytest.raises(InvalidValueError, match="columns"):
        contact_sheet(pictures(3), columns=columns)


def test_histogram_labels_its_threshold():
    axis = similarity_histogram({"with": [0.9]}, 0.7).axes[0]

    assert "threshold 0.70" in [text.get_text() for text in axis.texts]
    assert any(np.allclose(line.get_xdata(), 0.7) for line in axis.lines)


def test_matrix_writes_every_number():
    figure = similarity_matrix([[1, 0.25], [0.25, 1]], ["a", "b"])

    assert [text.get_text() for text in figure.axes[0].texts] == ["1.00", "0.25", "0.25", "1.00"]


def test_settings_of_the_caller_stay_as_they_were():
    before = dict(mpl.rcParams)
    similarity_histogram({"with": [0.9]}, 0.7)

    assert dict(mpl.rcParams) == before
