"""The doctor finds what is wrong and says what to do about it."""

import json
import os
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file

from imagelab.config import load_configs
from imagelab.doctor import Check, Report, examine, weights
from imagelab.doctor.memory import check_memory
from imagelab.doctor.software import check_software
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


@pytest.fixture
def no_models(monkeypatch, tmp_path):
    """An empty model root and an empty hub cache."""
    monkeypatch.setenv("IMAGELAB_MODELS", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def test_puppet_profile_is_complete_with_hashes(puppet):
    for name in (
        "puppet: base model",
        "puppet: face pack puppet_face",
        "puppet: CLIP",
        "puppet: preview VAE",
        "puppet: LoRA luca",
    ):
        check = find(puppet, name)
        assert check.status == "ok", check
        assert all(len(sha256) == 64 for sha256 in check.hashes.values())
        assert check.hashes


def test_forbidden_packages_are_absent(puppet):
    assert find(puppet, "xformers").status == find(puppet, "mediapipe").status == "ok"


def test_two_builds_of_onnxruntime_are_a_problem(tmp_path, monkeypatch):
    for name in ("onnxruntime", "onnxruntime_gpu"):
        (tmp_path / f"{name}-1.30.dist-info").mkdir()
        (tmp_path / f"{name}-1.30.dist-info/METADATA").write_text(f"Name: {name}\nVersion: 1.30\n")
    monkeypatch.syspath_prepend(tmp_path)
    check = next(check for check in check_software() if check.name == "onnxruntime")

    assert check.status == "problem"
    assert "overwrite each other" in check.found
    assert "rm -rf .venv && make setup" in check.fix


def test_broken_and_forbidden_packages_are_problems_not_tracebacks(tmp_path):
    for name in ("torchvision", "cv2", "onnxruntime"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('operator does not exist')")
    (tmp_path / "xformers.py").touch()
    command = [sys.executable, "-m", "imagelab", "doctor", "--json"]
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=environment)
    problems = {check["name"] for check in json.loads(done.stdout)["checks"] if check["status"] == "problem"}

    assert {"torchvision", "cv2", "onnxruntime", "xformers"} <= problems
    assert "mediapipe" not in problems
    assert done.returncode == 1
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("vram_gib", "status", "fix"),
    [
        (0, "warning", "puppet"),
        (2, "problem", "more memory"),
        (4, "warning", "sequential_offload"),
        (9, "warning", 'Set policy to "text_encoder_offload" and vae_tiling to true in profiles.sdxl.memory'),
        (11, "warning", 'Set policy to "text_encoder_offload" in profiles.sdxl.memory'),
        (16, "ok", ""),
    ],
)
def test_graphics_card_is_compared_with_what_pictures_are_predicted_to_take(vram_gib, status, fix):
    (check,) = check_memory(load_configs().profile("sdxl"), vram_gib)

    assert check.status == status
    assert fix in check.fix
    if vram_gib:
        assert check.details["standard"] < check.details["standard, ControlNet"] < 12


def test_execution_providers_are_those_of_a_session(puppet):
    assert "CPUExecutionProvider" in find(puppet, "puppet: face models run on").details["providers"]


def test_faces_on_the_cpu_beside_a_gpu_are_a_warning():
    check = weights._face_providers(load_configs().profile("puppet"), vram_gib=16)

    assert check.status == ("ok" if "CUDAExecutionProvider" in check.details["providers"] else "warning")


def test_licence_of_each_lora_is_shown_and_the_file_that_it_names_is_there(puppet):
    for name in ("puppet: licence", "puppet: licence of puppet_face", "puppet: licence of LoRA luca"):
        (file,) = re.findall(r"\((\S+)\)", find(puppet, name).found)
        assert (ROOT / file).is_file()


@pytest.mark.usefixtures("no_models")
def test_models_of_other_profiles_are_notes_with_hashes_and_missing_ones_a_line():
    report = examine("sdxl")
    assert find(report, "puppet: base model").status == "note"
    assert find(report, "puppet: base model").hashes

    absent = find(examine("puppet"), "profile sdxl")
    assert absent.status == "note"
    assert "base model, VAE, preview VAE, face pack buffalo_l, CLIP, LoRA luca" in absent.found


