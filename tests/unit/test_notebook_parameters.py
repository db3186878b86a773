"""The parameters of a notebook are typed, and everything that is wrong with a run is said before it starts."""

import nbformat
import pytest

from imagelab.errors import NotebookError
from imagelab.notebooks import check_parameters, read_parameters
from imagelab.notebooks.parameters import read_text

CELL = """
profile: str = "puppet"  # profile, with a comma
scene: str = "beach # not a comment"  # what happens
num_images: int = 8  # pictures
threshold: float | None = None  # least similarity
baseline: bool = True  # both
presets: list[str] = ["draft", "high"]  # presets
"""


def notebook_with(tmp_path, source, tags=("parameters",)):
    path = tmp_path / "tiny.ipynb"
    cell = nbformat.v4.new_code_cell(source.strip(), metadata={"tags": list(tags)})
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), path)
    return path


@pytest.fixture
def parameters(tmp_path):
    return read_parameters(notebook_with(tmp_path, CELL))


def test_parameters_are_read_with_type_default_and_comment(parameters):
    known = {name: (known.kind, known.default, known.help) for name, known in parameters.items()}

    assert known == {
        "profile": (str, "puppet", "profile, with a comma"),
        "scene": (str, "beach # not a comment", "what happens"),
        "num_images": (int, 8, "pictures"),
        "threshold": (float | None, None, "least similarity"),
        "baseline": (bool, True, "both"),
        "presets": (list[str], ["draft", "high"], "presets"),
    }


def test_notebook_without_a_parameters_cell_has_none(tmp_path):
    assert read_parameters(notebook_with(tmp_path, CELL, tags=())) == {}


@pytest.mark.parametrize(
    "source", ["seed = 3", "seed: int", "seed: dict = {}", "seed: int = max(1, 2)", "import os", "seed: int ="]
)
def test_line_that_is_no_annotated_value_is_refused(tmp_path, source):
    with pytest.raises(NotebookError, match="notebook tiny: its parameters can't be read"):
        read_parameters(notebook_with(tmp_path, source))


def test_unknown_names_and_wrong_types_are_said_all_at_once(parameters):
    given = {"num_image": 3, "num_images": "x", "baseline": 1, "presets": ["draft", 2]}

    with pytest.raises(NotebookError) as caught:
        check_parameters("tiny", parameters, given)

    message = str(caught.value)
    assert "unknown parameter 'num_image'; did you mean 'num_images'?" in message
    assert "num_images must be a whole number, got 'x'" in message
    assert "baseline must be true or false, got 1" in message
    assert "presets must be a list, each item text, got ['draft', 2]" in message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_images", True),
        ("num_images", 1.0),
        ("num_images", None),
        ("threshold", True),
        ("threshold", "0.7"),
        ("threshold", float("nan")),
        ("threshold", float("inf")),
        ("profile", 1),
        ("baseline", "true"),
        ("presets", "draft"),
    ],
)
def test_value_of_another_type_is_refused(parameters, name, value):
    with pytest.raises(NotebookError, match=f"{name} must be"):
        check_parameters("tiny", parameters, {name: value})


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("threshold", 1, 1.0),
        ("threshold", None, None),
        ("num_images", 3, 3),
        ("presets", [], []),
        ("baseline", False, False),
    ],
)
def test_value_of_the_type_is_taken(parameters, name, value, expected):
    checked = check_parameters("tiny", parameters, {name: value})[name]

    assert checked == expected
    assert type(checked) is type(expected)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("num_images", "20", 20),
        ("num_images", "2.5", "2.5"),
        ("num_images", "x", "x"),
        ("threshold", "0.7", 0.7),
        ("threshold", "1", 1.0),
        ("threshold", "null", None),
        ("baseline", "false", False),
        ("baseline", "perhaps", "perhaps"),
        ("profile", "1", "1"),
        ("scene", "running: fast, on the beach", "running: fast, on the beach"),
        ("presets", "[draft, 'high']", ["draft", "high"]),
        ("presets", "draft,high", ["draft", "high"]),
    ],
)
def test_text_from_the_command_line_is_read_by_the_parameters_type(parameters, name, text, expected):
    value = read_text(parameters[name], text)

    assert value == expected
    assert type(value) is type(expected)
