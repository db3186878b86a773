"""What spares work changes no picture: prompts asked once, guidance at all steps, and weights that were switched."""

from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from imagelab import BatchImageGenerator, CharacterGenerator, GenerationRequest, InvalidValueError
from imagelab.batch import batch_request
from imagelab.results import ControlUse, LoraUse

STEPS, SIDE = 4, 64
POSE = ControlUse(type="pose", image=Path("drawn"), is_map=True, scale=1.0)
LATE = LoraUse(name="beach", weight=0.9, start=0.5)
CASES = {
    "plain": {"character": None},
    "LoRA": {"character": "luca"},
    "LoRA at some steps": {"character": "luca", "additional_loras": (LATE,)},
    "ControlNet and LoRA": {"character": "luca", "additional_loras": (LATE,), "controls": (POSE,)},
    "no guidance": {"character": "luca", "guidance_scale": 1.0},
    "guidance at some steps": {"character": "luca", "guidance_start": 0.25, "guidance_stop": 0.75},
}


def ask(seed=3, scene="on the beach", **given):
    rng = np.random.default_rng(seed)
    picture = Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8))
    controls = tuple(
        ControlUse(type=use.type, image=use.image, picture=picture, is_map=True, scale=use.scale)
        for use in given.pop("controls", ())
    )
    wanted = {"character": None, "scene_description": scene, "seed": seed, "steps": STEPS}
    wanted |= {"width": SIDE, "height": SIDE}
    return GenerationRequest(controls=controls, **wanted | given)


@contextmanager
def asking_at_each_step(*_):
    yield lambda: None


@pytest.fixture
def forgetful(monkeypatch):
    """Let diffusers compute keys and values as it does by itself."""

    def switch():
        monkeypatch.setattr("imagelab.drawing.asking_prompts_once", asking_at_each_step)

    return switch


def pixels(generator, request, seeds=(3, 4)):
    alone = generator.generate(request).image
    together = [made.image for made in generator.generate_together(request, seeds)]
    return [np.asarray(image) for image in (alone, *together)]


@pytest.mark.parametrize("name", CASES)
def test_pictures_are_the_same_to_the_bit_with_keys_and_values_asked_at_each_step(generator, forgetful, name):
    request = ask(**CASES[name])
    other = ask(scene="at night in the town", **CASES[name])
    ours = [*pixels(generator, request), *pixels(generator, other)]  # another prompt right after
    forgetful()
    for one, theirs in zip(ours, [*pixels(generator, request), *pixels(generator, other)], strict=True):
        assert np.array_equal(one, theirs)


@contextmanager
def counted(modules):
    """Count the calls of modules."""
    calls = []
    handles = [module.register_forward_hook(lambda *_: calls.append(1)) for module in modules]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def cross_attention(generator):
    unet = generator.pipeline.unet
    return [module for name, module in unet.named_modules() if name.endswith(("attn2.to_k", "attn2.to_v"))]


def test_a_prompt_is_asked_for_keys_and_values_once_and_again_where_weights_or_guidance_change(generator):
    layers = cross_attention(generator)
    for name, times in (("plain", 1), ("LoRA at some steps", 2), ("guidance at some steps", 3)):
        with counted(layers) as calls:
            generator.generate(ask(**CASES[name]))
        assert len(calls) == times * len(layers), name


def test_after_a_picture_nothing_of_its_prompt_is_kept_in_the_unet(generator):
    before = dict(generator.pipeline.unet.attn_processors)
    generator.generate(ask())
    with pytest.raises(ZeroDivisionError):
        generator.generate(ask(), on_step=lambda *_: 1 / 0)
    assert generator.pipeline.unet.attn_processors == before


def test_the_text_encoders_are_asked_once_for_a_prompt_until_a_lora_acts_on_them_otherwise(configs):
    with CharacterGenerator(profile="puppet", device="cpu", configs=configs) as generator:
        encoders = [generator.pipeline.text_encoder, generator.pipeline.text_encoder_2]
        kept = generator._ready().prompts

        def calls(seeds=(1,), **given):
            with counted(encoders) as calls:
                generator.generate_together(ask(**given), seeds)
            return len(calls)

        first = calls(seeds=(1, 2, 3))
        assert first == 4, "two encoders, prompt and negative prompt, once for the whole batch"
        assert calls(seeds=(5,)) == 0
        assert calls(scene="at night") == 4
        assert calls() == 0
        # the trigger words would make another prompt: the same words, with another LoRA in the encoders
        words = {"scene": "sunset_beach, on the beach"}
        calls(**words)
        again = calls(**words, additional_loras=(LoraUse(name="beach", weight=0.5),))
        assert again == 4
        assert calls(**words, additional_loras=(LoraUse(name="beach", weight=0.5),)) == 0
        assert calls(**words, additional_loras=(LoraUse(name="beach", weight=0.6),)) == 4
        weaker = LoraUse(name="beach", weight=0.1, text_encoder_weight=0.6)
        assert calls(**words, additional_loras=(weaker,)) == 0, "only the UNet has changed"
        assert len(kept._kept) == 5


