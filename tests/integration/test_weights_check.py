"""`imagelab integration` tries everything once with a profile's weights, or with a base of one's own."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from imagelab import (
    CharacterConsistencyChecker,
    CharacterGenerator,
    CharacterReferenceManager,
    GenerationRequest,
    InvalidValueError,
    ModelNotFoundError,
    cli,
)
from imagelab.config import Source
from imagelab.integration import check_profile, with_base

PUPPETS = Path(sys.modules["imagelab"].__file__).parent / "puppets/weights"
REQUEST = GenerationRequest(
    character="luca", scene_description="standing", quality_preset="draft", steps=2, width=64, height=64, seed=0
)


@pytest.fixture
def manager(configs, tmp_path):
    with CharacterConsistencyChecker(device="cpu", profile="puppet", configs=configs) as checker:
        yield CharacterReferenceManager(checker, store=tmp_path / "store")


def statuses(checks):
    return {check.name: check.status for check in checks}


def changed(configs, **changes):
    """Return configs whose puppet profile is changed."""
    puppet = configs.profile("puppet").model_copy(update=changes)
    return replace(configs, sdxl=configs.sdxl.model_copy(update={"profiles": {"puppet": puppet}}))


def test_base_of_ones_own_draws_as_the_same_weights_of_the_profile_do(configs, generator, tmp_path):
    shutil.copytree(PUPPETS / "base", tmp_path / "base")
    own = with_base(configs, "puppet", tmp_path / "base")

    with CharacterGenerator(profile="puppet", device="cpu", configs=own) as other:
        assert other.generate(REQUEST).image == generator.generate(REQUEST).image


def test_no_model_changes_nothing(configs):
    assert with_base(configs, "puppet", None) is configs


@pytest.mark.parametrize("name", ["nothing", "empty", "model.bin"])
def test_what_is_no_base_is_refused_with_what_one_is(configs, tmp_path, name):
    (tmp_path / "empty").mkdir()
    (tmp_path / "model.bin").touch()

    with pytest.raises(InvalidValueError, match=r"safetensors file, or a folder"):
        with_base(configs, "puppet", tmp_path / name)


def test_lora_that_isnt_there_is_left_out_with_the_place_where_it_is_missed(configs, manager, monkeypatch, tmp_path):
    monkeypatch.setenv("IMAGELAB_MODELS", str(tmp_path))
    without = changed(configs, loras=Source(folder="no-loras"))
    with CharacterGenerator(profile="puppet", device="cpu", configs=without) as generator:
        checks = check_profile(generator, manager, REQUEST)

    assert statuses(checks) == {"base": "ok", "LoRA": "left out", "character": "left out", "consistency": "left out"}
    assert "no-loras/luca.safetensors" in checks[1].detail


def test_character_without_scenes_is_left_out(configs, manager):
    plain = configs.character("luca").model_copy(update={"scenes": {}})
    characters = {**configs.character_presets.characters, "luca": plain}
    presets = configs.character_presets.model_copy(update={"characters": characters})
    with CharacterGenerator("puppet", "cpu", replace(configs, character_presets=presets)) as own:
        checks = check_profile(own, manager, REQUEST)

    assert (checks[2].status, "luca has no scenes" in checks[2].detail) == ("left out", True)


def test_base_that_isnt_there_is_an_error(configs, manager, monkeypatch, tmp_path):
    monkeypatch.setenv("IMAGELAB_MODELS", str(tmp_path))
    without = changed(configs, base=Source(folder="no-base"))

    generator = CharacterGenerator(profile="puppet", device="cpu", configs=without)
    with generator, pytest.raises(ModelNotFoundError, match="no-base"):
        check_profile(generator, manager, REQUEST)


def test_picture_without_a_face_fails_the_consistency_check_and_nothing_else(generator, manager):
    """At two steps a puppet is a blur."""
    checks = check_profile(generator, manager, REQUEST)

    assert statuses(checks) == {"base": "ok", "LoRA": "ok", "character": "ok", "consistency": "failed"}
    assert "no_face" in checks[3].detail


def test_lora_that_changes_nothing_fails(configs, manager, tmp_path, monkeypatch):
    monkeypatch.setenv("IMAGELAB_MODELS", str(tmp_path))
    (tmp_path / "still").mkdir()
    tensors = load_file(PUPPETS / "loras/luca.safetensors")
    still = {name: np.asarray(tensor * ("lora_up" not in name)) for name, tensor in tensors.items()}
    save_file(still, tmp_path / "still/luca.safetensors")
    with CharacterGenerator(
        profile="puppet", device="cpu", configs=changed(configs, loras=Source(folder="still"))
    ) as own:
        checks = check_profile(own, manager, REQUEST)

    assert checks[1].status == "failed"
    assert "changes nothing" in checks[1].detail


@pytest.mark.slow
def test_command_runs_the_notebook_with_a_model_and_its_exit_code_says_whether_all_went_well(
    monkeypatch, capsys, tmp_path
):
    shutil.copytree(PUPPETS / "base", tmp_path / "base")
    monkeypatch.setenv("IMAGELAB_ROOT", str(tmp_path))
    monkeypatch.setenv("IMAGELAB_CONFIGS", str(Path(__file__).parents[2] / "configs"))
    shutil.copytree(Path(__file__).parents[2] / "notebooks", tmp_path / "notebooks")
    arguments = ["integration", "--sdxl-model", str(tmp_path / "base"), "--profile", "puppet", "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", ["imagelab", *arguments])
    with pytest.raises(SystemExit) as left:
        cli.main()

    result = json.loads((tmp_path / "reports/runs/integration/result.json").read_text(encoding="utf-8"))
    assert left.value.code == 0
    assert result["parameters"]["sdxl_model"] == str(tmp_path / "base")
    assert set(result["summary"]["checks"].values()) == {"ok"}
    assert "consistency: ok, similarity" in capsys.readouterr().out
