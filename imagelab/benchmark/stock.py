"""diffusers' own SDXL pipeline on the models that a generator has loaded: what imagelab is measured against."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from diffusers import AutoencoderKL, StableDiffusionXLPipeline

from imagelab.pipeline import LoadedPipeline, build_scheduler, noise
from imagelab.plan import Plan

if TYPE_CHECKING:
    from PIL.Image import Image


def draw_stock(
    loaded: LoadedPipeline,
    plan: Plan,
    seeds: Sequence[int],
    on_step: Callable[..., object] | None = None,
    *,
    fp32_vae: bool,
) -> "list[Image]":
    """Draw a plan without its LoRAs and controls, as diffusers does by itself; `fp32_vae` decodes in float32.

    `on_step(step, steps, latents)` as in `draw`. It begins with the noise that ours does: what differs then is drawing.
    """
    pipe = StableDiffusionXLPipeline(**loaded.pipe.components, add_watermarker=False)
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = build_scheduler(plan.scheduler, loaded.scheduler_config)

    def after_step(_: Any, step: int, __: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        if on_step is not None:
            on_step(step + 1, plan.steps, tensors["latents"])
        return {}

    generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
    with _vae_as_published(pipe.vae, fp32=fp32_vae):
        images: list[Image] = pipe(
            prompt=plan.prompt.positive,
            negative_prompt=plan.prompt.negative,
            num_images_per_prompt=len(seeds),
            latents=noise(loaded, plan.width, plan.height, generators),  # which diffusers draws in the models' dtype
            generator=generators,
            width=plan.width,
            height=plan.height,
            num_inference_steps=plan.steps,
            guidance_scale=plan.guidance_scale,
            callback_on_step_end=after_step,
        ).images
    return images


@contextmanager
def _vae_as_published(vae: AutoencoderKL, *, fp32: bool) -> Iterator[None]:
    """Switch off tiles and slices, which diffusers doesn't use unasked; in float32 as SDXL's own VAE asks for."""
    before = vae.use_slicing, vae.use_tiling, vae.config.force_upcast
    vae.use_slicing = vae.use_tiling = False
    vae.register_to_config(force_upcast=fp32)
    try:
        yield
    finally:
        vae.use_slicing, vae.use_tiling, upcast = before
        vae.register_to_config(force_upcast=upcast)
