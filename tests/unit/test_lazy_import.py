"""`import imagelab` is quick: heavy libraries come with the first name that needs them."""

import subprocess
import sys

import pytest

import imagelab
from imagelab.versions import library_version

HEAVY = ("torch", "diffusers", "transformers", "numpy", "pydantic", "PIL", "insightface", "onnxruntime", "xformers")


def modules_after(code):
    """The names in sys.modules of a fresh interpreter that ran `code`."""
    script = f"{code}\nimport sys\nprint(*sys.modules)"
    return set(
        subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout.split()
    )


def test_importing_imagelab_imports_no_heavy_library():
    assert not modules_after("import imagelab").intersection(HEAVY)


def test_loading_the_configuration_imports_no_model_library():
    loaded = modules_after("import imagelab; imagelab.load_configs")
    assert "imagelab.config" in loaded
    assert not loaded.intersection(HEAVY) - {"pydantic"}


def test_finding_model_files_imports_no_model_library():
    assert not modules_after("import imagelab.models").intersection(HEAVY) - {"pydantic"}


def test_planning_a_run_imports_torch_and_nothing_that_draws():
    """Going on with a run that has ended, and a dry run of one that has begun, needn't wait for diffusers."""
    loaded = modules_after("import imagelab.batch.planning, imagelab.runs.recipe")
    assert not loaded.intersection({"diffusers", "transformers", "torch._dynamo"})


@pytest.mark.parametrize("name", imagelab.__all__)
def test_every_exported_name_can_be_imported(name):
    assert getattr(imagelab, name) is not None


def test_every_exported_name_is_listed_once_and_completed_by_dir():
    assert sorted(imagelab.__all__) == sorted({*imagelab._MODULES, "__version__"})
    assert set(imagelab.__all__) <= set(dir(imagelab))


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'imagelab' has no attribute 'CharacterGenrator'"):
        imagelab.CharacterGenrator  # noqa: B018


def test_the_version_is_that_of_the_installed_package():
    assert imagelab.__version__[0].isdigit()


def test_a_library_that_is_not_installed_has_no_version():
    assert library_version("imagelab") == imagelab.__version__
    assert library_version("no-such-library") == "0+unknown"
