"""Text encoders that leave the device: the same picture to the bit, and nothing of them there while it is drawn.

On the CPU the device and the place to rest are the same memory, but not the same tensors: what rests is on meta.
"""

import dataclasses

import numpy as np
import pytest
import torch
from memory_policies import with_memory
from torch.utils._python_dispatch import TorchDispatchMode

from imagelab import CharacterGenerator, GenerationRequest
from imagelab.controls import control_use
from imagelab.encoding import encode_prompt
from imagelab.memory_contract import measure_footprint
from imagelab.prompts import Prompt
from imagelab.results import LoraUse

REQUEST = GenerationRequest(
    character="luca", scene_description="running on the beach", quality_preset="draft", seed=11, steps=2
)
TILE_PX = 64


@pytest.fixture(scope="module")
def lean(configs):
    own = with_memory(configs, policy="text_encoder_offload")
    with CharacterGenerator("puppet", "cpu", own) as generator:
        yield generator


@pytest.fixture
def guided(luca_image):
    """All at once: the character's LoRA, one of its own steps that touches the text encoders too, and a control."""
    lora = LoraUse(name="beach", weight=0.8, start=0.5)
    controls = (control_use(type="canny", image=luca_image, place="control"),)
    return dataclasses.replace(REQUEST, additional_loras=(lora,), controls=controls)


def encoders_of(generator):
    return generator.pipeline.text_encoder, generator.pipeline.text_encoder_2


def there(encoders):
    """Return the bytes of the encoders' weights that are anywhere but on meta."""
    return sum(p.nbytes for encoder in encoders for p in encoder.parameters() if not p.is_meta)


class Watch(TorchDispatchMode):
    """Notes at each operation what the encoders have on the device."""

    def __init__(self, encoders):
        super().__init__()
        self.encoders, self.most = encoders, 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        self.most = max(self.most, there(self.encoders))
        return operation(*args, **(kwargs or {}))


def test_pictures_are_those_of_resident_encoders_to_the_bit(lean, generator, guided):
    plain = dataclasses.replace(REQUEST, use_character_loras=False)
    for request in (REQUEST, guided, plain, REQUEST):
        drawn = lean.generate(request)
        assert drawn.image.tobytes() == generator.generate(request).image.tobytes()
        assert (drawn.record.memory_policy, drawn.record.degraded) == ("text_encoder_offload", ())
    for one, other in zip(
        lean.generate_together(REQUEST, (1, 2)), generator.generate_together(REQUEST, (1, 2)), strict=True
    ):
        assert one.image.tobytes() == other.image.tobytes()


def test_nothing_of_the_encoders_is_there_while_the_unet_and_the_vae_run(lean, guided):
    pipe, seen = lean.pipeline, []

    def note(*_):
        seen.append(there(encoders_of(lean)))

    with pipe.unet.register_forward_pre_hook(note), pipe.vae.decoder.register_forward_pre_hook(note):
        lean.forget_prompts()
        lean.generate(guided)
    assert len(seen) == 3
    assert set(seen) == {0}
    assert not any(p.is_meta for model in (pipe.unet, pipe.vae) for p in model.parameters())


def test_while_a_prompt_is_encoded_one_layer_is_there_as_predicted(lean, generator):
    prompt = Prompt(positive="a boy on the beach", negative="")
    with Watch(encoders_of(lean)) as watch:
        embeddings = encode_prompt(lean.pipeline, prompt)
    assert torch.equal(embeddings.positive, encode_prompt(lean.pipeline, prompt).positive)
    predicted = measure_footprint(lean.pipeline, torch.device("cpu"))
    assert watch.most == pytest.approx(predicted.text_layer, rel=0.02)  # a layer's bias is beside its weight
    assert watch.most < sum(predicted.text) / 4
    assert predicted == measure_footprint(generator.pipeline, torch.device("cpu")), "wherever the weights are"


def test_they_come_back_only_for_a_prompt_that_is_not_kept(lean):
    lean.forget_prompts()
    lean.generate(REQUEST)
    calls = []
    with encoders_of(lean)[1].register_forward_hook(lambda *_: calls.append(None)):
        lean.generate(dataclasses.replace(REQUEST, seed=12))
        assert not calls
        lean.generate(dataclasses.replace(REQUEST, scene_description="at night"))
    assert calls


def test_weights_are_what_they_were_once_loras_and_hooks_are_gone(configs, generator):
    plain = dataclasses.replace(REQUEST, use_character_loras=False)
    generator.generate(plain)
    with CharacterGenerator("puppet", "cpu", with_memory(configs, policy="text_encoder_offload")) as own:
        own.generate(REQUEST)
        own.generate(plain)
        own._models.use(configs.profile("puppet").memory, ())
        for mine, theirs in zip(encoders_of(own), encoders_of(generator), strict=True):
            state = theirs.state_dict()
            assert all(torch.equal(value, state[name]) for name, value in mine.state_dict().items())
        assert own.generate(REQUEST).image.tobytes() == generator.generate(REQUEST).image.tobytes()


def test_with_tiles_too_only_the_tiles_change_the_picture(configs, generator):
    tiles = {"vae_tiling": True, "vae_slicing": True, "vae_tile_px": TILE_PX}
    drawn = {}
    for policy in ("resident", "text_encoder_offload"):
        with CharacterGenerator("puppet", "cpu", with_memory(configs, policy=policy, **tiles)) as own:
            drawn[policy] = own.generate(REQUEST)
    assert drawn["resident"].image.tobytes() == drawn["text_encoder_offload"].image.tobytes()
    assert drawn["text_encoder_offload"].record.vae_tile_px == TILE_PX
    whole, tiled = (np.asarray(each.image, float) for each in (generator.generate(REQUEST), drawn["resident"]))
    assert 0 < np.abs(whole - tiled).mean() < 8  # grey levels
