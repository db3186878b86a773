"""What a notebook leaves behind for programs and for nbval."""

import math
from pathlib import Path

import nbformat
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from imagelab.errors import InvalidValueError, NotebookError
from imagelab.glue import SCRAP_TYPE, fingerprint, glue, picture_line, read_scraps, round_score, to_json_types
from imagelab.puppets.render import render
from imagelab.puppets.world import sample_scene
from imagelab.results import LoraUse


def write_notebook(path, *outputs):
    cell = nbformat.v4.new_code_cell(outputs=list(outputs))
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), path)
    return path


def scrap(name, value):
    data = {SCRAP_TYPE: {"name": name, "data": value, "encoder": "json", "version": 1}}
    return nbformat.v4.new_output("display_data", data=data)


def test_glued_value_is_displayed_as_a_scrap_of_scrapbooks_schema(monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda data, **options: shown.append((data, options)))
    glue("metrics", {"accepted": 3})

    data = {SCRAP_TYPE: {"name": "metrics", "data": {"accepted": 3}, "encoder": "json", "version": 1}}
    assert shown == [
        (data, {"raw": True, "metadata": {"scrapbook": {"name": "metrics", "data": True, "display": False}}})
    ]


def test_scraps_are_read_back_and_the_last_of_a_name_counts(tmp_path):
    text = nbformat.v4.new_output("stream", text="not a scrap")
    path = write_notebook(tmp_path / "a.ipynb", scrap("x", 1), text, scrap("x", 2), scrap("y", [None]))

    assert read_scraps(path) == {"x": 2, "y": [None]}


@pytest.mark.parametrize("content", [None, "", "{}", "not json"])
def test_file_that_is_no_notebook_is_an_error_of_ours(tmp_path, content):
    path = tmp_path / "broken.ipynb"
    if content is not None:
        path.write_text(content)

    with pytest.raises(NotebookError, match=r"broken\.ipynb"):
        read_scraps(path)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (math.nan, None),
        (np.float32("inf"), None),
        (np.array([1.0, math.nan]), [1.0, None]),
        (np.int64(3), 3),
        (np.bool_(True), True),
        (Path("a") / "b", "a/b"),
        ({1: (True, "x")}, {"1": [True, "x"]}),
        ({"b", "a"}, ["a", "b"]),
        (LoraUse(name="luca", weight=1.0), LoraUse(name="luca", weight=1.0).to_dict()),
    ],
)
def test_values_become_jsons_own_types(value, expected):
    assert to_json_types("value", value) == expected


def test_value_that_json_has_no_word_for_is_refused_with_its_place():
    with pytest.raises(InvalidValueError, match=r"metrics\.scores\[1\]"):
        to_json_types("metrics", {"scores": [1, object()]})


@pytest.mark.parametrize(
    ("score", "rounded"), [(0.924, 0.9), (0.926, 0.95), (-0.01, 0.0), (1.0, 1.0), (None, None), (math.nan, None)]
)
def test_scores_are_rounded_to_the_next_twentieth(score, rounded):
    assert round_score(score) == rounded
    assert str(round_score(score)) == str(rounded), "no -0.0"


@given(st.floats(-1, 1))
def test_rounding_moves_a_score_by_half_a_step_at_most(score):
    assert abs(round_score(score) - score) <= 0.025 + 1e-9


def test_fingerprint_gives_a_digit_for_each_block_and_colour():
    picture = np.zeros((128, 128, 3), np.uint8)
    picture[:16, 16:32] = 255
    picture[112:, 112:] = (0, 100, 0)
    white, dark = "07" + 62 * "0", "07" + 61 * "0" + "3"

    assert fingerprint(Image.fromarray(picture)) == f"{white} {dark} {white}"


def test_fingerprint_sees_a_change_of_hue():
    assert fingerprint(Image.new("RGB", (8, 8), (160, 80, 80))) != fingerprint(Image.new("RGB", (8, 8), (80, 120, 80)))


@pytest.mark.parametrize("size", [(96, 160), (160, 96), (5, 7), (1, 1)])
def test_fingerprint_takes_pictures_of_any_proportions(size):
    blocks = min(8, size[0]) * min(8, size[1])
    assert fingerprint(Image.new("RGB", size, "white")) == " ".join(["7" * blocks] * 3)


@pytest.mark.parametrize("eye", [0, 1])
@pytest.mark.parametrize("k", range(6))
def test_fingerprint_sees_an_eye_painted_over(k, eye):
    drawn = render(sample_scene(np.random.default_rng(k)))
    picture = drawn.image.copy()
    x, y = drawn.figures[0].landmarks[eye].round().astype(int)
    picture[y - 6 : y + 6, x - 6 : x + 6] = picture[y + 12, x]  # the cheek's colour

    assert fingerprint(Image.fromarray(picture)) != fingerprint(Image.fromarray(drawn.image))


@given(st.integers(0, 2**32 - 1))
def test_fingerprint_survives_noise_of_one_grey_level(seed):
    """Another CPU's rounding changes a few pixels by a level; here every pixel may change, around mid-digit greys."""
    random = np.random.default_rng(seed)
    blocks = random.integers(0, 8, (8, 8)) * 32 + 16
    picture = blocks.repeat(8, 0).repeat(8, 1)[:, :, None].repeat(3, 2)
    noisy = picture + random.integers(-1, 2, picture.shape)

    assert fingerprint(Image.fromarray(noisy.astype(np.uint8))) == fingerprint(
        Image.fromarray(picture.astype(np.uint8))
    )


def test_picture_line_rounds_floats_and_says_when_there_is_no_picture():
    black = " ".join(["0" * 64] * 3)

    assert picture_line(Image.new("RGB", (8, 8)), 3, "accepted", 0.9137) == f"3 accepted 0.90 {black}"
    assert picture_line(None, 4, "failed", None) == "4 failed None no picture"
