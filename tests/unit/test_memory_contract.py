"""Memory is predicted before it is taken: near what was measured, and held to."""

import dataclasses
import gc
import json
import re
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from memory_policies import with_memory
from PIL import Image
from test_memory_ladder import degraded

from imagelab import CharacterGenerator, GenerationRequest
from imagelab.config import MemoryLimit
from imagelab.config.sdxl import MemoryPolicyName
from imagelab.controls import MAX_CONTROLS
from imagelab.encoding import encode_prompt
from imagelab.errors import InvalidValueError, ModelFileError, OutOfMemoryError
from imagelab.memory_contract import Job, LiveBytes, fit, measure_footprint, net_of, predict, read_net, weight_bytes
from imagelab.memory_table import predict_cases, tabulate
from imagelab.plan import MAX_TOGETHER
from imagelab.prompts import Prompt
from imagelab.random_sdxl import sdxl_on_meta, union_on_meta
from imagelab.reporting import read_measurement
from imagelab.results import ControlUse

ROOT = Path(__file__).parents[2]
REPORTS = ROOT / "reports"
TABLE = REPORTS / "predicted-memory-16-gb.json"
H200 = json.loads((REPORTS / "benchmarks" / "random-sdxl-cuda-NVIDIA-H200-20261126T060000.json").read_text())
GIB = 2**30
CUDA = torch.device("cuda")
PLAIN = GenerationRequest(
    character=None, scene_description="the sea", quality_preset="draft", steps=2, use_character_loras=False
)
AIM = 0.05
KINDS = ("pose", "depth", "canny", "normal", "seg")
LONG = "the sea, " + " ".join(f"a boat {number} with a red sail" for number in range(100))


# --- against what a GPU took


@pytest.fixture(scope="module")
def sdxl():
    return sdxl_on_meta()


