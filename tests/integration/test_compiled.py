"""Compiled models draw what others draw, within a bound, and what differs between pictures compiles nothing anew."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import accelerate
import numpy as np
import pytest
import torch
from memory_policies import with_memory
from PIL import Image

from imagelab import (
    BatchImageGenerator,
    CharacterGenerator,
    GenerationError,
    GenerationRequest,
    InvalidValueError,
    ProfileError,
    read_picture_metadata,
    replay,
)
from imagelab.batch import batch_request
from imagelab.compiling import eagerly
from imagelab.results import ControlUse, LoraUse

STEPS, SIDE = 3, 64
MOST_IN_LATENTS = 1e-4  # of values up to 4; what the layout alone changes is measured beside it
MOST_GREY_LEVELS = 1
needs_compiler = pytest.mark.skipif(
    shutil.which("g++") is None, reason="inductor needs a C++ compiler, and g++ isn't here"
)


def ask(seed=3, scene="on the beach", control=None, **given):
    wanted = {"character": "luca", "steps": STEPS, "width": SIDE, "height": SIDE} | given
    if control is not None:
        lines = (np.indices((wanted["height"], wanted["width"])).sum(0) // 8 % 2 * 255).astype(np.uint8)
        picture = Image.fromarray(np.stack([lines] * 3, axis=-1))
        use = ControlUse(type="pose", image=Path("drawn"), picture=picture, is_map=True)
        wanted["controls"] = (replace(use, **control),)
    return GenerationRequest(scene_description=scene, seed=seed, **wanted)


def grey_levels(one, other):
    return np.abs(np.asarray(one, np.int16) - np.asarray(other, np.int16)).max()


def drawn(generator, request):
    """Return a request's picture and the latents after its last step."""
    latents = []
    made = generator.generate(request, on_step=lambda *given: latents.append(given[2].clone()))
    return made.image, latents[-1]


@pytest.fixture(scope="module")
def traced(configs):
    """A generator whose models are made graphs of, which then run by PyTorch's own kernels: no C++ is compiled."""
    torch.compiler.set_default_backend("eager")
    try:
        with CharacterGenerator(profile="puppet", device="cpu", configs=configs, compiled=True) as generator:
            generator.load()
            yield generator
    finally:
        torch.compiler.set_default_backend("inductor")


WARM_UP = {
    "guided": {},
    "portrait": {"height": SIDE + 32},
    "landscape": {"width": SIDE + 32},
    "not guided": {"guidance_scale": 1.0},
    "ControlNet": {"control": {"scale": 0.7}},
    "union ControlNet": {"control": {"scale": 0.7, "model": "union"}},
}
OTHERWISE = {
    "prompt and seed": {"scene": "at night in the town", "seed": 8, "character": "alberto"},
    "guidance": {"guidance_scale": 3.5},
    "guidance at some steps": {"guidance_start": 0.3, "guidance_stop": 0.6},
    "guidance at others": {"guidance_start": 0.0, "guidance_stop": 0.4},
    "steps": {"steps": 5},
    "another LoRA": {"additional_loras": (LoraUse(name="beach", weight=0.8),)},
    "another weight": {"additional_loras": (LoraUse(name="beach", weight=0.3),)},
    "LoRA at some steps": {"additional_loras": (LoraUse(name="beach", weight=0.8, start=0.5),)},
    "no LoRA": {"character": None},
    "ControlNet's scale": {"control": {"scale": 0.31}},
    "union ControlNet's scale": {"control": {"scale": 0.4, "model": "union"}},
    "ControlNet at some steps": {"control": {"scale": 1.0, "end": 0.7}},
    "portrait again": {"height": SIDE + 32, "seed": 1},
    "landscape again": {"width": SIDE + 32, "seed": 1},
}


@pytest.fixture(scope="module")
def warm(traced):
    for given in WARM_UP.values():
        traced.generate(ask(**given))
    traced.generate_together(ask(), (1, 2))
    return traced


@pytest.mark.slow
def test_after_a_picture_of_each_size_nothing_is_compiled_again(warm, configs):
    with torch.compiler.set_stance("fail_on_recompile"):
        for given in OTHERWISE.values():
            warm.generate(ask(**given))
        for scheduler in configs.sdxl.schedulers:
            scale = configs.scheduler(scheduler).max_guidance_scale or 2.0
            warm.generate(ask(scheduler=scheduler, guidance_scale=min(scale, 2.0)))
        warm.generate_together(ask(guidance_scale=1.0), (5, 6))
        warm.generate_together(ask(scene="at night"), (7, 8))
        with pytest.raises(RuntimeError, match="recompile"):
            warm.generate(ask(width=SIDE + 64))  # so that the test can fail


@pytest.mark.slow
def test_weights_that_come_and_go_with_the_model_compile_nothing_again(warm):
    before = warm.generate(ask()).image
    _, hook = accelerate.cpu_offload_with_hook(warm.pipeline.unet, "cpu")  # as model_offload does
    try:
        with torch.compiler.set_stance("fail_on_recompile"):
            assert warm.generate(ask()).image.tobytes() == before.tobytes()
    finally:
        hook.remove()
        warm._ready().loaded.pipe.remove_all_hooks()


@pytest.mark.slow
def test_stock_diffusers_is_measured_with_models_as_it_loads_them(warm, generator):
    pipe = warm.pipeline
    weight = pipe.unet.conv_in.weight
    before = warm.generate(ask()).image
    with eagerly(pipe.unet, pipe.vae.decoder), torch.compiler.set_stance("force_eager"):
        assert weight.is_contiguous()
        request = ask()
        assert warm.generate(request).image.tobytes() == generator.generate(request).image.tobytes()
    assert weight.is_contiguous(memory_format=torch.channels_last)
    with torch.compiler.set_stance("fail_on_recompile"):
        assert warm.generate(ask()).image.tobytes() == before.tobytes()


