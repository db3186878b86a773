"""The doctor finds what is wrong and says what to do about it."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from imagelab.doctor import Check, Report, examine
from imagelab.errors import UnknownNameError

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def puppet():
    return examine("puppet")


def find(report, name):
    return next(check for check in report.checks if check.name == name)


@pytest.fixture
def configs_with(tmp_path, monkeypatch):
    """A copy of the configuration with profile puppet changed; the models root is an empty folder."""

    def change(**keys):
        for path in (ROOT / "configs").glob("*.yaml"):
            (tmp_path / path.name).write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
        path = tmp_path / "sdxl_config.yaml"
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
        config["profiles"]["puppet"] |= keys
        path.write_text(yaml.safe_dump(config), encoding="utf-8")
        monkeypatch.setenv("IMAGELAB_CONFIGS", str(tmp_path))
        monkeypatch.setenv("IMAGELAB_MODELS", str(tmp_path / "models"))
        return tmp_path

    return change


def test_puppet_profile_is_complete_with_hashes(puppet):
    for name in ("puppet: base model", "puppet: face pack puppet_face", "puppet: CLIP", "puppet: LoRA luca"):
        check = find(puppet, name)
        assert check.status == "ok", check
        assert all(len(sha256) == 64 for sha256 in check.hashes.values())
        assert check.hashes


def test_forbidden_packages_are_absent(puppet):
    assert find(puppet, "xformers").status == find(puppet, "mediapipe").status == "ok"


def test_execution_providers_are_those_of_a_session(puppet):
    assert "CPUExecutionProvider" in find(puppet, "puppet: face models run on").details["providers"]


def test_licences_of_the_weights_are_shown_and_non_commercial_ones_stand_out(monkeypatch, tmp_path):
    monkeypatch.setenv("IMAGELAB_MODELS", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    check = find(examine("sdxl"), "sdxl: licence of buffalo_l")

    assert check.status == "warning"
    assert check.details == {"non_commercial": True}
    assert "non-commercial" in check.found


def test_missing_model_is_a_problem_that_says_what_to_put_where(monkeypatch, tmp_path):
    monkeypatch.setenv("IMAGELAB_MODELS", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    report = examine("sdxl")

    assert not report.can_run
    assert "hf download stabilityai/stable-diffusion-xl-base-1.0" in find(report, "sdxl: base model").fix
    assert str(tmp_path) in find(report, "sdxl: face pack buffalo_l").found


def test_folder_without_a_model_index_is_no_base_model(configs_with):
    root = configs_with(base={"folder": "base"})
    (root / "models/base").mkdir(parents=True)
    (root / "models/base/readme.txt").touch()
    check = find(examine(), "puppet: base model")

    assert check.status == "problem"
    assert "model_index.json" in check.found


def test_truncated_weights_are_a_problem(configs_with):
    root = configs_with(base={"single_file": "base.safetensors"})
    (root / "models").mkdir()
    (root / "models/base.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{")
    check = find(examine(), "puppet: base model")

    assert check.status == "problem"
    assert "truncated" in check.found


def test_broken_configuration_is_one_problem_that_names_the_line(configs_with):
    root = configs_with()
    with (root / "lora_registry.yaml").open("a", encoding="utf-8") as file:
        file.write("nonsense: 1\n")
    report = examine()

    assert [check.name for check in report.problems if check.name == "configuration"] == ["configuration"]
    assert "nonsense" in find(report, "configuration").found


def test_unknown_profile_is_refused():
    with pytest.raises(UnknownNameError, match="did you mean 'puppet'"):
        examine("pupet")


@pytest.fixture
def report():
    checks = (
        Check(name="torch", status="ok", found="2.15"),
        Check(name="cv2", status="problem", found="twice", fix="remove one"),
    )
    return Report(profile="puppet", checks=checks)


def test_text_has_a_line_for_each_check_its_fix_and_the_verdict(report):
    assert (
        report.to_text()
        == "✓ torch  2.15\n✗ cv2    twice\n         → remove one\n\nProfile 'puppet' can't run: 1 problem."
    )


def test_frame_has_a_row_for_each_check(report):
    assert report.to_frame()["found"].tolist() == ["2.15", "twice"]


def test_importing_the_doctor_imports_no_torch():
    code = "import imagelab.doctor, sys; print('torch' in sys.modules, 'onnxruntime' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)

    assert done.stdout.split() == ["False", "False"]