@pytest.mark.parametrize(
    "case", H200["cases"], ids=lambda case: "{variant}-{batch_size}-{engine}".format(**case["case"])
)
def test_what_an_h200_took_is_predicted(sdxl, configs, case):
    pipe, net = sdxl
    asked, ours = case["case"], case["case"]["engine"] == "imagelab"  # which still had tiles; stock diffusers hasn't
    memory = configs.profile("random-sdxl").memory.model_copy(update={"vae_slicing": ours, "vae_tiling": ours})
    job = Job(
        width=1024,
        height=1024,
        pictures=asked["batch_size"],
        loras=bool(asked["loras"]),
        controls=(net_of(net, "ControlNet"),) if asked["control"] else (),
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
    generator.forget_prompts()
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
    return sum(weight_bytes(net.module) for net in generator._models.nets._nets.values())


@pytest.mark.parametrize("preset", ["draft", "standard", "high"])
def test_presets_take_what_their_size_takes(puppet, configs, preset):
    request = dataclasses.replace(PLAIN, quality_preset=preset, steps=1)
    memory = configs.profile("puppet").memory
    total, _ = taken_gib(puppet, request, 2, memory)
    job = puppet._models.job(puppet._plan(request), 2)
    assert predict(job, memory, puppet._models.contract.footprint).peak_gib == pytest.approx(total, rel=AIM)


def use(kind, **given):
    lines = Image.fromarray(np.eye(128, dtype=np.uint8) * 255).convert("RGB")
    return ControlUse(type=kind, image=lines, is_map=True, end=1.0, **given)  # at each step


SETS = {
    "none": (),
    "one": (use("canny"),),
    "three, each of its own": (use("canny"), use("pose"), use("depth")),
    "one net of one control and one of three": (use("canny"), *(use(kind, model="union") for kind in KINDS[:3])),
    "all by one net": tuple(use(kind, model="union") for kind in KINDS),
}


@pytest.fixture(scope="module")
def controlled():
    return dataclasses.replace(PLAIN, controls=SETS["one"])


@pytest.mark.parametrize(
    ("controls", "scene", "pictures"),
    [
        ("none", LONG, 1),
        ("none", LONG, 8),
        ("one", "the sea", 1),
        ("one", "the sea", 8),
        ("one", LONG, 1),
        ("one", LONG, 8),
        ("three, each of its own", "the sea", 8),
        ("three, each of its own", LONG, 1),
        ("one net of one control and one of three", LONG, 8),
        ("all by one net", "the sea", 8),
        ("all by one net", LONG, 1),
    ],
    ids=lambda value: "long" if value == LONG else str(value),
)
def test_what_prompts_and_controls_take_is_predicted_before_a_controlnet_is_read(puppet, controls, scene, pictures):
    """Of 64 px, where a long prompt takes more than the picture; steps are the peak, not the VAE."""
    request = dataclasses.replace(PLAIN, scene_description=scene, controls=SETS[controls], width=64, height=64)
    models = puppet._models
    memory = models.memory.model_copy(update={"vae_tiling": True, "vae_slicing": True})
    models.nets.clear()
    job = models.job(puppet._plan(request), pictures)
    predicted = predict(job, memory, models.contract.footprint, offloads=False).peak_gib
    assert (job.chunks > 8) == (scene == LONG)
    total, beside_weights = taken_gib(puppet, request, pictures, memory)
    assert job.net_bytes == sum_of_nets(puppet)
    assert predicted == pytest.approx(total, rel=AIM)
    assert predicted - (total - beside_weights) == pytest.approx(beside_weights, rel=0.15), "activations alone, too"


def test_a_long_negative_prompt_counts_as_much_as_a_long_prompt(puppet):
    long = dataclasses.replace(PLAIN, scene_description=LONG, width=64, height=64)
    negative = dataclasses.replace(PLAIN, negative_prompt=LONG, width=64, height=64)
    jobs = [puppet._models.job(puppet._plan(request), 2) for request in (long, negative)]
    assert jobs[0] == jobs[1]
    memory = puppet._models.memory
    total, _ = taken_gib(puppet, negative, 2, memory)
    predicted = predict(jobs[1], memory, puppet._models.contract.footprint, offloads=False).peak_gib
    assert predicted == pytest.approx(total, rel=AIM)


def test_what_longer_prompts_take_while_they_are_encoded_is_predicted(puppet):
    pipe, models = puppet.pipeline, puppet._models.contract.footprint
    peaks, memory = [], puppet._models.memory
    for chunks in (4, 24):
        prompt = Prompt(positive=" BREAK ".join(["a (red:1.2) hat"] * chunks), negative="")
        with LiveBytes([*pipe.text_encoder.parameters(), *pipe.text_encoder_2.parameters()]) as live:
            encode_prompt(pipe, prompt)
        predicted = predict(Job(width=64, height=64, chunks=chunks), memory, models, offloads=False).text
        peaks.append((live.peak, predicted * GIB))
    measured, predicted = (b - a for a, b in zip(*peaks, strict=True))
    assert predicted == pytest.approx(measured, rel=0.10)


def test_a_controlnet_that_does_not_fit_the_unet_is_told_of_when_it_is_counted(puppet, tmp_path):
    plan = puppet._plan(dataclasses.replace(PLAIN, controls=SETS["three, each of its own"]))
    nets = [read_net(control.folder, torch.float32) for control in plan.controls]
    config = json.loads(nets[1].config) | {"in_channels": 5}
    odd = dataclasses.replace(nets[1], name=str(tmp_path), config=json.dumps(config))
    with pytest.raises(ModelFileError, match="is no ControlNet for this UNet") as caught:
        puppet._models.contract.footprint.activations.controlled([nets[0], odd, nets[2]])
    assert str(tmp_path) in str(caught.value)


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


def test_what_was_given_up_for_one_picture_is_taken_back_for_the_next(configs):
    large = dataclasses.replace(PLAIN, width=256, height=256)
    with CharacterGenerator("puppet", "cpu", configs) as generator:
        before = generator.generate(dataclasses.replace(PLAIN, seed=1))
        models = generator._models
        job = models.job(generator._plan(large), 1)
        models.contract.limit_gib = models.contract.predict_gib(job, models.memory) * 0.9
        with degraded("the VAE decodes in tiles"):
            assert generator.generate(large).record.vae_tile_px
        after = generator.generate(dataclasses.replace(PLAIN, seed=1))
        assert (after.record.degraded, after.image.tobytes()) == ((), before.image.tobytes())
        with degraded("the VAE decodes in tiles"):
            assert generator.generate(large).record.vae_tile_px


def test_a_long_prompt_is_drawn_with_fewer_at_once_and_refused_where_one_does_not_fit(configs):
    request = dataclasses.replace(PLAIN, scene_description=LONG, width=64, height=64)
    with CharacterGenerator("puppet", "cpu", configs) as generator:
        generator.load()
        models = generator._models
        same_size = dataclasses.replace(request, scene_description="the sea")
        short = models.contract.predict_gib(models.job(generator._plan(same_size), 1), models.memory)
        two = models.contract.predict_gib(models.job(generator._plan(request), 2), models.memory)
        models.contract.limit_gib = two * 1.01
        with degraded("not 4 pictures at once"):
            drawn = generator.generate_together(request, range(4))
        assert [each.record.batch_size for each in drawn] == [2] * 4
        assert all(each.record.predicted_vram_gib == pytest.approx(two) for each in drawn)
        models.contract.limit_gib = short * 1.01
        with pytest.raises(OutOfMemoryError, match="or by a shorter prompt"):
            generator.generate(request)
        assert generator.generate(same_size).record.degraded == ()


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
        (1, False, "text_encoder_offload"),
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
    nets = (net_of(sdxl[1], "ControlNet"),) * controls
    job = Job(width=1024, height=1024, loras=True, controls=nets, net_bytes=sum(net.nbytes for net in nets))
    found = fit(job, memory, models, room_gib, CUDA)
    assert (found.fits, found.given_up) == (True, ("text_encoder_offload", "the VAE decodes in tiles"))
    tiled = memory.model_copy(update={"vae_tiling": True})
    saved = predict(job, tiled, models).peak_gib - found.prediction.peak_gib
    assert saved == pytest.approx(sum(models.text) / GIB, rel=0.01), "the encoders, and nothing else"


def test_a_policy_to_begin_with_that_does_not_exist_is_refused(configs):
    with pytest.raises(InvalidValueError, match=r"one of resident, text_encoder_offload.*'lean'"):
        tabulate(configs.profile("sdxl"), 15.0, "lean")


def test_the_gib_of_decision_21_and_of_the_configuration_are_what_is_predicted_now(sdxl, configs):
    models, net, memory = (
        measure_footprint(sdxl[0], CUDA),
        net_of(sdxl[1], "ControlNet"),
        configs.profile("sdxl").memory,
    )
    plain = Job(width=1024, height=1024, loras=True)
    jobs = (plain, dataclasses.replace(plain, controls=(net,), net_bytes=net.nbytes))
    decision = (ROOT / "docs" / "decisions" / "0021-take-only-the-text-encoders-off-the-gpu.md").read_text()
    comment = " ".join((ROOT / "configs" / "sdxl_config.yaml").read_text().replace("#", "").split())
    for policy in get_args(MemoryPolicyName):
        ways = [memory.model_copy(update={"policy": policy, "vae_tiling": tiles}) for tiles in (False, True)]
        gib = [predict(job, way, models).peak_gib for way in ways for job in jobs]
        assert f"| {policy} | " + " | ".join(f"{each:.2f}" for each in gib) + " |" in decision
        assert re.search(rf"\b{policy} {gib[0]:.1f} and {gib[1]:.1f}\b", comment.replace(" GiB", ""))


@pytest.mark.parametrize("controls", [0, 1])
def test_profiles_draw_one_picture_of_their_sizes_as_configured(sdxl, configs, controls):
    """Whole, with all models on the GPU: so the default is what stock diffusers draws, and the fastest."""
    models, nets = measure_footprint(sdxl[0], CUDA), (net_of(sdxl[1], "ControlNet"),) * controls
    limited = [each for each in configs.sdxl.profiles.values() if each.memory.limit_gib.cuda]
    assert {profile.name for profile in limited} == {"sdxl", "random-sdxl"}
    for profile in limited:
        for width, height in profile.sizes.values():
            job = Job(width=width, height=height, loras=True, controls=nets, net_bytes=sum(net.nbytes for net in nets))
            found = fit(job, profile.memory, models, profile.memory.limit_gib.cuda, CUDA)
            assert (found.fits, found.given_up, found.memory.vae_tiling) == (True, (), False)


def test_everything_that_sdxl_is_asked_for_is_predicted_to_fit_16_gb_in_some_way(configs, record_property):
    profile = configs.profile("sdxl")
    assert profile.memory.limit_gib.cuda == 15.0, "what drawing holds itself to"
    cases = predict_cases(profile, 15.0)
    over = [case for case in cases if case.fit.prediction.peak_gib > 15.0]
    record_property("counted", f"{len(over)} of {len(cases)} cases are predicted over 15.0 GiB")
    assert not over
    assert {case.preset for case in cases} == set(profile.quality_presets)
    assert {case.job.pictures for case in cases} == {*range(1, 9), 16, 32, MAX_TOGETHER}
    assert {len(case.job.controls) for case in cases} == {0, 1, MAX_CONTROLS}
    assert {case.job.chunks for case in cases} == {1, 25}
    assert any(case.asked_gib > 15.0 for case in cases), "else nothing had to be given up"


def test_the_most_that_the_table_finds_is_the_most_that_fits(sdxl, configs):
    facts = read_measurement(TABLE).facts
    profile, net = configs.profile("sdxl"), net_of(sdxl[1], "ControlNet")
    models, union = measure_footprint(sdxl[0], CUDA), net_of(union_on_meta(sdxl[0].unet), "union")
    largest = Job(width=2048, height=2048, loras=True)
    fits = []
    for more in (0, 1):
        nets = [dataclasses.replace(net, name=str(i)) for i in range(facts["most_different_controlnets"] + more)]
        several = dataclasses.replace(largest, controls=tuple(nets), net_bytes=sum(each.nbytes for each in nets))
        chunks = facts["most_chunks_of_a_prompt"] + more
        long = dataclasses.replace(largest, chunks=chunks, controls=(union,) * MAX_CONTROLS, net_bytes=union.nbytes)
        fits.append([fit(job, profile.memory, models, 15.0, CUDA).fits for job in (several, long)])
    assert fits == [[True, True], [False, False]]


def test_the_committed_table_is_what_is_predicted_now(configs):
    committed = read_measurement(TABLE)
    now = tabulate(configs.profile("sdxl"), 15.0)
    assert (committed.rows, committed.facts, committed.what) == (now.rows, now.facts, now.what)