# --- by inductor, at the puppets' size


@pytest.fixture(scope="module")
def compiled(configs):
    with CharacterGenerator(profile="puppet", device="cpu", configs=configs, compiled=True) as generator:
        yield generator


@needs_compiler
@pytest.mark.slow
def test_compiled_models_draw_the_same_picture_within_a_bound(compiled, generator, record_property):
    request = ask(width=128, height=128, steps=8)
    (ours, latents), (theirs, eager) = drawn(compiled, request), drawn(generator, request)
    with eagerly(compiled.pipeline.unet, compiled.pipeline.vae.decoder):
        _, same = drawn(compiled, request)
    assert torch.equal(same, eager)
    difference = (latents - eager).abs().max().item()
    record_property("counted", f"compiled latents differ by {difference:.1e} of {eager.abs().max():.2g} at most")
    assert 0 < difference <= MOST_IN_LATENTS
    assert grey_levels(ours, theirs) <= MOST_GREY_LEVELS


@needs_compiler
@pytest.mark.slow
def test_switched_loras_act_on_compiled_models_and_leave_no_trace(compiled, generator):
    beach = {"additional_loras": (LoraUse(name="beach", weight=0.9),)}
    requests = [
        ask(width=128, height=128),
        ask(width=128, height=128, **beach),
        ask(width=128, height=128, character=None),
    ]
    compiled.generate(requests[0])
    with torch.compiler.set_stance("fail_on_recompile"):
        first = [compiled.generate(request).image for request in requests]
        again = [compiled.generate(request).image for request in requests]
    assert [image.tobytes() for image in again] == [image.tobytes() for image in first]
    assert len({image.tobytes() for image in first}) == len(first)
    for request, image in zip(requests, first, strict=True):
        assert grey_levels(image, generator.generate(request).image) <= MOST_GREY_LEVELS


@needs_compiler
def test_records_and_plans_say_which_compiler_and_only_where_there_was_one(warm, generator, tmp_path):
    made = warm.generate(ask())
    assert "g++" in made.record.versions["inductor"]
    assert "inductor" not in generator.generate(ask()).record.versions
    request = batch_request(ask(), 2, enable_consistency_check=False)
    with BatchImageGenerator(warm) as ours, BatchImageGenerator(generator) as theirs:
        ours.run(request, tmp_path / "batch")
        with pytest.raises(InvalidValueError, match="inductor"):
            theirs.run(replace(request, num_images=3), tmp_path / "batch")
        assert ours.setup("cpu")().generator.profile.compiled


def test_replay_names_the_compiler_that_a_picture_was_drawn_by(warm, generator, tmp_path):
    path = tmp_path / "compiled.png"
    warm.generate_character(
        "luca", "on the beach", width=SIDE, height=SIDE, seed=1, quality_preset="draft", output_path=path
    )
    assert "inductor" in read_picture_metadata(path).record.versions
    outcome = replay(path, generator)
    assert [change.name for change in outcome.environment_changed] == ["versions.inductor"]


# --- what can't be compiled is refused


def test_without_a_compiler_nothing_is_loaded_or_planned(configs, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with CharacterGenerator(configs=configs, device="cpu", compiled=True) as generator:
        with pytest.raises(GenerationError, match=r"no C\+\+ compiler 'no-such-compiler'.*Install g\+\+"):
            generator.generate(ask())
        assert not generator.is_loaded
        request = batch_request(ask(), 2, enable_consistency_check=False)
        with BatchImageGenerator(generator) as batches, pytest.raises(GenerationError, match="no-such-compiler"):
            batches.plan(request)


BROKEN = """
from imagelab import CharacterGenerator, GenerationError
try:
    CharacterGenerator(device="cpu", compiled=True).load()
except GenerationError as error:
    print(error)
"""


@needs_compiler
def test_a_compiler_that_fails_is_an_error_of_ours_before_anything_is_drawn(tmp_path):
    compiler = tmp_path / "g++"
    compiler.write_text('#!/bin/sh\ncase "$*" in *.cpp*) echo no header >&2; exit 1;; esac\nexec g++ "$@"\n')
    compiler.chmod(0o755)
    there = {"CXX": str(compiler), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    told = subprocess.run(
        [sys.executable, "-c", BROKEN], env=os.environ | there, capture_output=True, text=True, check=True
    )
    assert "an addition can't be compiled" in told.stdout
    assert "compiled: false" in told.stdout


def test_layers_that_come_and_go_can_not_be_compiled(configs):
    layered = with_memory(configs, policy="sequential_offload")
    CharacterGenerator("puppet", "cpu", layered)
    with pytest.raises(ProfileError, match="layer by layer"):
        CharacterGenerator("puppet", "cpu", layered, compiled=True)
    with pytest.raises(InvalidValueError, match="compiled"):
        CharacterGenerator("puppet", "cpu", configs, compiled="on")


def test_torchs_compiler_is_imported_only_to_compile():
    script = (
        "import sys; from imagelab import CharacterGenerator, GenerationRequest\n"
        "with CharacterGenerator(device='cpu') as generator:\n"
        "    generator.generate(GenerationRequest(character=None, steps=1, width=64, height=64))\n"
        "print('torch._inductor.compile_fx' in sys.modules)"  # diffusers itself imports dynamo
    )
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert told.stdout.split()[-1] == "False"
