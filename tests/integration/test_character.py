"""The generator, whole: a request in, a picture with its record out, and nothing left behind."""

import dataclasses
import gc
import subprocess
import sys
import warnings
import weakref

import numpy as np
import pytest

from imagelab import CharacterGenerator, GenerationError, GenerationRequest, InvalidValueError, UnknownNameError
from imagelab.imagefiles import open_image, read_record
from imagelab.results import LoraUse

REQUEST = GenerationRequest(
    character="luca", scene_description="running on the beach", quality_preset="draft", steps=4, seed=11
)
CALL = {"character": "luca", "scene_description": "waving", "quality_preset": "draft", "seed": 3}


def ask(**changes):
    return dataclasses.replace(REQUEST, **changes)


def pixels(generation):
    return generation.image.tobytes()


# --- the picture


def test_the_same_seed_draws_the_same_picture_whatever_came_before(generator):
    first = generator.generate(REQUEST)
    for other in (ask(seed=12), ask(character="alberto", width=96, height=160), ask(scheduler="unipc", steps=7)):
        generator.generate(other)
    again = generator.generate(REQUEST)
    assert pixels(again) == pixels(first)
    assert again.record == first.record
    assert first.image.mode == "RGB"


def test_pictures_drawn_together_are_those_drawn_alone_within_a_grey_level(generator):
    together = generator.generate_together(REQUEST, [11, 12, 13])
    assert [generation.record.seed for generation in together] == [11, 12, 13]
    assert {generation.record.batch_size for generation in together} == {3}
    for generation in together:
        alone = generator.generate(generation.record.to_request())
        difference = np.abs(np.asarray(alone.image, np.int16) - np.asarray(generation.image, np.int16))
        assert difference.max() <= 1
        assert (difference > 0).mean() < 1e-3
        assert alone.record == dataclasses.replace(generation.record, batch_size=1)


def test_no_seeds_and_a_seed_that_is_none_are_refused(generator):
    for seeds in ([], [1, -1]):
        with pytest.raises(InvalidValueError, match="seeds"):
            generator.generate_together(REQUEST, seeds)


def test_another_generator_draws_the_same_picture(generator, configs):
    with CharacterGenerator("puppet", "cpu", configs) as other:
        assert pixels(other.generate(REQUEST)) == pixels(generator.generate(REQUEST))


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 12},
        {"character": "alberto"},
        {"character": None},
        {"scene_description": "standing in the forest"},
        {"style": "pixar"},
        {"negative_prompt": "sand"},
        {"steps": 5},
        {"guidance_scale": 6.0},
        {"scheduler": "euler"},
        {"use_character_loras": False},
        {"additional_loras": (LoraUse(name="alberto", weight=0.7),)},
        {"additional_loras": (LoraUse(name="luca", weight=0.5),)},
        {"additional_loras": (LoraUse(name="luca", weight=1.0, text_encoder_weight=0.0),)},
        {"additional_loras": (LoraUse(name="luca", blocks="OUTS"),)},
        {"additional_loras": (LoraUse(name="luca", stop=0.5),)},
        {"scene_description": "running on the beach <lora:luca:0.5>"},
        {"scene_description": "running on the (beach:1.5)"},
    ],
)
def test_whatever_is_asked_for_shows_in_the_picture_and_in_the_record(generator, change):
    base, changed = generator.generate(REQUEST), generator.generate(ask(**change))
    assert pixels(base) != pixels(changed)
    assert base.record != changed.record


def test_a_seed_that_was_not_given_is_drawn_at_random_and_recorded(generator):
    one, other = (generator.generate(ask(seed=None)) for _ in range(2))
    assert one.record.seed != other.record.seed
    assert pixels(generator.generate(ask(seed=one.record.seed))) == pixels(one)


@pytest.mark.parametrize("preset", ["draft", "standard", "high", "ultra"])
def test_every_preset_draws_with_its_own_settings(generator, configs, preset):
    record = generator.generate(ask(quality_preset=preset, steps=None)).record
    wanted = configs.preset("puppet", preset)
    assert (record.steps, record.guidance_scale, record.scheduler) == (
        wanted.steps,
        wanted.guidance_scale,
        wanted.scheduler,
    )
    assert wanted.quality_words in record.prompt


