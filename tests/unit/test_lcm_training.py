"""The distillation of guided steps: its schedule is diffusers' own, and what comes out is a LoRA of the puppets."""

from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, LCMScheduler, StableDiffusionXLPipeline
from small_world import rendered
from torch import Tensor

from imagelab.config import load_configs
from imagelab.lora import inspect_lora, profile_base
from imagelab.puppets.train import dataset
from imagelab.puppets.train.base import NOISE, Latents
from imagelab.puppets.train.lcm import (
    MOST_BYTES,
    RANK,
    STEPS,
    Schedule,
    cut_ranks,
    distillation_loss,
    save_lcm,
    student_of,
    train_lcm,
)
from imagelab.puppets.train.loop import Plan
from imagelab.puppets.train.text import token_ids

WEIGHTS = Path(str(files("imagelab.puppets"))) / "weights"


@pytest.fixture(scope="module")
def pipe() -> StableDiffusionXLPipeline:
    return StableDiffusionXLPipeline.from_pretrained(WEIGHTS / "base", dtype=torch.float32)


@pytest.fixture(scope="module")
def small_world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    work = tmp_path_factory.mktemp("studio")
    with rendered(work):
        yield work


def test_the_times_are_those_that_lcms_scheduler_can_draw_from() -> None:
    scheduler = LCMScheduler(**NOISE)
    scheduler.set_timesteps(STEPS)
    schedule = Schedule()
    assert schedule.times.flip(0).tolist() == scheduler.timesteps.tolist()
    assert schedule.earlier.tolist() == [-1, *schedule.times[:-1].tolist()]


def test_a_step_of_the_teacher_is_one_of_ddim() -> None:
    scheduler = DDIMScheduler(**NOISE, clip_sample=False, set_alpha_to_one=True, timestep_spacing="trailing")
    scheduler.set_timesteps(STEPS)
    schedule, generator = Schedule(), torch.Generator().manual_seed(0)
    noisy, noise = (torch.randn(1, 4, 8, 8, generator=generator) for _ in range(2))
    for step in (0, 20, STEPS - 1):
        time, earlier = schedule.times[step : step + 1], schedule.earlier[step : step + 1]
        wanted = scheduler.step(noise, time.item(), noisy).prev_sample
        torch.testing.assert_close(schedule.step(noisy, noise, time, earlier), wanted, rtol=1e-4, atol=1e-5)


def test_what_the_student_says_is_what_lcms_scheduler_makes_of_it() -> None:
    schedule, generator = Schedule(), torch.Generator().manual_seed(0)
    noisy, noise = (torch.randn(1, 4, 8, 8, generator=generator) for _ in range(2))
    scheduler = LCMScheduler(**NOISE)
    scheduler.set_timesteps(4)
    for time in scheduler.timesteps:
        wanted = scheduler.step(noise, time, noisy, generator=generator).denoised
        torch.testing.assert_close(schedule.consistent(noisy, noise, time[None]), wanted, rtol=1e-4, atol=1e-4)


def test_training_lets_the_student_contradict_itself_less(pipe: StableDiffusionXLPipeline, small_world: Path) -> None:
    split = dataset.render_bucket("square", small_world / "data")
    latents = torch.randn(len(split.images), 4, 16, 16, generator=torch.Generator().manual_seed(0))
    data, empty, schedule = Latents(latents, split, pipe.tokenizer), token_ids(pipe.tokenizer, [""]), Schedule()
    student = student_of(pipe.unet)

    def loss() -> Tensor:
        same = torch.Generator().manual_seed(0)
        return distillation_loss(student, pipe, data, empty, schedule, same, batch=4)

    learning = [parameter for parameter in student.parameters() if parameter.requires_grad]
    optimizer, first = torch.optim.Adam(learning, 1e-3), loss().item()
    for _ in range(4):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    assert loss().item() < 0.9 * first


def test_what_is_distilled_is_a_lora_that_fits_the_puppets(
    pipe: StableDiffusionXLPipeline, small_world: Path, tmp_path: Path
) -> None:
    before = {name: value.clone() for name, value in pipe.unet.state_dict().items()}
    tensors = train_lcm(pipe, small_world, plan=Plan(steps=2, rate=1e-3, warmup=1, average=0.5))
    assert all(torch.equal(value, before[name]) for name, value in pipe.unet.state_dict().items())
    assert all(tensor.any() for tensor in tensors.values())
    save_lcm(tensors, tmp_path / "lcm.safetensors")
    report = inspect_lora(tmp_path / "lcm.safetensors", base=profile_base(load_configs().profile("puppet")))
    assert report.faults == ()
    assert report.unmatched_keys == ()
    assert {module.component for module in report.modules} == {"unet"}
    assert {module.rank for module in report.modules} <= set(range(1, RANK + 1))
    assert report.size_bytes < 1.2 * MOST_BYTES


def test_cut_ranks_keep_what_changes_the_weights_most() -> None:
    generator = torch.Generator().manual_seed(0)
    plain = [torch.randn(shape, generator=generator) for shape in ((RANK, 40), (30, RANK))]
    spatial = [torch.randn(shape, generator=generator) / 100 for shape in ((RANK, 8, 3, 3), (12, RANK, 1, 1))]
    names = [f"unet.{name}.lora_{matrix}.weight" for name in ("conv1", "to_q") for matrix in "AB"]
    tensors = dict(zip(names, (*spatial, *plain), strict=True))

    whole = cut_ranks(tensors, 10**9)
    for name in ("unet.conv1", "unet.to_q"):
        own, wanted = (
            held[f"{name}.lora_B.weight"].float().flatten(1) @ held[f"{name}.lora_A.weight"].float().flatten(1)
            for held in (whole, tensors)
        )
        assert (own - wanted).norm() < 1e-2 * wanted.norm()
    few = cut_ranks(tensors, 5 * 2 * (40 + 30))
    assert {name: tuple(tensor.shape) for name, tensor in few.items()} == {names[2]: (5, 40), names[3]: (30, 5)}
