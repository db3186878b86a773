"""Bad input: one clear error of ours that names the value; nothing is written, and nothing is lost."""

import shutil

import pytest

from imagelab import (
    CharacterGenerator,
    ConfigError,
    GenerationRequest,
    ImageFileError,
    ImageLabError,
    InvalidValueError,
    ModelFileError,
    ModelNotFoundError,
    UnknownNameError,
    load_configs,
)
from imagelab.cli import main
from imagelab.config import Source
from imagelab.models import resolve_source

BAD_ARGUMENTS = {
    "unknown character": (UnknownNameError, {"character": "lucca"}, ("character", "lucca", "did you mean 'luca'")),
    "character that is no text": (UnknownNameError, {"character": 5}, ("character", "5")),
    "unknown preset": (UnknownNameError, {"quality_preset": "hihg"}, ("preset", "hihg", "did you mean 'high'")),
    "unknown style": (UnknownNameError, {"style": "pixer"}, ("style", "pixer", "did you mean 'pixar'")),
    "unknown LoRA": (
        UnknownNameError,
        {"additional_loras": [{"name": "albert", "weight": 0.7}]},
        ("LoRA", "albert", "did you mean 'alberto'"),
    ),
    "LoRA of an absurd weight": (
        InvalidValueError,
        {"additional_loras": [{"name": "luca", "weight": 70}]},
        ("weight", "70", "between -2 and 2"),
    ),
    "LoRA weight as text": (
        InvalidValueError,
        {"additional_loras": [{"name": "luca", "weight": "0.7"}]},
        ("weight", "'0.7'"),
    ),
    "LoRA with a key too many": (
        UnknownNameError,
        {"additional_loras": [{"name": "luca", "wieght": 0.7}]},
        ("wieght",),
    ),
    "unknown preset of block weights": (
        UnknownNameError,
        {"additional_loras": [{"name": "luca", "blocks": "OUTX"}]},
        ("preset of block weights", "OUTX", "did you mean 'OUT"),
    ),
    "LoRA from step 10 on": (
        InvalidValueError,
        {"additional_loras": [{"name": "luca", "start": 10}]},
        ("start", "between 0 and 1", "10"),
    ),
    "unknown LoRA in a tag": (
        UnknownNameError,
        {"scene_description": "waving <lora:albert:0.7>"},
        ("LoRA", "albert", "did you mean 'alberto'"),
    ),
    "malformed LoRA tag": (InvalidValueError, {"scene_description": "<lora:luca:big>"}, ("<lora:luca:big>", "unet")),
    "LoRA twice": (InvalidValueError, {"additional_loras": [{"name": "luca"}, {"name": "luca"}]}, ("luca", "once")),
    "LoRA as text": (InvalidValueError, {"additional_loras": "luca"}, ("additional_loras", "luca")),
    "width 100": (InvalidValueError, {"width": 100}, ("width", "100", "multiple of 8")),
    "width 0": (InvalidValueError, {"width": 0}, ("width", "0")),
    "height 512": (InvalidValueError, {"height": 512}, ("height", "512", "256")),
    "height 128.0": (InvalidValueError, {"height": 128.0}, ("height", "128.0")),
    "seed x": (InvalidValueError, {"seed": "x"}, ("seed", "'x'", "whole number")),
    "seed 1.5": (InvalidValueError, {"seed": 1.5}, ("seed", "1.5")),
    **{
        f"{name} {value!r}": (InvalidValueError, {name: value}, (name, repr(value)))
        for name in ("width", "height")
        for value in (65, 7, 10**6, "128", float("nan"), True)
    },
    **{
        f"seed {value!r}": (InvalidValueError, {"seed": value}, ("seed", repr(value), "whole number"))
        for value in (2**64, "42", float("nan"), float("inf"), [1], b"1")
    },
    "seed -1": (InvalidValueError, {"seed": -1}, ("seed", "-1")),
    "seed 2**63": (InvalidValueError, {"seed": 2**63}, ("seed", str(2**63))),
    "seed True": (InvalidValueError, {"seed": True}, ("seed", "True")),
    "scene that is no text": (InvalidValueError, {"scene_description": 5}, ("scene_description", "5")),
    "scene with a NUL": (InvalidValueError, {"scene_description": "a\0b"}, ("scene_description", "\\x00")),
    "scene with half a letter": (InvalidValueError, {"scene_description": "a\ud800b"}, ("scene_description", "ud800")),
    "endless scene": (InvalidValueError, {"scene_description": "a " * 10_000}, ("scene_description", "8000")),
    "negative prompt that is no text": (InvalidValueError, {"negative_prompt": 5}, ("negative_prompt", "5")),
    "no control image": (InvalidValueError, {"use_controlnet": True, "control_type": "pose"}, ("control_image",)),
    "missing control image": (
        ImageFileError,
        {"use_controlnet": True, "control_type": "pose", "control_image": "no/such/pose.png"},
        ("pose.png", "doesn't exist"),
    ),
    "unknown control type": (
        UnknownNameError,
        {"use_controlnet": True, "control_type": "posee", "control_image": "pose.png"},
        ("control type", "posee", "did you mean 'pose'"),
    ),
    "control image without ControlNet": (InvalidValueError, {"control_image": "pose.png"}, ("use_controlnet",)),
    "control type without ControlNet": (
        InvalidValueError,
        {"control_type": "pose"},
        ("use_controlnet", "control_type"),
    ),
    "scale without ControlNet": (InvalidValueError, {"controlnet_scale": 0.5}, ("use_controlnet", "controlnet_scale")),
    "use_controlnet that is no flag": (InvalidValueError, {"use_controlnet": "yes"}, ("use_controlnet", "'yes'")),
    "controlnet_scale out of range": (
        InvalidValueError,
        {"use_controlnet": True, "control_type": "pose", "control_image": "pose.png", "controlnet_scale": 3},
        ("controlnet_scale", "3", "between 0 and 2"),
    ),
    "controls that are no list": (InvalidValueError, {"controls": {"type": "pose"}}, ("controls", "a list like")),
    "a control without an image": (InvalidValueError, {"controls": [{"type": "pose"}]}, ("controls[0]", "image")),
    "a control that is text": (InvalidValueError, {"controls": ["pose"]}, ("controls[0]", "'pose'")),
    "a control's unknown field": (
        UnknownNameError,
        {"controls": [{"type": "pose", "image": "pose.png", "scael": 1}]},
        ("controls[0]", "scael", "did you mean 'scale'"),
    ),
    "a control's image that is no path": (
        InvalidValueError,
        {"controls": [{"type": "pose", "image": 7}]},
        ("controls[0].image", "7"),
    ),
    **{
        f"a control's {field} {value}": (error, {"controls": [{"type": "pose", "image": "x.png", field: value}]}, words)
        for field, value, error, words in (
            ("scale", 2.5, InvalidValueError, ("controls[0].scale", "between 0 and 2", "2.5")),
            ("scale", float("nan"), InvalidValueError, ("controls[0].scale", "nan")),
            ("scale", "1", InvalidValueError, ("controls[0].scale", "'1'")),
            ("start", -0.1, InvalidValueError, ("controls[0].start", "-0.1")),
            ("start", 1.0, InvalidValueError, ("controls[0].start", "below its end")),
            ("end", 1.5, InvalidValueError, ("controls[0].end", "1.5")),
            ("end", True, InvalidValueError, ("controls[0].end", "True")),
            ("resize", "cropp", UnknownNameError, ("controls[0].resize", "cropp", "did you mean 'crop'")),
            ("model", "unoin", UnknownNameError, ("controls[0].model", "unoin", "did you mean 'union'")),
            ("is_map", "yes", InvalidValueError, ("controls[0].is_map", "'yes'")),
            ("type", "depht", UnknownNameError, ("control type", "depht", "did you mean 'depth'")),
            ("type", None, UnknownNameError, ("control type", "None")),
        )
    },
    "a control's type with a slash": (
        UnknownNameError,
        {"use_controlnet": True, "control_type": "a/b", "control_image": "x.png"},
        ("control type", "a/b"),
    ),
    "too many controls": (
        InvalidValueError,
        {"controls": [{"type": "pose", "image": "pose.png"}] * 9},
        ("controls", "9 of them", "at most 8"),
    ),
    "GIF as output": (InvalidValueError, {"output_path": "luca.gif"}, ("output_path", "luca.gif", ".png")),
}


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A folder with a file that must survive."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "luca.png").write_bytes(b"an earlier picture")
    yield tmp_path
    assert (tmp_path / "luca.png").read_bytes() == b"an earlier picture"