@pytest.mark.parametrize("size", ["square", "portrait", "landscape"])
def test_every_size_of_the_profile_can_be_drawn(generator, size):
    width, height = generator.profile.size_px(size)
    assert generator.generate(ask(width=width, height=height)).image.size == (width, height)


# --- prompts


def test_the_prompt_names_character_triggers_scene_and_style_once(generator, configs):
    record = generator.generate(ask(style="pixar", scene_description="luca, Brown Eyes, on the beach")).record
    character = configs.character("luca")
    words = record.prompt.split(", ")
    assert record.prompt.startswith(f"{character.trigger}, {character.description}, on the beach")
    assert configs.style("pixar").prompt in record.prompt
    assert len(words) == len(set(words))


def test_an_added_lora_brings_its_trigger_words(generator, configs):
    assert "alberto" not in generator.generate(REQUEST).record.prompt
    record = generator.generate(ask(additional_loras=(LoraUse(name="alberto"),))).record
    assert all(word in record.prompt for word in configs.lora("alberto").trigger_words)


def test_a_negative_prompt_of_ones_own_replaces_the_template(generator, configs):
    template = configs.negative_prompt(generator.profile.negative_prompt)
    assert generator.generate(REQUEST).record.negative_prompt == template
    assert generator.generate(ask(negative_prompt="sand")).record.negative_prompt == "sand"
    assert generator.generate(ask(negative_prompt="")).record.negative_prompt == ""


def test_the_end_of_a_long_prompt_is_drawn_too(generator):
    scene = ", ".join(f"a small red house number {number} on the hill" for number in range(12))
    one, other = (generator.generate(ask(scene_description=f"{scene}, {end}")) for end in ("at night", "underwater"))
    assert one.record.prompt.endswith("at night")
    assert pixels(one) != pixels(other)


# --- LoRAs


def test_after_loras_the_base_picture_is_the_same_to_the_bit(configs):
    bare = ask(use_character_loras=False)
    with CharacterGenerator("puppet", "cpu", configs) as generator:
        before = generator.generate(bare)
        generator.generate(REQUEST)
        generator.generate(ask(additional_loras=(LoraUse(name="alberto", weight=-0.5),)))
        after = generator.generate(bare)
    assert pixels(after) == pixels(before)
    assert before.record.loras == ()


def test_the_order_of_added_loras_makes_no_difference(generator):
    uses = (LoraUse(name="alberto", weight=0.7), LoraUse(name="luca", weight=0.4))
    # Nobody's description: the order of the trigger words is that of the LoRAs, and may differ.
    one, other = (
        generator.generate(ask(character=None, scene_description="luca, alberto", additional_loras=loras))
        for loras in (uses, uses[::-1])
    )
    assert {lora.name for lora in one.record.loras} == {"luca", "alberto"}
    for generation in (one, other):
        assert len(generation.record.loras) == 2


def test_an_added_lora_replaces_the_characters_own_of_that_name(generator):
    (lora,) = generator.generate(ask(additional_loras=(LoraUse(name="luca", weight=0.4),))).record.loras
    assert (lora.name, lora.weight, lora.text_encoder_weight) == ("luca", 0.4, 0.4)


def test_weight_zero_leaves_a_lora_out(generator):
    off = generator.generate(ask(additional_loras=(LoraUse(name="luca", weight=0.0),)))
    assert off.record.loras == ()
    assert pixels(off) == pixels(generator.generate(ask(use_character_loras=False)))


@pytest.mark.parametrize(
    "off", [{"stop": 0.0}, {"start": 1.0}, {"blocks": "NONE"}, {"weight": 0.0, "text_encoder_weight": 0.0}]
)
def test_a_lora_that_acts_nowhere_draws_the_picture_without_it(generator, off):
    bare = ask(character=None, scene_description="a boy on the beach")
    without, drawn = generator.generate(bare), generator.generate(replaced(bare, name="luca", **off))
    assert pixels(drawn) == pixels(without)
    assert drawn.record == without.record


def replaced(request, **use):
    return dataclasses.replace(request, additional_loras=(LoraUse(**use),))


