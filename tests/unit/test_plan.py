"""Names in a request that stand for more: a scene preset for its text, a combination for its LoRAs."""

import numpy as np
import pytest

from imagelab.errors import InvalidValueError, UnknownNameError
from imagelab.plan import plan_generation
from imagelab.results import GenerationRequest, LoraUse


@pytest.fixture
def plan(configs):
    def plan_with(character="luca", **asked):
        return plan_generation(configs, configs.profile("puppet"), GenerationRequest(character=character, **asked))

    return plan_with


def weights(plan):
    return {lora.record.name: (lora.record.weight, lora.record.text_encoder_weight) for lora in plan.loras}


def test_the_name_of_a_scene_preset_stands_for_its_text(plan):
    by_name, by_text = (
        plan(scene_description="beach_run"),
        plan(scene_description="running on the beach, excited expression"),
    )
    assert by_name.prompt == by_text.prompt
    assert by_name.request.scene_description == "beach_run"


@pytest.mark.parametrize(
    ("character", "scene"), [("alberto", "beach_run"), (None, "beach_run"), ("luca", "a beach_run")]
)
def test_other_words_than_a_scene_preset_of_the_character_are_left_alone(plan, character, scene):
    assert scene in plan(character, scene_description=scene).prompt.positive.split(", ")


def test_the_name_of_a_combination_stands_for_its_loras_with_its_weights(plan):
    both = plan(additional_loras=(LoraUse(name="luca_and_alberto"),))
    assert weights(both) == {"luca": (0.7, 0.7), "alberto": (0.7, 0.7)}
    assert "alberto" in both.prompt.positive.split(", ")


def test_the_weight_of_a_combination_scales_those_of_its_loras(plan):
    use = LoraUse(name="luca_and_alberto", weight=0.5, text_encoder_weight=1.0)
    assert weights(plan(additional_loras=(use,))) == {"luca": (0.35, 0.7), "alberto": (0.35, 0.7)}


def test_weight_0_turns_a_whole_combination_off(plan):
    assert weights(plan(additional_loras=(LoraUse(name="luca_and_alberto", weight=0),))) == {}


def test_a_combination_and_one_of_its_loras_are_two_weights_for_the_same(plan):
    with pytest.raises(InvalidValueError, match="additional_loras must be named once, with one weight, got 'luca'"):
        plan(additional_loras=(LoraUse(name="luca_and_alberto"), LoraUse(name="luca")))


def test_a_misspelt_combination_is_refused_with_its_name(plan):
    with pytest.raises(UnknownNameError, match="unknown LoRA 'luca_and_albert'; did you mean 'luca_and_alberto'"):
        plan(additional_loras=(LoraUse(name="luca_and_albert"),))


def test_a_combination_of_an_absurd_weight_is_refused(plan):
    with pytest.raises(InvalidValueError, match="weight must be a number between -2 and 2, got 70"):
        plan(additional_loras=(LoraUse(name="luca_and_alberto", weight=70),))


def test_numpys_numbers_are_numbers(plan):
    planned = plan(seed=np.int64(3), steps=np.int32(5), guidance_scale=np.float32(2.5))
    assert (planned.seed, planned.steps, planned.guidance_scale) == (3, 5, 2.5)
    assert [type(value) for value in (planned.seed, planned.steps, planned.guidance_scale)] == [int, int, float]


@pytest.mark.parametrize("asked", [{"seed": np.bool_(True)}, {"steps": np.float64(5)}, {"guidance_scale": "3"}])
def test_what_only_looks_like_a_number_is_refused(plan, asked):
    with pytest.raises(InvalidValueError, match=next(iter(asked))):
        plan(**asked)


@pytest.mark.parametrize(
    "scene", ["(beach:11)", "(sea:-10.5)", "(" * 30 + "sand" + ")" * 30, "(sky:1" + "0" * 400 + ")"]
)
def test_a_weight_that_only_overflows_is_refused_with_its_phrase(plan, scene):
    with pytest.raises(InvalidValueError, match=r"weight of '(beach|sea|sand|sky)'"):
        plan(scene_description=scene)
