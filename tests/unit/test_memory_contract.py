"""Memory is predicted before it is taken: near what was measured, and held to."""

import dataclasses
import gc
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from memory_policies import with_memory
from PIL import Image
from test_memory_ladder import degraded

from imagelab import CharacterGenerator, GenerationRequest
from imagelab.config import MemoryLimit
from imagelab.errors import InvalidValueError, OutOfMemoryError
from imagelab.memory_contract import Job, LiveBytes, controlnet_bytes, fit, measure_footprint, predict, weight_bytes
from imagelab.memory_table import predict_cases, tabulate
from imagelab.random_sdxl import sdxl_on_meta
from imagelab.reporting import read_measurement
from imagelab.results import ControlUse

REPORTS = Path(__file__).parents[2] / "reports"
H200 = json.loads((REPORTS / "benchmarks" / "random-sdxl-cuda-NVIDIA-H200-20261126T060000.json").read_text())
GIB = 2**30
CUDA = torch.device("cuda")
PLAIN = GenerationRequest(
    character=None, scene_description="the sea", quality_preset="draft", steps=2, use_character_loras=False
)
PROMISED = 0.10
AIM = 0.05


# --- against what a GPU took


@pytest.fixture(scope="module")
def sdxl():
    return sdxl_on_meta()


@pytest.mark.parametrize(
    "case", H200["cases"], ids=lambda case: "{variant}-{batch_size}-{engine}".format(**case["case"])
)
def test_what_an_h200_took_is_predicted(sdxl, configs, case):
    pipe, net = sdxl
    asked, memory = case["case"], configs.profile("random-sdxl").memory
    if asked["engine"] != "imagelab":  # stock diffusers decodes pictures whole
        memory = memory.model_copy(update={"vae_slicing": False, "vae_tiling": False})
    job = Job(
        width=1024,
        height=1024,
        pictures=asked["batch_size"],
        loras=bool(asked["loras"]),
        controls=int(bool(asked["control"])),
        net_bytes=weight_bytes(net),  # in all of the cases: each was warmed up before any was measured
    )
    before = pipe.vae.config.force_upcast
    pipe.vae.register_to_config(force_upcast=asked["engine"] == "diffusers_fp32_vae")
    try:
        predicted = predict(job, memory, measure_footprint(pipe, CUDA)).peak_gib
    finally:
        pipe.vae.register_to_config(force_upcast=before)
    assert predicted == pytest.approx(case["peak_allocated_gib"], rel=AIM)


def test_what_one_pass_of_the_unet_took_is_predicted(sdxl):
    models = measure_footprint(sdxl[0], CUDA)
    modes = json.loads((REPORTS / "benchmarks" / "unet-step-NVIDIA-H200-20261126.json").read_text())["rows"]
    measured = next(row["peak_allocated_gib"] for row in modes if row["mode"] == "CUDA graph of the pass")
    predicted = (models.unet + models.libraries + 2 * models.activations.unet.at(128**2)) / GIB
    assert predicted == pytest.approx(measured, rel=AIM)


# --- against what drawing on the CPU takes


@pytest.fixture(scope="module")
def puppet(configs):
    with CharacterGenerator("puppet", "cpu", configs) as generator:
        generator.load()
        yield generator


def taken_gib(generator, request, pictures, memory):
    """Draw, and return the weights with the most bytes that were alive beside them."""
    models = generator._models
    models.use(memory, ())
    generator.generate_together(request, [0])  # ControlNets are read, and whatever is kept is kept
    modules = [getattr(models.loaded.pipe, name) for name in ("unet", "vae", "text_encoder", "text_encoder_2")]
    modules += [models.nets._nets[folder].module for folder in models.nets.folders]
    gc.collect()
    with LiveBytes(tensor for module in modules for tensor in (*module.parameters(), *module.buffers())) as live:
        generator.generate_together(request, range(pictures))
    return (sum(map(weight_bytes, modules)) + live.peak) / GIB, live.peak / GIB


@pytest.mark.parametrize(
    ("size", "pictures", "guidance_scale", "changed"),
    [
        ((64, 64), 1, 4.0, {}),
        ((128, 128), 1, 4.0, {}),
        ((128, 128), 8, 1.0, {}),
        ((128, 128), 4, 4.0, {"vae_slicing": True}),
        ((192, 128), 3, 4.0, {}),
        ((256, 256), 1, 4.0, {"vae_tiling": True}),
        ((256, 192), 2, 1.0, {"vae_tiling": True, "vae_slicing": True}),
        ((256, 256), 2, 4.0, {}),
    ],
)
def test_what_drawing_takes_on_a_cpu_is_predicted(puppet, configs, size, pictures, guidance_scale, changed):
    memory = configs.profile("puppet").memory.model_copy(update=changed)
    request = dataclasses.replace(PLAIN, width=size[0], height=size[1], steps=1, guidance_scale=guidance_scale)
    total, beside_weights = taken_gib(puppet, request, pictures, memory)
    models = puppet._models.contract.footprint
    job = Job(width=size[0], height=size[1], pictures=pictures, guided=guidance_scale > 1)
    job = dataclasses.replace(job, net_bytes=sum_of_nets(puppet))
    predicted = predict(job, memory, models, offloads=False).peak_gib
    assert predicted == pytest.approx(total, rel=AIM)
    weights = total - beside_weights
    assert predicted - weights == pytest.approx(beside_weights, rel=0.15), "activations alone, too"