def check(refusal, error, words):
    assert type(refusal.value) is error
    assert isinstance(refusal.value, ImageLabError)
    for word in words:
        assert word in str(refusal.value)


@pytest.mark.parametrize("case", BAD_ARGUMENTS)
def test_a_bad_argument_is_refused_by_value_before_anything_is_loaded_or_written(workplace, configs, case):
    error, change, words = BAD_ARGUMENTS[case]
    good = {"character": "luca", "scene_description": "on the beach", "output_path": "luca.png", "seed": 1}
    with CharacterGenerator("puppet", "cpu", configs) as generator:
        with pytest.raises(error) as refusal:
            generator.generate_character(**(good | change))
        assert not generator.is_loaded
    check(refusal, error, words)
    assert [path.name for path in workplace.iterdir()] == ["luca.png"]


BAD_NUMBERS = {
    "steps 0": ({"steps": 0}, ("steps", "0", "between 1 and 150")),
    "steps -1": ({"steps": -1}, ("steps", "-1")),
    "steps 1e9": ({"steps": 10**9}, ("steps", "1000000000", "between 1 and 150")),
    "steps 1e9 as a float": ({"steps": 1e9}, ("steps", "1000000000.0")),
    "steps True": ({"steps": True}, ("steps", "True")),
    "guidance 1e9": ({"guidance_scale": 1e9}, ("guidance_scale", "1000000000.0", "between 0 and 30")),
    "guidance as text": ({"guidance_scale": "4"}, ("guidance_scale", "'4'")),
    "guidance True": ({"guidance_scale": True}, ("guidance_scale", "True")),
    "steps 2.5": ({"steps": 2.5}, ("steps", "2.5")),
    "steps as text": ({"steps": "30"}, ("steps", "'30'")),
    "guidance NaN": ({"guidance_scale": float("nan")}, ("guidance_scale", "nan")),
    "guidance infinite": ({"guidance_scale": float("inf")}, ("guidance_scale", "inf")),
    "guidance -1": ({"guidance_scale": -1.0}, ("guidance_scale", "-1")),
}


