"""The error tree: one base, messages that name the value and the fix."""

import pickle
from pathlib import Path

import pytest

from imagelab import errors
from imagelab.errors import (
    CalibrationFileError,
    ConfigError,
    ControlMapError,
    GenerationError,
    ImageFileError,
    ImageLabError,
    InvalidValueError,
    ModelFileError,
    ModelNotFoundError,
    NotebookError,
    OtherRunError,
    OutOfMemoryError,
    Problem,
    ProfileError,
    ReferenceStoreError,
    RunFolderError,
    RunStoppedError,
    UnknownNameError,
    nearest_name,
    shorten,
)

EXAMPLES = {
    ConfigError((Problem(file="a.yaml", path="b.c", message="must be ≥ 1", value="0", line=3),)): (
        "1 problem in the configuration\na.yaml\n  b.c (line 3): must be ≥ 1, got 0"
    ),
    UnknownNameError("LoRA", "lucca", ["luca", "alberto"]): (
        "unknown LoRA 'lucca'; did you mean 'luca'? Known: alberto, luca"
    ),
    UnknownNameError("LoRA", "x", []): "unknown LoRA 'x'. Known: none",
    InvalidValueError("steps", 0, "a whole number from 1 to 150"): "steps must be a whole number from 1 to 150, got 0",
    OtherRunError("output_dir", "out", "another folder", ("seed was 1, is 2",), "Choose another"): (
        "output_dir must be another folder, got 'out'; its run and this call differ:\n"
        "  seed was 1, is 2\nChoose another"
    ),
    ModelNotFoundError("base model", Path("models/sdxl"), "Put it there"): (
        "base model: nothing at models/sdxl. Put it there"
    ),
    ModelFileError(Path("a.safetensors"), "is truncated"): "a.safetensors: is truncated",
    ImageFileError(Path("a.png"), "isn't an image"): "a.png: isn't an image",
    ControlMapError("a.png", "shows nobody", "Give a ready map"): "a.png: shows nobody. Give a ready map",
    CalibrationFileError(Path("luca.json"), "is stale", "Calibrate again"): "luca.json: is stale. Calibrate again",
    ReferenceStoreError(Path("luca.npz"), "made by another face pack", "Build it again"): (
        "luca.npz: made by another face pack. Build it again"
    ),
    RunFolderError(Path("out"), "can't be written to", "Free some space"): "out: can't be written to. Free some space",
    RunStoppedError(Path("out"), "is full", "Free some space"): "out: is full. Free some space",
    GenerationError("the latents hold NaN", "Use float32"): "generation failed: the latents hold NaN. Use float32",
    OutOfMemoryError("out of GPU memory", "Draw a smaller picture"): (
        "generation failed: out of GPU memory. Draw a smaller picture"
    ),
    NotebookError("22_filter_batches", "unknown parameter 'seeed'"): (
        "notebook 22_filter_batches: unknown parameter 'seeed'"
    ),
    ProfileError("puppet", "no pose ControlNet yet"): "profile puppet: no pose ControlNet yet",
}
all_errors = pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)


@all_errors
def test_an_error_says_what_where_and_how_to_fix_it(error):
    assert str(error) == EXAMPLES[error]


@all_errors
def test_every_error_is_an_imagelab_error(error):
    assert isinstance(error, ImageLabError)


@all_errors
def test_an_error_survives_the_way_back_from_a_worker_process(error):
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301  our own
    assert type(copy) is type(error)
    assert str(copy) == str(error)


def test_no_error_class_is_left_without_an_example():
    classes = {value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, ImageLabError)}
    assert {type(error) for error in EXAMPLES} | {ImageLabError} == classes


def test_a_plain_imagelab_error_survives_pickling_too():
    assert str(pickle.loads(pickle.dumps(ImageLabError("why")))) == "why"  # noqa: S301  our own


@pytest.mark.parametrize("error", [UnknownNameError("style", "x", []), InvalidValueError("seed", "x", "an integer")])
def test_errors_about_arguments_are_value_errors(error):
    assert isinstance(error, ValueError)


def test_keyword_arguments_say_the_same_as_positional_ones():
    assert str(InvalidValueError(name="seed", value="x", expected="an integer")) == "seed must be an integer, got 'x'"


@pytest.mark.parametrize(
    ("name", "nearest"), [("lucca", "luca"), ("LUCA", "luca"), ("albert", "alberto"), ("zzz", None), (7, None)]
)
def test_the_nearest_name_ignores_case_and_admits_that_there_is_none(name, nearest):
    assert nearest_name(name, ["luca", "alberto"]) == nearest


def test_a_long_value_is_cut_in_messages():
    assert len(shorten("x" * 10_000)) == 80


def test_problems_of_one_file_stand_under_its_name_once():
    problems = [Problem(file="a.yaml", path=name, message="is missing") for name in ("y", "x")]
    assert str(ConfigError(problems)) == "2 problems in the configuration\na.yaml\n  x: is missing\n  y: is missing"
