"""What stands for more: a scene preset's name for its text, a combination's for its LoRAs, a tag for a LoRA."""

from dataclasses import replace

import numpy as np
import pytest

from imagelab.composition import lora_uses
from imagelab.config import Combination, LoraChoice
from imagelab.config.blocks import block_weights
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


def records(plan):
    return {lora.record.name: lora.record for lora in plan.loras}


def test_what_is_not_said_about_a_lora_is_all_blocks_and_all_steps(plan):
    (luca,) = records(plan()).values()
    assert (luca.text_encoder_2_weight, luca.blocks, luca.start, luca.stop) == (None, None, 0.0, 1.0)


def test_a_lora_is_planned_with_everything_that_is_said_about_it(plan):
    use = {"name": "luca", "weight": 0.5, "text_encoder_weight": 0.4, "text_encoder_2_weight": 0.3}
    luca = records(plan(additional_loras=(use | {"blocks": "OUTD", "start": 0.2, "stop": 0.8},)))["luca"]
    assert (luca.weight, luca.text_encoder_weight, luca.text_encoder_2_weight) == (0.5, 0.4, 0.3)
    assert (luca.blocks, luca.start, luca.stop) == (block_weights("OUTD"), 0.2, 0.8)


def test_block_weights_of_one_are_no_block_weights(plan):
    for blocks in ("ALL", [1] * 20):
        assert records(plan(additional_loras=(LoraUse(name="luca", blocks=blocks),)))["luca"].blocks is None


@pytest.mark.parametrize(
    "off",
    [
        {"weight": 0},
        {"blocks": "NONE"},
        {"stop": 0.0},
        {"start": 1.0},
        {"start": 0.5, "stop": 0.5},
        {"weight": 0, "text_encoder_weight": 1, "blocks": [0] + [1] * 19},
    ],
)
def test_a_lora_that_acts_nowhere_is_left_out_with_its_words(plan, off):
    planned = plan(None, scene_description="a boy", additional_loras=(LoraUse(name="luca", **off),))
    assert planned.loras == ()
    assert "luca" not in planned.prompt.positive


@pytest.mark.parametrize(
    ("use", "says"),
    [
        ({"blocks": "OUTX"}, "unknown preset of block weights 'OUTX'; did you mean"),
        ({"blocks": (1.0, 2.0)}, "blocks must be 12 or 20 numbers"),
        ({"start": 5}, "start must be a number between 0 and 1, got 5"),
        ({"start": 0.8, "stop": 0.2}, r"start of LoRA luca must be at most its stop, 0.2, got 0.8"),
        (
            {"start": 0.51, "stop": 0.53},
            "LoRA luca must be far enough apart to hold one of 12 steps",
        ),
        ({"text_encoder_2_weight": 7}, "text_encoder_2_weight must be a number between -2 and 2, got 7"),
    ],
)
def test_a_lora_that_makes_no_sense_is_refused(plan, use, says):
    with pytest.raises((InvalidValueError, UnknownNameError), match=says):
        plan(steps=12, additional_loras=(LoraUse(name="luca", **use),))


def test_a_step_belongs_to_a_range_from_start_up_to_stop(plan):
    luca = records(plan(steps=10, additional_loras=(LoraUse(name="luca", start=0.3, stop=0.7),)))["luca"]
    assert [step for step in range(10) if luca.acts_at(step, 10)] == [3, 4, 5, 6]
    assert [step for step in range(4) if luca.acts_at(step, 4)] == [2]


@pytest.fixture
def plan_with(configs):
    """Plan with a registry of which something was changed."""

    def plan_with(*uses, loras=None, choices=()):
        registry = configs.lora_registry
        both = Combination(description="both", loras=choices or (LoraChoice(name="luca"),))
        changed = {"loras": registry.loras | (loras or {}), "combinations": {"both": both}}
        own = replace(configs, lora_registry=registry.model_copy(update=changed))
        return plan_generation(own, own.profile("puppet"), GenerationRequest(character=None, additional_loras=uses))

    return plan_with


def test_a_combination_may_say_where_and_when_its_loras_act(plan_with):
    choices = (
        LoraChoice(name="luca", weight=0.8, text_encoder_weight=0.4, blocks="OUTD", stop=0.5),
        LoraChoice(name="alberto", start=0.5),
    )
    planned = records(plan_with(LoraUse(name="both"), choices=choices))
    luca, alberto = planned["luca"], planned["alberto"]
    assert (luca.weight, luca.text_encoder_weight, luca.blocks) == (0.8, 0.4, block_weights("OUTD"))
    assert (luca.start, luca.stop, alberto.start, alberto.stop) == (0.0, 0.5, 0.5, 1.0)