@pytest.mark.parametrize("case", BAD_NUMBERS)
def test_a_bad_number_in_a_request_is_refused(configs, case):
    change, words = BAD_NUMBERS[case]
    with CharacterGenerator("puppet", "cpu", configs) as generator:
        with pytest.raises(InvalidValueError) as refusal:
            generator.generate(GenerationRequest(character="luca", **change))
        assert not generator.is_loaded
    check(refusal, InvalidValueError, words)


@pytest.mark.parametrize("seeds", [(), range(65), range(10**12), 7, None, "123", [1, -1], [1, 2.5], [True], [2**63]])
def test_seeds_that_cannot_be_drawn_together_are_refused(configs, seeds):
    """Matrix F8: none, too many, and what are no seeds."""
    with CharacterGenerator("puppet", "cpu", configs) as generator:
        with pytest.raises(InvalidValueError, match="seeds"):
            generator.generate_together(GenerationRequest(character="luca"), seeds)
        assert not generator.is_loaded


BAD_OPTIONS = {
    "--num-images": ("0", "-1", "10001"),
    "--seed": ("-1", str(2**63), str(2**64)),
    "--steps": ("0", "-1", "1000000000"),
    "--guidance-scale": ("nan", "-1", "inf"),
    "--width": ("0", "7", "65", "1000000"),
    "--height": ("0", "7", "65", "1000000"),
    "--threshold": ("nan", "inf"),
    "--batch-size": ("0", "65"),
    "--workers": ("0", "-1"),
}


@pytest.mark.parametrize("option", BAD_OPTIONS)
def test_a_bad_number_in_the_command_ends_it_with_2_and_leaves_nothing(option, tmp_path, monkeypatch, capsys):
    """Matrix F8: each by the name that Python gives it."""
    for value in BAD_OPTIONS[option]:
        command = ["batch", "--character", "luca", "--scene", "on the beach", "--profile", "puppet", "--device", "cpu"]
        monkeypatch.setattr("sys.argv", ["imagelab", *command, "--output-dir", str(tmp_path / "run"), option, value])
        with pytest.raises(SystemExit) as end:
            main()
        said = capsys.readouterr().err
        assert end.value.code == 2, said
        assert option.removeprefix("--").replace("-", "_") in said
        assert value.removesuffix(".0") in said
        assert "Traceback" not in said
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def own_configs(configs, tmp_path):
    """A copy of the configuration that a test may edit."""
    shutil.copytree(configs.root, tmp_path / "configs")
    return tmp_path / "configs"