def test_all_steps_and_all_blocks_draw_what_is_drawn_without_saying_so(generator):
    said = replaced(REQUEST, name="luca", weight=1.0, blocks=(1.0,) * 20, start=0.0, stop=1.0)
    assert pixels(generator.generate(said)) == pixels(generator.generate(REQUEST))


@pytest.mark.parametrize(
    "use",
    [
        {"stop": 0.5},
        {"start": 0.5},
        {"blocks": "OUTD"},
        {"blocks": [1] * 6 + [0] * 6},
        {"text_encoder_2_weight": 0.0},
        {"weight": 0.5, "text_encoder_weight": 1.0, "blocks": "MIDD", "start": 0.25, "stop": 0.75},
    ],
)
def test_where_and_when_a_lora_acts_shows_and_comes_back_from_the_png(generator, tmp_path, use):
    image = generator.generate_character(
        **CALL, additional_loras=[{"name": "luca"} | use], output_path=tmp_path / "a.png"
    )
    assert image.tobytes() != generator.generate_character(**CALL).tobytes()
    record = read_record(tmp_path / "a.png")
    again = generator.generate(record.to_request())
    assert pixels(again) == image.tobytes()
    assert again.record == record


def test_a_tag_in_the_scene_draws_what_the_argument_draws(generator, tmp_path):
    asked = generator.generate_character(**CALL, additional_loras=[{"name": "alberto", "weight": 0.4, "stop": 0.5}])
    tagged = CALL | {"scene_description": "waving, <lora:alberto:0.4:stop=0.5>"}
    image = generator.generate_character(**tagged, output_path=tmp_path / "a.png")
    record = read_record(tmp_path / "a.png")
    assert image.tobytes() == asked.tobytes()
    assert record.scene_description == "waving"
    assert "lora:" not in record.prompt
    assert [(lora.name, lora.weight, lora.stop) for lora in record.loras] == [("alberto", 0.4, 0.5), ("luca", 1.0, 1.0)]
    assert pixels(generator.generate(record.to_request())) == image.tobytes()


def test_an_interrupt_while_loras_come_and_go_leaves_no_trace(generator):
    before = generator.generate(REQUEST)

    def interrupt(step, *_):
        if step == 3:
            raise KeyboardInterrupt

    for stop in (0.25, 0.5, 0.75):
        with pytest.raises(KeyboardInterrupt):
            generator.generate(replaced(REQUEST, name="luca", stop=stop), on_step=interrupt)
    assert pixels(generator.generate(REQUEST)) == pixels(before)


def test_loras_are_compared_in_one_line(generator):
    before = generator.generate(REQUEST)
    comparison = generator.compare_loras([{"name": "alberto"}], character="luca")
    assert comparison.names == ("luca", "alberto")
    assert all(0 < comparison.effect(name) < 1 for name in comparison.names)
    assert -0.5 < comparison.interference("luca", "alberto") < 0.5, "two characters, trained apart"
    half = generator.compare_loras([{"name": "luca", "weight": 0.5, "blocks": "OUTD"}])
    assert half.effect("luca", "OUT00") == pytest.approx(0.5 * comparison.effect("luca", "OUT00"))
    assert half.effect("luca", "MID") == 0
    assert pixels(generator.generate(REQUEST)) == pixels(before)


def test_a_default_weight_is_the_registrys(generator, configs):
    loras = generator.generate(ask(additional_loras=(LoraUse(name="alberto"),))).record.loras
    assert {lora.name: lora.weight for lora in loras}["alberto"] == configs.lora("alberto").default_weight


# --- the record


def test_the_record_is_in_the_png_and_draws_the_picture_again(generator, tmp_path):
    path = tmp_path / "new" / "luca.png"
    image = generator.generate_character(
        character="luca",
        scene_description="waving at night",
        quality_preset="draft",
        style="disney",
        width=96,
        height=160,
        additional_loras=[{"name": "alberto", "weight": 0.3}],
        output_path=path,
    )
    assert open_image(path).tobytes() == image.tobytes()
    again = generator.generate(read_record(path).to_request())
    assert again.record == read_record(path)
    assert pixels(again) == image.tobytes()


