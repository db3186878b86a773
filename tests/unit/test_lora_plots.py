"""Figures about LoRAs show missing scores as missing, and blocks that are left alone not at all."""

import warnings

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from imagelab.lora_plots import block_tables, weight_response

mpl.use("agg")

SWEEP = pd.DataFrame(
    {
        "loras": ["town"] * 4 + ["light"] * 4,
        "weight": [0.0, 0.0, 1.0, 1.0] * 2,
        "change": [0.0, 0.0, 20.0, 30.0, 0.0, 0.0, 5.0, 6.0],
        "face": ["ok", "ok", "ok", "no_face"] + ["ok"] * 4,
        "similarity": [0.8, 0.7, 0.5, np.nan, 0.8, 0.7, 0.75, 0.7],
    }
)
EFFECTS = pd.DataFrame({"a": [0.1, 0.0, 0.2], "b": [0.0, 0.0, 0.3]}, index=["BASE", "IN00", "all"])
COSINES = pd.DataFrame({"a × b": [np.nan, np.nan, -0.5]}, index=["BASE", "IN00", "all"])


def drawn(figure):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure.canvas.draw()
    return figure


FIGURES = {
    "response": lambda: weight_response(SWEEP, 0.65, title="x", character="luca"),
    "response without scores": lambda: weight_response(SWEEP.assign(face=None, similarity=np.nan)),
    "response without faces": lambda: weight_response(SWEEP.assign(face="no_face", similarity=np.nan), 0.65),
    "response of nothing": lambda: weight_response(SWEEP.iloc[:0]),
    "tables": lambda: block_tables(EFFECTS, COSINES, title="x"),
    "tables of one": lambda: block_tables(EFFECTS[["a"]], COSINES[[]]),
    "tables of nothing": lambda: block_tables(EFFECTS * 0, COSINES),
}


@pytest.mark.parametrize("make", FIGURES.values(), ids=FIGURES)
def test_figure_is_returned_closed_and_draws_without_a_warning(make):
    assert isinstance(drawn(make()), Figure)
    assert plt.get_fignums() == []


def test_face_that_was_not_found_is_a_cross_and_in_no_mean():
    right = weight_response(SWEEP).axes[1]

    assert [text.get_text() for text in right.texts] == ["1 × no face"]
    assert right.lines[0].get_ydata().tolist() == [0.75, 0.5]


def test_blocks_that_nobody_changes_are_left_out_and_unknown_cosines_are_dashes():
    left, right = block_tables(EFFECTS, COSINES).axes

    assert [label.get_text() for label in left.get_yticklabels()] == ["BASE", "all"]
    assert [text.get_text() for text in left.texts] == ["10.0", "–", "20.0", "30.0"]
    assert [text.get_text() for text in right.texts] == ["–", "−0.50"]
