"""Out of memory: the same picture in a slower way, recorded, or one clear error; never a silent change."""

import dataclasses
import os
import subprocess
import sys
import warnings
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from imagelab import CharacterGenerator, GenerationError, GenerationRequest
from imagelab.errors import DegradedWarning, OutOfMemoryError
from imagelab.lora.layers import LoraLayer
from imagelab.memory_ladder import next_rung
from imagelab.results import ControlUse

REQUEST = GenerationRequest(character="luca", scene_description="on the beach", quality_preset="draft", steps=3, seed=7)

ROOT = Path(__file__).parents[2]


SPELLINGS = {
    "out of GPU memory": (
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
        torch.AcceleratorError("CUDA error: out of memory"),
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    ),
    "out of memory": (MemoryError(), RuntimeError("could not create a primitive")),
}


@contextmanager
def degraded(words):
    """Expect a DegradedWarning; unlike pytest.warns, leave those of other libraries to the usual filters."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.filterwarnings("always", category=DegradedWarning)
        yield
    assert any(words in str(each.message) for each in seen if each.category is DegradedWarning)


@pytest.fixture
def fresh(configs):
    with CharacterGenerator("puppet", "cpu", configs) as generator:
        yield generator


def too_small_for(limit):
    """A module's memory that holds inputs of `limit` numbers and no more."""

    def hook(_, inputs):
        if inputs[0].numel() > limit:
            raise torch.OutOfMemoryError("CUDA out of memory")

    return hook


def test_a_batch_that_does_not_fit_is_drawn_in_parts_and_says_so(fresh, generator):
    unet = fresh.pipeline.unet
    one_pair = 2 * 4 * 16 * 16  # latents of a picture, with and without the prompt
    with unet.register_forward_pre_hook(too_small_for(2 * one_pair)), degraded("at once"):
        drawn = fresh.generate_together(REQUEST, range(5))
    assert [generation.record.seed for generation in drawn] == list(range(5))
    assert [generation.record.batch_size for generation in drawn] == [2, 2, 1, 2, 2]
    for generation in drawn:
        assert any("at once" in what for what in generation.record.degraded)
        alone = generator.generate(dataclasses.replace(REQUEST, seed=generation.record.seed))
        difference = np.abs(np.asarray(alone.image, np.int16) - np.asarray(generation.image, np.int16))
        assert difference.max() <= 1
    assert fresh.generate(REQUEST).record.degraded == ()  # of one picture nothing had to be given up


def test_a_decoder_that_does_not_fit_decodes_in_tiles_from_then_on_and_says_so(fresh):
    tile = 8 * 8 * 4
    with fresh.pipeline.vae.decoder.register_forward_pre_hook(too_small_for(tile)):
        with degraded("tiles"):
            first = fresh.generate(REQUEST)
        second = fresh.generate(REQUEST)
    assert first.record.degraded == second.record.degraded == ("out of GPU memory: the VAE decodes in tiles",)
    assert first.record.vae_tile_px == fresh.profile.memory.vae_tile_px
    assert first.image.tobytes() == second.image.tobytes()


def test_memory_that_runs_out_in_any_spelling_at_any_call_costs_no_picture(fresh, generator):
    """Matrix F7: once, at one call of the UNet or another; PyTorch says it in several ways. The real one is below."""
    small = dataclasses.replace(REQUEST, width=64, height=64, steps=2)  # no larger than a tile: the same to the bit
    whole = generator.generate(small).image.tobytes()
    cases = [(said, error) for said, errors in SPELLINGS.items() for error in errors]
    for (said, error), number in zip(cases, cycle(range(1, small.steps + 1)), strict=False):
        calls = iter(range(1, 1000))

        def run_out_once(*_, error=error, number=number, calls=calls):
            if next(calls) == number:
                raise error

        with fresh.pipeline.unet.register_forward_pre_hook(run_out_once), degraded("tiles"):
            drawn = fresh.generate(small)
        assert drawn.record.degraded == (f"{said}: the VAE decodes in tiles",)
        assert drawn.image.tobytes() == whole
        fresh._models.use(fresh.profile.memory, ())