def sum_of_nets(generator):
    return controlnet_bytes(generator._models.nets.folders, generator._models.loaded.pipe.unet.dtype)


@pytest.mark.parametrize("preset", ["draft", "standard", "high"])
def test_presets_take_what_their_size_takes(puppet, configs, preset):
    request = dataclasses.replace(PLAIN, quality_preset=preset, steps=1)
    memory = configs.profile("puppet").memory
    total, _ = taken_gib(puppet, request, 2, memory)
    job = puppet._models.job(puppet._plan(request), 2)
    assert predict(job, memory, puppet._models.contract.footprint).peak_gib == pytest.approx(total, rel=AIM)


@pytest.fixture(scope="module")
def controlled():
    lines = Image.fromarray(np.eye(128, dtype=np.uint8) * 255).convert("RGB")
    return dataclasses.replace(PLAIN, controls=(ControlUse(type="canny", image=lines, is_map=True),))


@pytest.mark.parametrize("pictures", [1, 4])
def test_what_a_controlnet_takes_is_predicted_before_it_is_read(configs, controlled, pictures):
    request = controlled
    with CharacterGenerator("puppet", "cpu", configs) as generator:
        generator.load()
        models = generator._models
        assert not models.nets.folders
        job = models.job(generator._plan(request), pictures)
        memory = models.memory.model_copy(
            update={"vae_tiling": True, "vae_slicing": True}
        )  # so that steps are the peak
        predicted = predict(job, memory, models.contract.footprint, offloads=False).peak_gib
        total, _ = taken_gib(generator, request, pictures, memory)
        assert job.net_bytes == sum(weight_bytes(net.module) for net in models.nets._nets.values())
    assert predicted == pytest.approx(total, rel=PROMISED)


def test_bytes_are_counted_for_as_long_as_their_storage_lives():
    given = torch.ones(1000)
    with LiveBytes([given]) as live:
        _ = given.view(10, 100)
        assert live.live == 0, "a view of what was there"
        doubled = given * 2
        part = doubled[:10]
        del doubled
        assert live.live == 4000, "a part keeps the whole"
        del part
        assert (live.live, live.peak) == (0, 4000)


# --- and held to


def test_a_batch_that_is_predicted_not_to_fit_is_drawn_in_parts_that_do(configs):
    with CharacterGenerator("puppet", "cpu", configs) as generator:
        generator.load()
        models = generator._models
        memory = models.memory
        two = predict(models.job(generator._plan(PLAIN), 2), memory, models.contract.footprint, offloads=False).peak_gib
        models.contract.limit_gib = two * 1.01
        sizes = []
        hook = models.loaded.pipe.unet.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
        with hook, degraded("not 5 pictures at once"):
            drawn = generator.generate_together(PLAIN, range(5))
        assert set(sizes) == {4, 2}, "with and without a prompt, two pictures at the most"
        assert [each.record.seed for each in drawn] == list(range(5))
        for each in drawn:
            assert each.record.degraded == ("more memory predicted than limit_gib allows: not 5 pictures at once",)
            assert each.record.predicted_vram_gib <= models.contract.limit_gib
        assert models.memory == memory


def test_a_picture_that_is_predicted_not_to_fit_whole_is_decoded_in_tiles_within_the_limit(configs):
    request = dataclasses.replace(PLAIN, width=256, height=256)
    with CharacterGenerator("puppet", "cpu", configs) as generator:
        generator.load()
        models = generator._models
        assert not models.memory.vae_tiling
        job, models_memory = models.job(generator._plan(request), 1), models.memory
        whole = predict(job, models_memory, models.contract.footprint, offloads=False).peak_gib
        models.contract.limit_gib = whole * 0.9
        with degraded("the VAE decodes in tiles"):
            record = generator.generate(request).record
        assert record.vae_tile_px == models.memory.vae_tile_px
        total, _ = taken_gib(generator, request, 1, models.memory)
        assert total <= models.contract.limit_gib
        assert record.predicted_vram_gib == pytest.approx(total, rel=AIM)


def test_a_controlnet_that_an_earlier_picture_has_left_goes_before_anything_is_given_up(configs, controlled):
    """Else the same picture would be drawn otherwise after one with a control than before."""
    plain = dataclasses.replace(PLAIN, seed=1)
    with CharacterGenerator("puppet", "cpu", configs) as generator:
        before = generator.generate(plain)
        generator.generate(controlled)
        models, plan = generator._models, generator._plan(plain)
        alone = dataclasses.replace(models.job(plan, 1), net_bytes=0)
        models.contract.limit_gib = models.contract.predict_gib(alone, models.memory) * 1.001
        assert models.nets.folders
        after = generator.generate(plain)
        assert models.nets.folders == ()
    assert (after.record.degraded, after.image.tobytes()) == ((), before.image.tobytes())


