"""What nbval compares must notice what users would: a copy of the project with one thing changed fails its notebook."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from safetensors.numpy import load_file, save_file

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
WEIGHTS = "imagelab/puppets/weights"
SDXL, CHARACTERS = "configs/sdxl_config.yaml", "configs/character_presets.yaml"
GENERATE, FILTER, GUIDE = "10_generate_character", "22_filter_batches", "12_guide_with_controlnet"


@dataclass(frozen=True)
class Regression:
    what: str
    notebook: str  # the quickest that shows it
    file: str
    old: str
    new: str


PLANTED = [
    Regression("steps of a preset", GENERATE, SDXL, "{steps: 6,", "{steps: 5,"),
    Regression("guidance", GENERATE, SDXL, "10, guidance_scale: 2.0", "10, guidance_scale: 2.5"),
    Regression("scheduler", GENERATE, SDXL, "2.0, scheduler: dpmpp_2m_karras", "2.0, scheduler: dpmpp_2m"),
    Regression("negative prompt", GENERATE, SDXL, "negative_prompt: none", "negative_prompt: default"),
    Regression("description of a character", GENERATE, CHARACTERS, "curly brown hair", "brown hair"),
    Regression(
        "order of a prompt", GENERATE, "imagelab/prompts.py", "*triggers, description, ", "description, *triggers, "
    ),
    Regression("weight of a LoRA", GENERATE, CHARACTERS, "luca, weight: 1.0", "luca, weight: 0.9"),
    Regression("seed of the noise", GENERATE, "imagelab/pipeline.py", "manual_seed(seed)", "manual_seed(seed + 1)"),
    Regression("threshold of batches", FILTER, CHARACTERS, "batch: 0.70", "batch: 0.80"),
    Regression("end of a control", GUIDE, "configs/controlnet_config.yaml", "end: 0.9", "end: 0.5"),
]


@pytest.fixture
def project(tmp_path):
    """Copy the project; what is large and stays as it is comes as a link."""
    for name in ("configs", "notebooks", "imagelab"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("weights", "__pycache__"))
    (tmp_path / WEIGHTS).symlink_to(ROOT / WEIGHTS)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def compared(project, notebook):
    """Compare a notebook of a project with its committed outputs, and return what nbval says that differs."""
    config = ROOT / "tests/notebooks/sanitize.cfg"
    nbval = ["--nbval", "--nbval-current-env", "--nbval-sanitize-with", str(config)]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *nbval, f"notebooks/{notebook}.ipynb"],
        cwd=project,
        env=os.environ | {"PYTHONPATH": str(project), "OMP_NUM_THREADS": "1", "IMAGELAB_ROOT": str(project)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in {0, 1}, done.stdout + done.stderr  # more is for runs that didn't get that far
    assert done.returncode == 0 or "Notebook cell execution failed" in done.stdout
    return [line for line in done.stdout.splitlines() if line.startswith("FAILED")]


@pytest.mark.parametrize("planted", PLANTED, ids=lambda planted: planted.what.replace(" ", "-"))
def test_changed_line_fails_its_notebook(project, planted):
    path = project / planted.file
    text = path.read_text(encoding="utf-8")
    assert planted.old in text
    path.write_text(text.replace(planted.old, planted.new), encoding="utf-8")

    assert compared(project, planted.notebook)


def test_changed_weight_fails_its_notebook(project):
    weights, loras = project / WEIGHTS, project / WEIGHTS / "loras"
    weights.unlink()
    weights.mkdir()
    for entry in (ROOT / WEIGHTS).iterdir():
        (weights / entry.name).symlink_to(entry)
    loras.unlink()
    shutil.copytree(ROOT / WEIGHTS / "loras", loras)
    tensors = load_file(loras / "luca.safetensors")
    name = max(name for name in tensors if "lora_up" in name or "lora_B" in name)
    save_file({**tensors, name: tensors[name] * 1.5}, loras / "luca.safetensors")

    assert compared(project, GENERATE)


def test_nothing_changed_fails_nothing(project):
    """Else whatever fails above might fail for being a copy."""
    assert compared(project, GENERATE) == []