def test_the_record_says_what_drew_the_picture(generator):
    record = generator.generate(REQUEST).record
    assert (record.profile, record.device, record.dtype) == ("puppet", "cpu", "float32")
    assert (record.memory_policy, record.degraded) == ("resident", ())
    assert any(name.startswith("unet/") for name in record.model_sha256)
    assert all(len(value) == 64 for value in record.model_sha256.values())
    assert [(lora.name, len(lora.sha256)) for lora in record.loras] == [("luca", 64)]
    assert set(record.versions) == {"imagelab", "torch", "diffusers", "transformers"}
    assert record.seconds["total"] > 0


# --- memory and life cycle


def test_nothing_is_loaded_before_the_first_picture(configs):
    with CharacterGenerator("puppet", "cpu", configs) as generator:
        assert not generator.is_loaded
        generator.generate(REQUEST)
        assert generator.is_loaded
    assert not generator.is_loaded


def test_cleanup_gives_the_models_back(configs):
    generator = CharacterGenerator("puppet", "cpu", configs)
    generator.generate(REQUEST)
    pipe = generator.pipeline
    parts = ("unet", "vae", "text_encoder", "text_encoder_2")
    models = [weakref.ref(getattr(pipe, part)) for part in parts]
    del pipe
    generator.cleanup()
    gc.collect()
    assert [model() for model in models] == [None] * 4
    generator.cleanup()


def test_a_generator_is_of_no_use_after_cleanup(configs):
    generator = CharacterGenerator("puppet", "cpu", configs)
    generator.cleanup()
    for use in (lambda: generator.generate(REQUEST), generator.load, lambda: generator.pipeline):
        with pytest.raises(GenerationError, match="cleaned up"):
            use()
    assert "cleaned up" in repr(generator)


def test_a_generator_that_is_dropped_loaded_warns(configs):
    with pytest.warns(ResourceWarning, match="never cleaned up"):
        CharacterGenerator("puppet", "cpu", configs).load()


def test_a_generator_that_never_loaded_is_dropped_in_silence(configs):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        generator = CharacterGenerator("puppet", "cpu", configs)
        del generator
        gc.collect()
        with pytest.raises(UnknownNameError):
            CharacterGenerator("pupet", "cpu", configs)
        gc.collect()


@pytest.mark.parametrize("device", ["gpu", "", "cuda:", "mps", None, 0])
def test_an_unknown_device_is_refused(configs, device):
    with pytest.raises(InvalidValueError, match="device"):
        CharacterGenerator("puppet", device, configs)


def test_an_interrupted_picture_leaves_a_generator_that_still_draws(generator):
    before = generator.generate(REQUEST)

    def interrupt(step, *_):
        if step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generator.generate(ask(seed=5), on_step=interrupt)
    assert pixels(generator.generate(REQUEST)) == pixels(before)


REFUSALS = """
from imagelab import CharacterGenerator, GenerationRequest, ImageLabError
from imagelab.results import ControlUse, LoraUse
bad = [dict(character="lucca"), dict(quality_preset="higher"), dict(style="pixa"), dict(scheduler="eul"),
       dict(width=100), dict(steps=0), dict(seed="x"), dict(additional_loras=(LoraUse(name="x"),)),
       dict(guidance_scale=float("nan")), dict(controls=(ControlUse(type="posee", image="x.png"),))]
generator = CharacterGenerator(profile="puppet")
for change in bad:
    try:
        generator.generate(GenerationRequest(**({"character": "luca"} | change)))
    except ImageLabError as error:
        print(error)
    else:
        raise SystemExit(f"not refused: {change}")
import sys
heavy = {"torch", "diffusers", "transformers", "peft", "accelerate", "xformers"} & set(sys.modules)
raise SystemExit(f"imported {heavy}" if heavy else 0)
"""


def test_a_bad_request_is_refused_before_any_model_library_is_imported():
    done = subprocess.run([sys.executable, "-c", REFUSALS], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "did you mean 'luca'" in done.stdout


def test_xformers_is_never_imported(generator):
    generator.generate(REQUEST)
    assert "xformers" not in sys.modules