def edit(folder, old, new):
    path = folder / "sdxl_config.yaml"
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def test_steps_0_in_a_preset_is_refused_with_file_and_key(own_configs):
    edit(own_configs, "steps: 6,", "steps: 0,")
    with pytest.raises(ConfigError) as refusal:
        load_configs(own_configs)
    check(refusal, ConfigError, ("sdxl_config.yaml", "profiles.puppet.quality_presets.draft.steps", "0"))


def test_broken_yaml_is_refused_with_file_and_line(own_configs, monkeypatch):
    edit(own_configs, "profiles:\n", "profiles: [\n")
    monkeypatch.setenv("IMAGELAB_CONFIGS", str(own_configs))
    with pytest.raises(ConfigError) as refusal:
        CharacterGenerator("puppet")
    check(refusal, ConfigError, ("sdxl_config.yaml", "line"))


@pytest.fixture
def own_models(configs, tmp_path, monkeypatch):
    """A profile whose base model and LoRAs lie in a folder that a test may damage."""
    models = tmp_path / "models"
    profile = configs.profile("puppet")
    shutil.copytree(resolve_source(profile.base), models / "base")
    shutil.copytree(resolve_source(profile.loras), models / "loras")
    monkeypatch.setenv("IMAGELAB_MODELS", str(models))
    own = profile.model_copy(update={"base": Source(folder="base"), "loras": Source(folder="loras")})
    return models, configs.with_profile(own)


def refuse_to_draw(configs, error, words):
    with CharacterGenerator("puppet", "cpu", configs) as generator:
        with pytest.raises(error) as refusal:
            generator.generate_character("luca", "on the beach", output_path="luca.png")
        check(refusal, error, words)
        return generator.is_loaded


@pytest.mark.usefixtures("workplace")
@pytest.mark.parametrize("what", ["base", "loras"])
def test_a_missing_model_folder_is_refused_with_its_place(own_models, what):
    models, configs = own_models
    shutil.rmtree(models / what)
    assert not refuse_to_draw(configs, ModelNotFoundError, (str(models / what), "puppet"))


@pytest.mark.usefixtures("workplace")
def test_a_missing_lora_file_is_refused_before_anything_is_loaded(own_models):
    models, configs = own_models
    (models / "loras" / "luca.safetensors").unlink()
    assert not refuse_to_draw(configs, ModelNotFoundError, ("LoRA 'luca'", str(models / "loras")))


@pytest.mark.usefixtures("workplace")
@pytest.mark.parametrize("name", ["base/unet/diffusion_pytorch_model.safetensors", "loras/luca.safetensors"])
def test_a_truncated_safetensors_file_is_refused(own_models, name):
    models, configs = own_models
    path = models / name
    path.write_bytes(path.read_bytes()[:-10])
    assert not refuse_to_draw(configs, ModelFileError, (str(path), "truncated"))


def test_a_text_file_named_png_is_no_control_image(workplace, configs):
    (workplace / "pose.png").write_text("not a picture")
    with CharacterGenerator("puppet", "cpu", configs) as generator, pytest.raises(ImageFileError) as refusal:
        generator.generate_character(
            "luca", use_controlnet=True, control_type="pose", control_image="pose.png", output_path="luca.png"
        )
    check(refusal, ImageFileError, ("pose.png", "isn't a PNG"))
    assert (workplace / "pose.png").read_text() == "not a picture"


@pytest.mark.usefixtures("workplace")
def test_an_output_folder_that_is_a_file_is_refused(configs):
    with CharacterGenerator("puppet", "cpu", configs) as generator, pytest.raises(InvalidValueError) as refusal:
        generator.generate_character("luca", output_path="luca.png/new.png")
    check(refusal, InvalidValueError, ("output_path", "luca.png"))
