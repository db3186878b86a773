"""The command line says one clear thing about what is wrong, and its exit code which kind it is."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imagelab import cli
from imagelab.commands.notebooks import _plan as plan_of
from imagelab.config import load_configs
from imagelab.control_maps import canny_map
from imagelab.notebooks import read_parameter_file

ROOT = Path(__file__).parents[2]


@pytest.fixture
def imagelab(monkeypatch, capsys):
    """Call the command line; returns (exit code, stdout, stderr)."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["imagelab", *arguments])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        captured = capsys.readouterr()
        return caught.value.code, captured.out, captured.err

    return call


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "22_filter_batch"], "unknown notebook '22_filter_batch'; did you mean '22_filter_batches'?"),
        (["run", "22_filter_batches", "-p", "seed=x"], "seed must be a whole number, got 'x'"),
        (["run", "22_filter_batches", "-p", "sead=1"], "unknown parameter 'sead'; did you mean 'seed'?"),
        (["run", "22_filter_batches", "-p", "seed"], "-p must be NAME=VALUE, got 'seed'"),
        (["run", "22_filter_batches", "--run-id", "../x"], "run id must be"),
        (["run", "22_filter_batches", "--params", "no.yaml"], "--params must be a YAML file of parameters"),
        (["control", "map", "canni", "no.png", "-o", "x.png"], "unknown control type 'canni'; did you mean 'canny'?"),
        (["control", "map", "canny", "no.png", "-o", "x.png"], "no.png: doesn't exist"),
        (["control", "map", "canny", "no.png", "-o", "x.jpg"], "--output must be a path that ends in .png"),
        (
            ["batch", "--character", "luca", "--scene", "x", "--output-dir", ""],
            "--output-dir': must be",
        ),
        (["sweep", "some.yaml", "--output-dir", ""], "--output-dir': must be"),
        (["bench", "--output-dir", ""], "--output-dir': must be"),
        (["bench", "--output-dir", f"{__file__}/x"], "--output-dir must be a folder that can be written to"),
        (["bench", "--loras", "99"], "'--loras': Input should be less than or equal to 16"),
        (["bench", "--batch-size", "0"], "--batch-size'"),
        (["bench", "--num-runs", "0"], "--num-runs'"),
        (["report", ""], "run must be the name or the folder of a run, got ''"),
        (["integration", "--sdxl-model", "nowhere"], "base model must be a .safetensors file, or a folder"),
        (["integration", "--profile", "pupet"], "unknown profile 'pupet'; did you mean 'puppet'?"),
        (["integration", "--character", "lucca"], "unknown character 'lucca'; did you mean 'luca'?"),
        (["integration", "--device", "tpu"], "device must be one that PyTorch sees"),
        (["doctor", "--profile", "pupet"], "unknown profile 'pupet'; did you mean 'puppet'?"),
    ],
)
def test_bad_input_is_said_in_one_message_with_exit_code_2(imagelab, arguments, said):
    code, out, err = imagelab(*arguments)

    assert code == 2
    assert said in err
    assert "Traceback" not in err
    assert out == ""


def test_a_control_map_is_made_of_a_picture(imagelab, tmp_path):
    picture = ROOT / "imagelab/puppets/weights/references/luca/luca_1.png"
    code, out, _ = imagelab("control", "map", "canny", str(picture), "-o", str(tmp_path / "edges.png"))

    assert code == 0
    assert "wrote" in out
    edges = np.asarray(Image.open(tmp_path / "edges.png"))
    np.testing.assert_array_equal(edges, canny_map(Image.open(picture), 100, 200))


def test_all_bad_parameters_are_said_at_once(imagelab):
    _, _, err = imagelab("run", "22_filter_batches", "-p", "seed=x", "-p", "num_images=many", "-p", "baselin=true")

    assert all(name in err for name in ("seed must", "num_images must", "'baselin'"))


def test_broken_parameter_file_is_reported_with_its_line(imagelab, tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text("seed: 1\nseed: 2\n")
    code, _, err = imagelab("run", "22_filter_batches", "--params", str(path))

    assert code == 2
    assert "params.yaml" in err
    assert "(line 2): duplicate key" in err


def test_debug_shows_the_traceback(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["imagelab", "run", "no_such", "--debug"])

    with pytest.raises(ValueError, match="no_such"):
        cli.main()


@pytest.mark.parametrize("path", sorted((ROOT / "configs/runs").glob("*.yaml")), ids=lambda path: path.stem)
@pytest.mark.parametrize("notebook", ["21_analyse_consistency", "22_filter_batches"])
def test_every_parameter_file_suits_the_notebooks_that_draw_many_pictures(notebook, path):
    plan = plan_of(notebook, path, [], run_id="x")

    assert plan.parameters["profile"] == "puppet"
    load_configs().preset("puppet", plan.parameters["quality_preset"])


def test_one_file_serves_all_notebooks_and_a_slip_in_it_is_found(imagelab, tmp_path):
    """num_images is a parameter of others; num_image of none."""
    (tmp_path / "all.yaml").write_text("profile: puppet\nnum_images: 3\n")
    (tmp_path / "slip.yaml").write_text("profile: puppet\nnum_image: 3\n")

    values, foreign = read_parameter_file(tmp_path / "all.yaml", "10_generate_character")
    code, _, err = imagelab("run", "10_generate_character", "--params", str(tmp_path / "slip.yaml"))
    assert (values, foreign) == ({"profile": "puppet"}, ("num_images",))
    assert code == 2
    assert "num_image" in err


def test_p_wins_over_the_parameter_file():
    file = ROOT / "configs/runs/draft.yaml"

    assert plan_of("22_filter_batches", file, ["num_images=3"], run_id="x").parameters["num_images"] == 3


def test_list_shows_the_parameters(imagelab):
    code, out, _ = imagelab("run", "22_filter_batches", "--list")

    assert code == 0
    assert "num_images: int = " in out


def test_doctors_json_is_json_and_its_exit_code_says_whether_the_profile_can_run(imagelab):
    code, out, _ = imagelab("doctor", "--json")
    report = json.loads(out)

    assert report["profile"] == "puppet"
    assert code == (0 if report["can_run"] else 1)


def test_doctor_of_a_profile_that_cant_run_says_so_with_exit_code_1(imagelab, monkeypatch, tmp_path):
    monkeypatch.setenv("IMAGELAB_MODELS", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    code, out, err = imagelab("doctor", "--profile", "sdxl")

    assert code == 1
    assert "Profile 'sdxl' can't run" in out
    assert err == ""


def test_help_imports_nothing_heavy():
    heavy = {"torch", "numpy", "pydantic", "nbformat", "yaml"}
    code = "import sys; from imagelab import cli; cli.app(['--help'], standalone_mode=False); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)

    assert heavy.isdisjoint(name.partition(".")[0] for name in done.stdout.splitlines()[-1].split())