def test_a_controlnet_that_an_earlier_picture_has_left_goes_before_anything_is_given_up(fresh, generator):
    lines = Image.fromarray(np.eye(128, dtype=np.uint8) * 255).convert("RGB")
    fresh.generate(dataclasses.replace(REQUEST, controls=(ControlUse(type="canny", image=lines, is_map=True),)))
    calls = iter(range(1, 1000))

    def run_out_once(*_):
        if next(calls) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory")

    assert fresh._models.nets.folders
    with fresh.pipeline.unet.register_forward_pre_hook(run_out_once):
        drawn = fresh.generate(REQUEST)
    assert fresh._models.nets.folders == ()
    assert (drawn.record.degraded, drawn.image.tobytes()) == ((), generator.generate(REQUEST).image.tobytes())


def test_any_other_error_of_a_library_stays_what_it_is(fresh):
    def fail(*_):
        raise RuntimeError("CUDA error: device-side assert triggered")

    with fresh.pipeline.unet.register_forward_pre_hook(fail), pytest.raises(RuntimeError, match="device-side assert"):
        fresh.generate(REQUEST)


def test_a_machine_that_is_out_of_memory_draws_in_parts_or_says_so():
    """Matrix F7, for real: a process that may not have more than so many bytes, and PyTorch's own refusal."""
    command = [sys.executable, Path(__file__).with_name("little_memory.py")]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "65536"}  # what is freed is returned
    done = subprocess.run(command, capture_output=True, check=True, env=environment, cwd=ROOT, text=True)
    refused = "generation failed: out of memory. Draw a smaller picture, or with fewer ControlNets"
    together, large = done.stdout.splitlines()
    assert together in {"1", "2", "4", refused}  # how much it takes differs from CPU to CPU
    assert large == refused


def test_at_the_end_of_the_ladder_there_is_one_error_and_the_generator_goes_on(fresh, generator):
    hook = fresh.pipeline.unet.register_forward_pre_hook(too_small_for(0))
    with degraded("tiles"), pytest.raises(OutOfMemoryError, match="smaller picture"):
        fresh.generate(REQUEST)
    hook.remove()
    again = fresh.generate(REQUEST)
    assert again.record.degraded == ()  # tiles didn't help, so nothing was given up for them
    assert again.image.tobytes() == generator.generate(REQUEST).image.tobytes()
    assert issubclass(OutOfMemoryError, GenerationError)


def test_memory_that_runs_out_while_loras_are_put_in_leaves_the_weights_as_they_were(fresh, monkeypatch):
    plain = dataclasses.replace(REQUEST, use_character_loras=False)
    fresh.generate(plain)
    pristine = {name: value.clone() for name, value in fresh.pipeline.unet.state_dict().items()}
    calls = iter(range(1_000_000))
    delta = LoraLayer.delta

    def run_out_once(self, *given):
        if next(calls) == 5:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return delta(self, *given)

    monkeypatch.setattr(LoraLayer, "delta", run_out_once)
    with degraded("tiles"):
        drawn = fresh.generate(REQUEST)  # the second attempt finds the memory
    assert [lora.name for lora in drawn.record.loras] == ["luca"]
    assert any("tiles" in what for what in drawn.record.degraded)
    fresh.generate(plain)
    assert all(torch.equal(value, pristine[name]) for name, value in fresh.pipeline.unet.state_dict().items())


def test_the_ladder_goes_from_what_changes_no_bit_to_tiles_and_to_what_takes_seconds(configs):
    memory, device = configs.profile("puppet").memory, torch.device("cuda")
    names = []
    while rung := next_rung(memory, device):
        memory, what = rung
        names.append(what)
    assert names == ["text_encoder_offload", "the VAE decodes in tiles", "model_offload", "sequential_offload"]
    assert next_rung(memory, torch.device("cpu")) is None, "tiles are on, and there is nowhere to offload to"


def test_the_ladder_of_compiled_models_ends_before_layers_are_offloaded(configs):
    memory, device = configs.profile("puppet").memory, torch.device("cuda")
    while rung := next_rung(memory, device, compiled=True):
        memory, _ = rung
    assert memory.policy == "model_offload"