def test_prompts_that_were_encoded_before_are_the_same_tensors_within_a_bound(generator, monkeypatch):
    from imagelab.encoded_prompts import EncodedPrompts
    from imagelab.encoding import encode_prompt
    from imagelab.prompts import Prompt

    kept = EncodedPrompts(pipe=generator.pipeline)
    prompts = [Prompt(positive=f"a house, number {number}", negative="") for number in range(3)]
    first = [kept.encode(prompt, loras=()) for prompt in prompts]
    assert all(kept.encode(prompt, loras=()) is one for prompt, one in zip(prompts, first, strict=True))
    fresh = encode_prompt(generator.pipeline, prompts[0])
    for name in ("positive", "negative", "pooled_positive", "pooled_negative"):
        assert torch.equal(getattr(fresh, name), getattr(first[0], name))
    monkeypatch.setattr("imagelab.encoded_prompts._KEPT_BYTES", 2 * first[0].nbytes)
    kept.encode(prompts[0], loras=())
    assert list(kept._kept) == list(kept._kept)[-2:], "the bound holds two"
    assert kept.encode(prompts[0], loras=()) is first[0], "the latest used stay"
    assert kept.encode(prompts[1], loras=()) is not first[1]


# --- guidance at a part of the steps


def batch_sizes(generator, **given):
    """Return how many latents the UNet was asked about at each step."""
    seen = []
    with generator.pipeline.unet.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0]))):
        made = generator.generate_together(ask(**given), (3, 4))
    return seen, made


@pytest.mark.parametrize("controls", [(), (POSE,)], ids=["alone", "with a ControlNet"])
def test_only_the_steps_of_its_interval_are_guided(generator, controls):
    sizes, made = batch_sizes(generator, character="luca", controls=controls, guidance_start=0.25, guidance_stop=0.75)
    assert sizes == [2, 4, 4, 2]
    assert (made[0].record.guidance_start, made[0].record.guidance_stop) == (0.25, 0.75)
    sizes, _ = batch_sizes(generator, character="luca", controls=controls)
    assert sizes == [4, 4, 4, 4]


@pytest.mark.parametrize("controls", [(), (POSE,)], ids=["alone", "with a ControlNet"])
@pytest.mark.parametrize("interval", [(0.0, 0.5), (0.5, 1.0)])
def test_in_a_batch_each_picture_is_guided_by_its_own_prompt(generator, controls, interval):
    given = {"character": "luca", "controls": controls, "guidance_start": interval[0], "guidance_stop": interval[1]}
    _, together = batch_sizes(generator, **given)
    for made in together:
        alone = generator.generate(ask(**given | {"controls": controls})).image
        if made.record.seed == 3:
            assert np.abs(np.asarray(alone, np.int16) - np.asarray(made.image, np.int16)).max() <= 1
    assert together[0].image.tobytes() != together[1].image.tobytes()


def test_an_interval_of_all_steps_is_the_picture_without_one_and_one_of_none_is_refused(generator):
    usual = generator.generate(ask(character="luca")).image.tobytes()
    assert generator.generate(ask(character="luca", guidance_stop=1.0)).image.tobytes() == usual
    nearly = ask(character="luca", guidance_stop=0.99)  # all four steps begin before that
    assert generator.generate(nearly).image.tobytes() == usual
    assert generator.generate(ask(character="luca", guidance_stop=0.5)).image.tobytes() != usual
    with pytest.raises(InvalidValueError, match="one of 4 steps is guided"):
        generator.generate(ask(guidance_start=0.8))
    with pytest.raises(InvalidValueError, match="guidance_stop"):
        generator.generate(ask(guidance_stop=1.5))


def test_a_batch_is_guided_as_asked_and_its_plan_says_so_only_where_that_is_unusual(generator):
    picture = ask(character="luca", guidance_stop=0.5)
    with BatchImageGenerator(generator) as batches:
        plans = [
            batches.plan(batch_request(one, 2, enable_consistency_check=False))
            for one in (picture, replace(picture, guidance_stop=1.0))
        ]
    (recipe,), (usual,) = (plan.recipes for plan in plans)
    assert recipe["guidance_stop"] == 0.5
    assert "guidance_start" not in recipe
    assert "guidance_stop" not in usual, "runs of before, whose plans don't say it, go on"


def test_a_record_asks_for_its_interval_again(generator):
    made = generator.generate(ask(character="luca", guidance_start=0.25, guidance_stop=0.75))
    again = generator.generate(made.record.to_request())
    assert again.image.tobytes() == made.image.tobytes()
    assert again.record == made.record
