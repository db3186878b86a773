"""The panel's settings become requests and parameters, and come back from pictures."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random

import numpy as np
import pytest
import yaml
from PIL import Image
from records import make_records

from imagelab.controls import control_use
from imagelab.errors import ImageLabError, InvalidValueError
from imagelab.explorer.gallery import changes, difference, varied
from imagelab.explorer.params_file import write_parameters
from imagelab.explorer.preview import linear_rgb, preview
from imagelab.explorer.settings import Settings, default_settings, from_metadata
from imagelab.metadata import LoraMention, PictureMetadata
from imagelab.notebooks import find_notebook, read_parameters
from imagelab.notebooks.parameters import check_parameters
from imagelab.plan import plan_generation
from imagelab.results import LoraRecord


@pytest.fixture
def profile(configs):
    return configs.profile("puppet")


@pytest.fixture
def settings(configs, profile):
    return default_settings(configs, profile, "luca")


def planned_loras(configs, profile, settings):
    plan = plan_generation(configs, profile, settings.to_request(configs))
    return {lora.record.name: lora.record.weight for lora in plan.loras if lora.record.weight}


def test_settings_as_they_come_ask_for_what_the_character_has(configs, profile, settings):
    assert settings.to_request(configs).scene_description == settings.scene
    assert planned_loras(configs, profile, settings) == settings.loras == {"luca": 1.0}


@pytest.mark.parametrize("loras", [{}, {"luca": 0.5}, {"luca": 1.0, "beach": 0.8}, {"beach": -0.25}])
def test_exactly_the_loras_of_the_settings_act(configs, profile, settings, loras):
    assert planned_loras(configs, profile, replace(settings, loras=loras)) == loras


def test_settings_survive_being_written_and_read(settings):
    assert Settings.from_json(settings.to_json()) == settings


def test_exported_parameters_are_accepted_by_the_notebook_and_say_the_same(configs, settings, tmp_path):
    picture = Image.new("RGB", (32, 32), "red")
    control = control_use(image=picture, place="control", type="canny", scale=0.5)
    wanted = replace(settings, style="warm_summer" if "warm_summer" in configs.sdxl.styles else None, control=control)
    path = write_parameters(tmp_path / "params.yaml", wanted, configs, "puppet", "cpu")
    given = yaml.safe_load(path.read_text(encoding="utf-8"))
    name = "10_generate_character"

    assert check_parameters(name, read_parameters(find_notebook(name)), given) == given
    assert (given["character"], given["seed"], given["presets"]) == ("luca", 42, ["standard"])
    assert (given["control_type"], given["controlnet_scale"]) == ("canny", 0.5)
    assert Image.open(given["control_image"]).getpixel((0, 0)) == (255, 0, 0)


def test_settings_come_from_another_programs_picture_and_the_rest_is_named(configs, profile, settings):
    loras = (LoraMention(name="beach", weight=0.7), LoraMention(name="some_style"))
    metadata = PictureMetadata(writer="a1111", prompt="at sea", seed=7, size=(512, 512), loras=loras)
    found, left_out = from_metadata(metadata, settings, configs, profile)

    assert (found.scene, found.seed, found.width) == ("at sea", 7, settings.width)
    assert found.loras == {"luca": 1.0, "beach": 0.7}
    assert left_out == ("its size, 512×512", "LoRA some_style, which isn't registered")


def test_picture_that_says_nothing_is_refused(configs, profile, settings):
    with pytest.raises(InvalidValueError, match="says nothing of its making"):
        from_metadata(PictureMetadata(), settings, configs, profile)


def test_flat_latents_are_flat_and_brighter_where_the_first_channel_is_larger():
    dark, bright = (linear_rgb(np.stack([np.full((2, 3), first), *np.zeros((3, 2, 3))])) for first in (-1.0, 1.0))

    assert dark.shape == (2, 3, 3)
    assert (np.ptp(dark, axis=(0, 1)) == 0).all()
    assert (bright > dark).all()


def test_large_latents_are_shown_a_pixel_a_cell_without_a_vae():
    import torch

    assert preview(torch.zeros(1, 4, 128, 96), vae=None).size == (96, 128)


def test_varied_settings_differ_in_that_parameter_alone(configs, profile, settings):
    assert changes(settings, varied(settings, "seed", "7", configs, profile)) == ["seed: 42 → 7"]
    assert varied(settings, "LoRA beach", "0.5", configs, profile).loras == {"luca": 1.0, "beach": 0.5}
    assert varied(settings, "quality", "draft", configs, profile).quality_preset == "draft"


@pytest.mark.parametrize(
    ("parameter", "text"),
    [("seed", "1.5"), ("LoRA beach", "3"), ("control scale", "1"), ("quality", "hihg"), ("style", "wrm")],
)
def test_value_that_a_parameter_cannot_have_is_refused(configs, profile, settings, parameter, text):
    with pytest.raises(ImageLabError):
        varied(settings, parameter, text, configs, profile)


def test_lora_and_control_are_compared_by_their_names(settings):
    control = control_use(image=Image.new("RGB", (32, 32)), place="control", type="canny", scale=0.5)
    other = replace(settings, loras={"luca": 0.5, "beach": 1.0}, control=control, style="warm_summer")

    assert changes(settings, other) == [
        "style: none → warm_summer",
        "LoRA luca: 1.0 → 0.5",
        "control: none → canny",
        "control scale: none → 0.5",
        "LoRA beach: 0.0 → 1.0",
    ]


def test_tag_that_is_typed_stands_in_place_of_its_slider(configs, profile, settings):
    typed = replace(settings, scene="at sea <lora:beach:0.3>", loras={"luca": 1.0, "beach": 0.8})
    assert planned_loras(configs, profile, typed) == {"luca": 1.0, "beach": 0.3}


def test_lora_tags_of_another_programs_prompt_become_weights_or_are_named(configs, profile, settings):
    loras = (LoraMention(name="beach", weight=0.7), LoraMention(name="ghost"))
    prompt = "at sea, <lora:beach:0.7>, <lora:ghost:1:2:3>"
    metadata = PictureMetadata(writer="a1111", prompt=prompt, seed=2**64 - 1, loras=loras)
    found, left_out = from_metadata(metadata, settings, configs, profile)

    assert (found.scene, found.seed) == ("at sea", settings.seed)
    assert planned_loras(configs, profile, found) == {"luca": 1.0, "beach": 0.7}
    assert left_out == (f"its seed, {2**64 - 1}", "LoRA ghost, which isn't registered")


def test_what_a_picture_of_ours_has_and_the_panel_has_not_is_named_and_left_as_it_is(configs, profile, settings):
    (record, *_) = make_records(["luca"], Random(1))
    lora = LoraRecord(name="ghost", weight=1.0, text_encoder_weight=1.0, sha256="0" * 64)
    strange = replace(
        record,
        profile="puppet",
        character="luca",
        scene_description=settings.scene,
        style="gone",
        quality_preset="lcm_8",
        negative_prompt="",
        seed=2**60,
        width=1024,
        height=1024,
        loras=(lora,),
        controls=(),
        guidance_start=0.0,
        guidance_stop=1.0,
    )
    found, left_out = from_metadata(PictureMetadata(record=strange), settings, configs, profile)

    assert found == replace(settings, loras={})
    assert left_out == (
        "its style, gone, which isn't configured",
        "its preset, lcm_8",
        "its size, 1024×1024",
        f"its seed, {2**60}",
        "LoRA ghost, which isn't registered",
    )


def test_export_replaces_only_what_was_exported(configs, settings, tmp_path, monkeypatch):
    write = partial(write_parameters, settings=settings, configs=configs, profile="puppet", device="cpu")
    (tmp_path / "mine.yaml").write_text("a: 1\n")
    for path, wanted in (
        (tmp_path / "mine.yaml", "exported before"),
        (tmp_path / "history.json", "ends in .yaml or .yml"),
        (Path(), "ends in .yaml or .yml"),
    ):
        with pytest.raises(InvalidValueError, match=wanted):
            write(path)
    assert (tmp_path / "mine.yaml").read_text() == "a: 1\n"
    assert write(tmp_path / "own.yaml") == write(tmp_path / "own.yaml")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert write(Path("~/own.yml")) == tmp_path / "home/own.yml"


def test_difference_is_black_where_pictures_agree_and_white_where_they_differ_most():
    one, other = (Image.new("RGB", (4, 4)) for _ in range(2))
    other.putpixel((1, 2), (90, 90, 90))
    apart, mean = difference(one, other)

    assert apart.getpixel((1, 2)) == (255, 255, 255)
    assert apart.getpixel((0, 0)) == (0, 0, 0)
    assert mean == pytest.approx(90 / 16)


def test_nothing_is_left_of_an_export_that_failed(configs, settings, tmp_path):
    gone = control_use(image=tmp_path / "gone.png", place="control", type="pose")

    with pytest.raises(Exception, match="doesn't exist"):
        write_parameters(tmp_path / "params.yaml", replace(settings, control=gone), configs, "puppet", "cpu")
    assert list(Path(tmp_path).iterdir()) == []