@pytest.mark.usefixtures("no_models")
def test_licences_of_the_weights_are_shown_and_non_commercial_ones_stand_out():
    check = find(examine("sdxl"), "sdxl: licence of buffalo_l")

    assert check.status == "warning"
    assert check.details == {"non_commercial": True}
    assert "non-commercial" in check.found


@pytest.mark.usefixtures("no_models")
def test_encoders_are_listed_with_their_licences_and_none_of_them_has_to_be_there(puppet):
    assert find(puppet, "puppet: encoder clip_face").hashes
    assert find(puppet, "puppet: licence of encoder arcface").status == "note"

    report = examine("sdxl")
    assert find(report, "sdxl: encoder styleid").status == "note"
    assert "nothing at" in find(report, "sdxl: encoder styleid").found
    licence = find(report, "sdxl: licence of encoder styleid")
    assert (licence.status, licence.details) == ("warning", {"non_commercial": True})


def test_missing_model_is_a_problem_that_says_what_to_put_where(no_models):
    report = examine("sdxl")

    assert not report.can_run
    assert "hf download stabilityai/stable-diffusion-xl-base-1.0" in find(report, "sdxl: base model").fix
    assert str(no_models) in find(report, "sdxl: face pack buffalo_l").found
    assert "loras/luca_sdxl.safetensors" in find(report, "sdxl: LoRA luca").found


def save_sdxl_lora(path):
    """Write a LoRA whose cross-attention reads as many channels as SDXL's."""
    name = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k"
    save_file({f"{name}.lora_down.weight": torch.ones(4, 2048), f"{name}.lora_up.weight": torch.ones(640, 4)}, path)


def test_profile_needs_the_loras_and_the_references_of_one_character(no_models):
    assert find(examine("sdxl"), "sdxl: characters").status == "problem"

    shipped = ROOT / "imagelab/puppets/weights"
    shutil.copytree(shipped / "references/luca", no_models / "references/luca")
    assert find(examine("sdxl"), "sdxl: characters").status == "problem"

    (no_models / "loras").mkdir()
    shutil.copy(shipped / "loras/luca.safetensors", no_models / "loras/luca_sdxl.safetensors")
    lora = find(examine("sdxl"), "sdxl: LoRA luca")
    assert lora.status == "problem", "the doctor asks what the generator asks"
    assert "is for puppet, and not for SDXL" in lora.found

    save_sdxl_lora(no_models / "loras/luca_sdxl.safetensors")
    report = examine("sdxl")
    assert find(report, "sdxl: characters").found.startswith("luca:")
    assert find(report, "sdxl: references of alberto").status == "warning"


