"""What the explorer exports is taken as it is, by our own runner and by papermill, and draws the same picture."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imagelab.explorer.params_file import write_parameters
from imagelab.explorer.settings import default_settings

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
NAME = "10_generate_character"
RUNNERS = {
    "imagelab run": ["imagelab", "run", NAME, "--run-id", "exported", "--params", "params.yaml"],
    "papermill -f": ["papermill", "-k", "python3", "-f", "params.yaml", f"notebooks/{NAME}.ipynb", "executed.ipynb"],
}


@pytest.mark.parametrize("arguments", RUNNERS.values(), ids=RUNNERS)
def test_headless_run_of_the_exported_parameters_draws_the_picture(arguments, configs, generator, tmp_path):
    settings = default_settings(configs, generator.profile, "luca")
    settings = replace(settings, quality_preset="draft", seed=7, loras={"luca": 1.0, "beach": 0.5})
    write_parameters(tmp_path / "params.yaml", settings, configs, "puppet", "cpu")
    (tmp_path / "notebooks").symlink_to(ROOT / "notebooks")
    own = {"IMAGELAB_ROOT": str(tmp_path), "IMAGELAB_CONFIGS": str(ROOT / "configs")}
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        check=False,
        cwd=tmp_path,
        env=os.environ | own,
        capture_output=True,
        text=True,
    )
    pictures = [np.asarray(Image.open(file)) for file in (tmp_path / "reports").rglob("*.png")]
    wanted = generator.generate(settings.to_request(configs)).image

    assert done.returncode == 0, done.stderr[-2000:]
    assert any(np.array_equal(picture, wanted) for picture in pictures)