def test_what_is_said_beside_a_combination_multiplies_weights_and_replaces_steps(plan_with):
    choices = (LoraChoice(name="luca", weight=0.8, blocks="OUTD", stop=0.5),)
    use = LoraUse(name="both", weight=0.5, blocks=[0.5] * 20, start=0.25)
    luca = records(plan_with(use, choices=choices))["luca"]
    assert (luca.weight, luca.text_encoder_weight) == (0.4, 0.4)
    assert luca.blocks == tuple(0.5 * factor for factor in block_weights("OUTD"))
    assert (luca.start, luca.stop) == (0.25, 0.5)


def test_the_registrys_block_weights_are_a_default(plan_with, configs):
    loras = {"luca": configs.lora("luca").model_copy(update={"default_blocks": block_weights("OUTS")})}
    assert records(plan_with(LoraUse(name="luca"), loras=loras))["luca"].blocks == block_weights("OUTS")
    assert records(plan_with(LoraUse(name="luca", blocks="ALL"), loras=loras))["luca"].blocks is None


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (None, "additional_loras must be a list like"),
        ([{"name": "luca"}, {"name": "alberto", "weight": 7}], r"additional_loras\[1\].weight must be a number"),
        ([{"name": "luca", "wieght": 1}], r"unknown field of additional_loras\[0\] 'wieght'; did you mean 'weight'"),
        ([{"weight": 1}], r"additional_loras\[0\] must be a mapping with a name"),
    ],
)
def test_what_is_no_lora_is_refused_with_its_place(given, says):
    with pytest.raises((InvalidValueError, UnknownNameError), match=says):
        lora_uses(given)


def test_numpys_weights_are_weights():
    assert lora_uses([{"name": "luca", "weight": np.float32(0.5)}]) == (LoraUse(name="luca", weight=0.5),)


def test_a_weight_that_is_too_large_within_a_combination_says_whose_it_is(plan_with):
    with pytest.raises(InvalidValueError, match=r"weight of LoRA luca in combination both must be .*, got 3"):
        plan_with(LoraUse(name="both", weight=2), choices=(LoraChoice(name="luca", weight=1.5),))


# --- tags


def test_a_tag_is_a_lora_and_no_text(plan):
    tagged = plan(scene_description="on the beach, <lora:alberto:0.4:0.7:stop=0.5>")
    asked = plan(
        scene_description="on the beach",
        additional_loras=(LoraUse(name="alberto", weight=0.7, text_encoder_weight=0.4, stop=0.5),),
    )
    assert tagged.loras == asked.loras
    assert tagged.prompt == asked.prompt
    assert tagged.request == asked.request


def test_a_tag_stands_beside_the_name_of_a_scene_preset(plan):
    assert plan(scene_description="beach_run <lora:alberto:0.1>").prompt.positive.count("running on the beach") == 1


def test_a_tag_replaces_the_characters_own_lora_and_may_name_a_combination(plan):
    assert weights(plan(scene_description="<lora:luca:0.3>")) == {"luca": (0.3, 0.3)}
    assert weights(plan(scene_description="<lora:luca_and_alberto:0.5>")) == {
        "luca": (0.35, 0.35),
        "alberto": (0.35, 0.35),
    }


def test_a_tag_for_a_lora_that_is_asked_for_already_is_refused(plan):
    for scene, loras in (("<lora:luca:1>", (LoraUse(name="luca"),)), ("<lora:luca:1> <lora:luca:0.5>", ())):
        with pytest.raises(InvalidValueError, match="named once, with one weight, got 'luca'"):
            plan(scene_description=scene, additional_loras=loras)


def test_an_unknown_lora_in_a_tag_is_refused_with_the_nearest_name(plan):
    with pytest.raises(UnknownNameError, match="unknown LoRA 'albert'; did you mean 'alberto'"):
        plan(scene_description="<lora:albert:1>")


def test_a_tag_in_the_negative_prompt_is_refused(plan):
    with pytest.raises(InvalidValueError, match="negative_prompt must be without LoRA tags"):
        plan(negative_prompt="blurry, <lora:alberto:1>")


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