@pytest.mark.parametrize(
    ("spoil", "place"),
    [
        (lambda base: shutil.rmtree(base / "unet"), "unet"),
        (lambda base: shutil.rmtree(base / "tokenizer"), "tokenizer"),
        (lambda base: (base / "vae/config.json").unlink(), "vae/config.json"),
        (lambda base: (base / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}'), "SDXL"),
    ],
    ids=["no unet", "no tokenizer", "no config", "another pipeline"],
)
def test_base_model_that_the_generator_would_refuse_is_a_problem(configs_with, spoil, place):
    root = configs_with(base={"folder": "base"})
    shutil.copytree(ROOT / "imagelab/puppets/weights/base", root / "models/base")
    assert find(examine(), "puppet: base model").status == "ok"

    spoil(root / "models/base")
    check = find(examine(), "puppet: base model")
    assert check.status == "problem"
    assert place in check.found


@pytest.fixture
def controls_with(configs_with):
    """A copy of the configuration whose pose control takes its models from the models root, and copies of these."""

    def change(**preprocessor):
        root = configs_with()
        path = root / "controlnet_config.yaml"
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
        config["controls"]["pose"]["models"]["puppet"] = {"folder": "net"}
        config["controls"]["pose"]["preprocessors"]["puppet"] |= {"model": {"folder": "pose"}} | preprocessor
        path.write_text(yaml.safe_dump(config), encoding="utf-8")
        for name in ("controlnets/pose", "annotators/pose"):
            place = root / "models" / name.replace("controlnets/pose", "net").removeprefix("annotators/")
            shutil.copytree(ROOT / "imagelab/puppets/weights" / name, place)
        return root / "models"

    return change


WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda net: (net / WEIGHTS).unlink(), "holds no .safetensors weights"),
        (lambda net: (net / "config.json").unlink(), "config.json: isn't there"),
        (lambda net: (net / "config.json").write_text('{"_class_name": "AutoencoderKL"}'), "is of a AutoencoderKL"),
        (
            lambda net: shutil.copy(net / WEIGHTS, net / "diffusion_pytorch_model_promax.safetensors"),
            f"holds two ControlNets, {WEIGHTS} and diffusion_pytorch_model_promax.safetensors",
        ),
        (
            lambda net: (net / WEIGHTS).rename(net / "diffusion_pytorch_model_promax.safetensors"),
            "isn't looked for by that name",
        ),
    ],
    ids=["no weights", "no config", "another class", "two unions", "ProMax by its own name"],
)
def test_controlnet_that_the_generator_would_refuse_is_a_problem(controls_with, spoil, said):
    models = controls_with()
    assert find(examine(), "puppet: ControlNet pose").status == "ok"

    spoil(models / "net")
    check = find(examine(), "puppet: ControlNet pose")
    assert check.status == "problem"
    assert said in check.found
    assert check.fix


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda pose: (pose / "model.safetensors").unlink(), "holds no .safetensors weights"),
        (lambda pose: (pose / "config.json").unlink(), "config.json: isn't there"),
        (lambda pose: (pose / "preprocessor_config.json").unlink(), "preprocessor_config.json: isn't there"),
        (
            lambda pose: (pose / "config.json").write_text('{"architectures": ["DPTForDepthEstimation"]}'),
            "is of a DPTForDepthEstimation, not of a VitPoseForPoseEstimation",
        ),
        (
            lambda pose: (pose / "model_index.json").write_text('{"_class_name": "MarigoldNormalsPipeline"}'),
            "is of a MarigoldNormalsPipeline, which makes no maps as vitpose",
        ),
    ],
    ids=["no weights", "no config", "no processor", "another class", "a pipeline"],
)
def test_estimator_that_making_a_map_would_refuse_is_a_problem(controls_with, spoil, said):
    models = controls_with()
    assert find(examine(), "puppet: pose estimator").status == "ok"

    spoil(models / "pose")
    check = find(examine(), "puppet: pose estimator")
    assert check.status == "problem"
    assert said in check.found
    assert check.fix


def test_what_finds_people_must_be_a_detector_to_the_doctor_too(controls_with):
    controls_with(detector={"folder": "pose"})
    check = find(examine(), "puppet: person detector for pose")

    assert check.status == "problem"
    assert "not of a …ForObjectDetection" in check.found


def test_single_file_that_holds_no_sdxl_is_a_problem(configs_with):
    root = configs_with(base={"single_file": "base.safetensors"})
    (root / "models").mkdir()
    header = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    (root / "models/base.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    check = find(examine(), "puppet: base model")

    assert check.status == "problem"
    assert "isn't an SDXL checkpoint" in check.found


@pytest.mark.parametrize(
    "make", [Path.mkdir, lambda path: path.symlink_to("nowhere")], ids=["a folder", "a dangling link"]
)
def test_what_is_named_like_weights_but_is_no_file_is_a_problem(no_models, make):
    pack = no_models / "insightface/buffalo_l"
    pack.mkdir(parents=True)
    make(pack / "detector.onnx")
    check = find(examine("sdxl"), "sdxl: face pack buffalo_l")

    assert check.status == "problem"
    assert "detector.onnx" in check.found


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
    assert "IMAGELAB_CONFIGS" in find(report, "configuration").fix
    assert "Profile 'default' can't run" in report.to_text()


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
