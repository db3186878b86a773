"""The usage examples of the public API, as a user would type them."""

import pytest
from handmade_controls import save_annotators, save_nets, with_controls
from PIL import Image

from imagelab import CharacterGenerator, GenerationRequest
from imagelab.imagefiles import read_record


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch, configs):
    # Relative paths, as in the examples; the configuration is still this project's.
    monkeypatch.setenv("IMAGELAB_CONFIGS", str(configs.root))
    monkeypatch.chdir(tmp_path)


def test_basic_character_generation(tmp_path):
    generator = CharacterGenerator()

    image = generator.generate_character(
        character="luca",
        scene_description="running on the beach, excited expression",
        quality_preset="high",
        seed=42,
        output_path="outputs/luca_beach.png",
    )

    generator.cleanup()

    assert image.size == (128, 128)
    record = read_record(tmp_path / "outputs" / "luca_beach.png")
    assert (record.seed, record.quality_preset, record.character) == (42, "high", "luca")


def test_multi_lora_generation(generator):
    image = generator.generate_character(
        character="luca",
        scene_description="standing in the town square",
        additional_loras=[{"name": "alberto", "weight": 0.7}, {"name": "luca", "weight": 0.5}],
        quality_preset="ultra",
        seed=123,
    )

    assert image.size == (128, 128)


def test_everything_that_can_be_asked_for(tmp_path):
    with CharacterGenerator(profile="puppet", device="auto") as generator:
        image = generator.generate_character(
            character="luca", scene_description="running on the beach, excited expression",
            quality_preset="high", style=None, seed=42, negative_prompt=None, width=None, height=None,
            additional_loras=[{"name": "alberto", "weight": 0.7}],
            use_controlnet=False, control_type=None, control_image=None, controlnet_scale=None,
            output_path="outputs/luca.png")  # fmt: skip
        request = GenerationRequest(character="luca", scene_description="waving at night", quality_preset="draft")
        generation = generator.generate(request)

    assert (tmp_path / "outputs" / "luca.png").is_file()
    assert isinstance(image, Image.Image)
    assert generation.image.size == image.size
    assert generation.record.scene_description == "waving at night"


def test_controlnet_guided_generation(configs, generator, luca_image, tmp_path, monkeypatch):
    luca_image.save("reference_pose.jpg")
    monkeypatch.setenv("IMAGELAB_MODELS", str(tmp_path / "models"))
    save_nets(tmp_path / "models" / "controlnets", generator.pipeline.unet)
    save_annotators(tmp_path / "models" / "annotators")
    sure_of_nothing = {"pose": {"threshold": 0.0}}

    with CharacterGenerator(configs=with_controls(configs, params=sure_of_nothing)) as guided:
        image = guided.generate_character(
            character="luca",
            scene_description="dynamic running pose",
            use_controlnet=True,
            control_type="pose",
            control_image="reference_pose.jpg",
            controlnet_scale=0.9,
            output_path="running.png",
        )

    with Image.open("running.control-0-pose.png") as control_map:
        assert image.size == control_map.size == (128, 128)
