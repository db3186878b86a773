"""Presets of few steps: LoRA, scheduler, guidance and steps go together, and what doesn't is refused."""

import numpy as np
import pytest
import torch

from imagelab import GenerationRequest, InvalidValueError
from imagelab.config.base import name_entries
from imagelab.config.sdxl import QualityPreset
from imagelab.encoding import encode_prompt
from imagelab.loading import load_pipeline
from imagelab.pipeline import draw
from imagelab.plan import plan_generation
from imagelab.prompts import Prompt
from imagelab.puppets.measures.studio import held_out_scene
from imagelab.puppets.world import full_caption
from imagelab.results import LoraUse

FEW = {
    ("puppet", "lcm_4"): "lcm",
    ("sdxl", "lcm_8"): "lcm",
    ("sdxl", "lightning_4"): "euler_trailing",
    ("sdxl", "lightning_8"): "euler_trailing",
    ("sdxl", "hyper_8"): "tcd",
}
SCENES = 4
DISTILLED = {"steps": 4, "guidance_scale": 1.0, "max_guidance_scale": 1.0, "scheduler": "euler_trailing"}


@pytest.fixture(scope="module")
def profile(configs):
    """The puppets with a preset that can't do without a LoRA of theirs; none of those makes few steps enough."""
    puppet = configs.profile("puppet")
    few = {**DISTILLED, "size": "square", "loras": [{"name": "pixar_3d", "weight": 0.9}]}
    presets = name_entries({**puppet.quality_presets, "few": QualityPreset.model_validate(few)})
    return puppet.model_copy(update={"quality_presets": presets})


@pytest.fixture
def plan(configs, profile):
    def plan(preset="few", **asked):
        return plan_generation(configs, profile, GenerationRequest(character="luca", quality_preset=preset, **asked))

    return plan


def test_a_preset_brings_its_loras(plan):
    weights = {lora.record.name: lora.record.weight for lora in plan().loras}
    assert weights == {"luca": 1.0, "pixar_3d": 0.9}
    assert [lora.record.name for lora in plan("draft").loras] == ["luca"]


@pytest.mark.parametrize("weight", [0, 0.5])
def test_a_lora_that_a_preset_cannot_do_without_is_left_as_it_is(plan, weight):
    with pytest.raises(InvalidValueError, match=r"LoRA pixar_3d .*few can't do without it"):
        plan(additional_loras=(LoraUse(name="pixar_3d", weight=weight),))


def test_what_a_record_says_can_be_asked_for_again(plan):
    records = [lora.record for lora in plan().loras]
    again = plan(use_character_loras=False, additional_loras=tuple(record.to_use() for record in records))
    assert [lora.record for lora in again.loras] == records


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"guidance_scale": 7}, "guidance_scale must be at most 1 with quality preset few, got 7"),
        ({"scheduler": "euler"}, "scheduler must be euler_trailing, for which the LoRAs of quality preset few"),
        ({"preset": "draft", "scheduler": "lcm", "guidance_scale": 7}, "at most 2 with scheduler lcm, got 7"),
        ({"preset": "draft", "scheduler": "tcd", "steps": 60}, "steps must be at most 50 with scheduler tcd, got 60"),
    ],
)
def test_what_makes_no_picture_is_refused_with_the_value_and_what_would(plan, asked, says):
    with pytest.raises(InvalidValueError) as caught:
        plan(**asked)
    assert says in str(caught.value)


@pytest.mark.parametrize(("profile_name", "name"), FEW)
def test_presets_of_few_steps_name_a_lora_for_speed_and_the_scheduler_that_it_was_made_for(configs, profile_name, name):
    preset = configs.preset(profile_name, name)
    (choice,) = preset.loras
    assert configs.lora(choice.name).kind == "speed"
    assert profile_name in configs.lora(choice.name).files
    assert preset.scheduler == FEW[profile_name, name]
    assert preset.steps <= 8
    assert preset.guidance_scale <= preset.max_guidance_scale <= 2


@pytest.fixture(scope="module")
def loaded(configs):
    return load_pipeline(configs.profile("puppet"), "cpu")


@pytest.mark.parametrize("name", ["lcm", "tcd", "euler_trailing"])
def test_a_scheduler_for_few_steps_draws_each_seed_the_same_alone_and_beside_others(configs, loaded, name):
    embeddings = encode_prompt(loaded.pipe, Prompt(positive="luca on the beach", negative=""))
    given = {"width": 64, "height": 64, "steps": 4, "guidance_scale": 1.0}
    timesteps = []

    def look(step, _, latents):
        timesteps.append((step, torch.linalg.vector_norm(latents).item()))

    scheduler = configs.scheduler(name)
    both = draw(loaded, embeddings, scheduler, seeds=[1, 2], on_step=look, **given)
    alone = draw(loaded, embeddings, scheduler, seeds=[2], **given)[0]
    assert [step for step, _ in timesteps] == [1, 2, 3, 4]
    assert np.abs(np.asarray(alone, np.int16) - np.asarray(both[1], np.int16)).max() <= 1
    assert both[0].tobytes() != both[1].tobytes()
    assert loaded.pipe.scheduler.timesteps[0] >= 979, "few steps begin at the noisiest one"


def test_two_distilled_steps_come_nearer_to_many_guided_ones_than_two_of_the_base(generator):
    def picture(number, **asked):
        scene = full_caption(held_out_scene(40_000 + number))
        request = GenerationRequest(character=None, scene_description=scene, seed=number, **asked)
        return np.asarray(generator.generate(request).image, np.float64)

    ways = {
        "distilled": {"quality_preset": "lcm_4", "steps": 2},
        "base": {"quality_preset": "draft", "scheduler": "lcm", "guidance_scale": 1.0, "steps": 2},
    }
    off = dict.fromkeys(ways, 0.0)  # grey levels
    for number in range(SCENES):
        many = picture(number, scheduler="ddim", steps=25)
        for way, asked in ways.items():
            off[way] += np.sqrt(np.square(picture(number, **asked) - many).mean()) / SCENES
    assert off["distilled"] < 0.95 * off["base"]
