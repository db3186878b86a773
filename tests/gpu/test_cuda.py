"""What only a GPU can show: half precision, offloading, memory given back. Skipped where there is none."""

import dataclasses
import gc

import numpy as np
import pytest
from memory_policies import with_memory

from imagelab import BatchImageGenerator, CharacterGenerator, GenerationError, GenerationRequest
from imagelab.benchmark import Case, run_benchmark
from imagelab.controls import control_use
from imagelab.exact_mode import measure_exact_mode
from imagelab.results import LoraUse

torch = pytest.importorskip("torch")
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

REQUEST = GenerationRequest(character="luca", scene_description="running on the beach", quality_preset="draft", seed=11)
MIB = 2**20
POLICIES = ("resident", "text_encoder_offload", "model_offload", "sequential_offload")


def grey_levels(one, other):
    """Mean absolute difference of two pictures."""
    return float(np.abs(np.asarray(one.image, np.int16) - np.asarray(other.image, np.int16)).mean())


def in_use():
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.synchronize()
    return torch.cuda.memory_allocated()


def guided(luca_image):
    """All at once: a LoRA of its own steps beside the character's, and a control."""
    lora = LoraUse(name="beach", weight=0.8, start=0.25, stop=0.75)
    map_use = control_use(type="canny", image=luca_image, place="control")
    return dataclasses.replace(REQUEST, additional_loras=(lora,), controls=(map_use,))


@pytest.fixture(scope="module")
def on_cuda(configs):
    with CharacterGenerator("puppet", "cuda", configs) as generator:
        yield generator


@pytest.mark.parametrize("seed", range(4))
def test_half_precision_draws_what_the_cpu_draws_within_a_bound(on_cuda, generator, seed):
    request = dataclasses.replace(REQUEST, seed=seed)
    drawn = on_cuda.generate(request)
    assert drawn.record.dtype == "float16"
    assert grey_levels(drawn, generator.generate(request)) < 4


def test_the_same_seed_draws_the_same_bits_whatever_came_before(on_cuda, luca_image):
    first = on_cuda.generate(REQUEST)
    on_cuda.generate(guided(luca_image))
    assert grey_levels(on_cuda.generate(REQUEST), first) == 0


def test_pictures_drawn_together_are_those_drawn_alone_within_a_bound(on_cuda):
    for drawn in on_cuda.generate_together(REQUEST, range(8)):
        alone = on_cuda.generate(dataclasses.replace(REQUEST, seed=drawn.record.seed))
        assert grey_levels(drawn, alone) < 2


@pytest.mark.parametrize("policy", POLICIES[1:])
def test_offloading_draws_the_same_with_a_control_and_a_lora_that_comes_and_goes(configs, on_cuda, luca_image, policy):
    request = guided(luca_image)
    with CharacterGenerator("puppet", "cuda", with_memory(configs, policy=policy)) as generator:
        for asked in (REQUEST, request, REQUEST):
            assert grey_levels(generator.generate(asked), on_cuda.generate(asked)) < 0.5


@pytest.mark.parametrize("policy", POLICIES)
def test_cleanup_gives_all_memory_back(configs, luca_image, policy):
    with CharacterGenerator("puppet", "cuda", configs) as warm:
        warm.generate(REQUEST)  # libraries keep workspaces of their own from the first use on
    before = in_use()
    with CharacterGenerator("puppet", "cuda", with_memory(configs, policy=policy)) as generator:
        generator.generate(guided(luca_image))
    assert in_use() - before < MIB


def test_loras_leave_no_residue_in_half_precision(on_cuda):
    plain = dataclasses.replace(REQUEST, use_character_loras=False)
    on_cuda.generate(plain)
    before = {name: value.clone() for name, value in on_cuda.pipeline.unet.state_dict().items()}
    for weight in (0.3, -1.5, 2.0):
        on_cuda.generate(dataclasses.replace(plain, additional_loras=(LoraUse(name="beach", weight=weight),)))
    on_cuda.generate(plain)
    assert all(torch.equal(value, before[name]) for name, value in on_cuda.pipeline.unet.state_dict().items())


def test_out_of_memory_is_one_error_and_the_next_picture_is_drawn(on_cuda):
    first = on_cuda.generate(REQUEST)
    total = torch.cuda.get_device_properties(0).total_memory
    in_use()
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 32 * MIB) / total)
    try:
        with pytest.raises(GenerationError, match="out of GPU memory"):
            on_cuda.generate_together(dataclasses.replace(REQUEST, width=256, height=256), range(64))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert grey_levels(on_cuda.generate(REQUEST), first) == 0


def test_cap_of_a_benchmark_ends_with_it():
    before = torch.cuda.get_per_process_memory_fraction()
    report = run_benchmark(
        [Case(quality_preset="draft")], profile="puppet", device="cuda", runs=1, vram_cap_gib=4, progress=False
    )

    assert report.samples[0].predicted_gib > 0  # the profile has no limit of its own
    assert torch.cuda.get_per_process_memory_fraction() == before


def test_parts_of_exact_mode_are_measured():
    found = measure_exact_mode("puppet", device="cuda", rounds=2, compiled=False, progress=False)
    rows = {row["part"]: row for row in found.rows}
    assert rows["all that is always used"]["largest difference of latents"] == 0
    assert len([part for part in rows if part.startswith("attention")]) >= 2


def test_a_batch_is_drawn_and_judged(on_cuda, tmp_path):
    with BatchImageGenerator(on_cuda) as batches:
        result = batches.generate_batch("luca", "running on the beach", 4, "draft", output_dir=tmp_path / "out")
    assert result.counts["failed"] == 0
    assert len(result.consistency_scores) >= 2