def test_what_fits_in_no_way_is_refused_before_anything_is_allocated(configs):
    with CharacterGenerator("puppet", "cpu", configs) as generator:
        generator.load()
        models = generator._models
        models.contract.limit_gib = sum(map(weight_bytes, (models.loaded.pipe.unet, models.loaded.pipe.vae))) / GIB
        assert models.contract.footprint.unet  # counted on the meta device: bytes that LiveBytes sees and nobody has
        known = [each for name in ("unet", "vae") for each in getattr(models.loaded.pipe, name).parameters()]
        with LiveBytes(known) as live, pytest.raises(OutOfMemoryError, match=r"128 x 128 px need .* are allowed"):
            generator.generate(PLAIN)
        assert live.peak == 0
        models.contract.limit_gib = None
        assert generator.generate(PLAIN).record.degraded == ()


def test_without_a_limit_nothing_is_predicted(puppet):
    assert puppet._models.contract.limit_gib is None
    assert puppet.generate(PLAIN).record.predicted_vram_gib == 0


def test_limit_of_a_profile_is_held_to(configs):
    limited = with_memory(configs, limit_gib=MemoryLimit(cpu=0.001))
    with CharacterGenerator("puppet", "cpu", limited) as generator, pytest.raises(OutOfMemoryError, match="limit_gib"):
        generator.generate(PLAIN)


# --- on a card of 16 GB


def test_a_smaller_room_goes_down_the_whole_ladder_and_each_rung_takes_less(sdxl, configs):
    models = measure_footprint(sdxl[0], CUDA)
    memory = configs.profile("sdxl").memory.model_copy(update={"vae_tiling": False, "vae_slicing": False})
    job, rooms = Job(width=1024, height=1024, pictures=4), [20.0, 9.1, 8.0, 6.0, 5.5, 1.0, 0.1]
    found = [fit(job, memory, models, room, CUDA) for room in rooms]
    reached = [(each.job.pictures, each.memory.vae_tiling, each.memory.policy) for each in found]
    assert reached == [
        (4, False, "resident"),
        (1, False, "resident"),
        (1, True, "resident"),
        (1, True, "text_encoder_offload"),
        (1, True, "model_offload"),
        (1, True, "sequential_offload"),
        (1, True, "sequential_offload"),
    ]
    assert [each.fits for each in found] == [True] * 6 + [False]
    peaks = [each.prediction.peak_gib for each in found]
    assert peaks == sorted(peaks, reverse=True)


@pytest.mark.parametrize(("controls", "room_gib"), [(0, 6.3), (1, 8.7)])
def test_without_its_text_encoders_sdxl_fits_a_card_of_8_gb_and_one_of_10_with_a_controlnet(
    sdxl, configs, controls, room_gib
):
    models, memory = measure_footprint(sdxl[0], CUDA), configs.profile("sdxl").memory
    job = Job(width=1024, height=1024, loras=True, controls=controls, net_bytes=controls * weight_bytes(sdxl[1]))
    found = fit(job, memory, models, room_gib, CUDA)
    assert (found.fits, found.given_up) == (True, ("text_encoder_offload",))
    saved = predict(job, memory, models).peak_gib - found.prediction.peak_gib
    assert saved == pytest.approx(sum(models.text) / GIB, rel=0.01), "the encoders, and nothing else"


def test_a_policy_to_begin_with_that_does_not_exist_is_refused(configs):
    with pytest.raises(InvalidValueError, match=r"one of resident, text_encoder_offload.*'lean'"):
        tabulate(configs.profile("sdxl"), 15.0, "lean")


def test_every_preset_size_and_batch_of_sdxl_is_predicted_to_fit_16_gb(configs, record_property):
    profile = configs.profile("sdxl")
    assert profile.memory.limit_gib.cuda == 15.0, "what drawing holds itself to"
    cases = predict_cases(profile, 15.0)
    over = [case for case in cases if case.fit.prediction.peak_gib > 15.0]
    record_property("counted", f"{len(over)} of {len(cases)} presets, sizes and batches are predicted over 15.0 GiB")
    assert not over
    assert {case.preset for case in cases} == set(profile.quality_presets)
    assert any(case.asked_gib > 15.0 for case in cases), "else nothing had to be given up"


def test_the_committed_table_is_what_is_predicted_now(configs):
    committed = read_measurement(REPORTS / "predicted-memory-16-gb.json")
    now = tabulate(configs.profile("sdxl"), 15.0)
    assert (committed.rows, committed.facts, committed.what) == (now.rows, now.facts, now.what)
