"""diffusers' SDXL pipeline: set up for a device, and drawn from, one picture at a time or several."""

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import accelerate
import diffusers
import torch
from diffusers import AutoencoderKL, StableDiffusionXLControlNetPipeline, StableDiffusionXLPipeline
from diffusers.models.attention_processor import AttnProcessor2_0
from torch import Tensor

from imagelab.config import MemoryPolicy, Scheduler
from imagelab.devices import within_memory
from imagelab.encoding import Embeddings
from imagelab.errors import GenerationError
from imagelab.guidance import GuidanceSwitch

if TYPE_CHECKING:
    from PIL.Image import Image

OFFLOAD = "Set memory.policy in sdxl_config.yaml to model_offload"
_TEXT_ENCODERS = ("text_encoder", "text_encoder_2")
OnStep = Callable[[int, int, Tensor], object]  # (step, of how many, latents (pictures, 4, h/8, w/8))


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedPipeline:
    """A pipeline ready to draw, and what it was made of."""

    pipe: StableDiffusionXLPipeline
    device: torch.device
    sha256: dict[str, str]  # {file: hash} of the weights
    degraded: tuple[str, ...]  # what the device couldn't do as configured
    scheduler_config: dict[str, Any] = field(repr=False)  # as the weights brought it
    compiled_by: str | None = None  # which C++ compiler; None: the models aren't compiled

    @property
    def dtype(self) -> torch.dtype:
        """Return the dtype of the UNet's weights; they all have one, and `unet.dtype` walks through all of them."""
        dtype: torch.dtype = next(self.pipe.unet.parameters()).dtype
        return dtype

    def offloads(self, memory: MemoryPolicy) -> bool:
        """Say whether hooks move the models that draw to and fro, not only the text encoders."""
        return self.device.type == "cuda" and memory.policy in {"model_offload", "sequential_offload"}

    @contextmanager
    def weights_at_hand(self, memory: MemoryPolicy) -> Iterator[None]:
        """Take the offloading hooks off while weights are rewritten: under some policies they are elsewhere."""
        hooked = self.offloads(memory) or memory.policy == "text_encoder_offload"
        if hooked:
            self.pipe.remove_all_hooks()
        try:
            yield
        finally:
            if hooked:
                apply_memory_policy(self.pipe, memory, self.device)


@dataclass(frozen=True, kw_only=True, slots=True)
class Guide:
    """ControlNets in a pipeline of their own, which shares its other models, and what they follow."""

    pipe: StableDiffusionXLControlNetPipeline
    maps: "tuple[Image, ...]"  # RGB, of the size of the picture to be drawn
    scales: tuple[float, ...]
    starts: tuple[float, ...]  # fractions of the steps
    ends: tuple[float, ...]

    def arguments(self) -> dict[str, Any]:
        """Return what the pipeline's call takes beside that of one without ControlNets."""
        return {
            "image": list(self.maps),
            "controlnet_conditioning_scale": list(self.scales),
            "control_guidance_start": list(self.starts),
            "control_guidance_end": list(self.ends),
        }


def use_sdpa(*modules: Any) -> None:
    """Make every attention of diffusers' modules PyTorch's own scaled_dot_product_attention."""
    for module in modules:
        module.set_attn_processor(AttnProcessor2_0())


def apply_memory_policy(
    pipe: StableDiffusionXLPipeline | StableDiffusionXLControlNetPipeline, memory: MemoryPolicy, device: torch.device
) -> tuple[str, ...]:
    """Put the models where the policy says and set up the VAE; return what the device couldn't do.

    May be called again, with another policy.
    """
    pipe.remove_all_hooks()
    _tile_vae(pipe.vae, memory)
    # ControlNets run at each step as the UNet does, so they stay on the GPU whole; besides, accelerate's hooks miss
    # MultiheadAttention.out_proj in a union one, whose weight is used without a call of its module.
    pipe._exclude_from_cpu_offload = ["controlnet"]  # noqa: SLF001  diffusers' own switch, otherwise of a class
    if memory.policy == "text_encoder_offload":
        _offload_text_encoders(pipe, device)
        return ()
    if device.type != "cuda" or memory.policy == "resident":
        pipe.to(device)
        offloads = memory.policy != "resident"
        return (f"{memory.policy} needs CUDA: the models stay on {device.type}",) if offloads else ()
    if memory.policy == "model_offload":
        pipe.enable_model_cpu_offload(device=device)
    else:
        pipe.enable_sequential_cpu_offload(device=device)
    return ()


def _offload_text_encoders(pipe: Any, device: torch.device) -> None:
    """Keep the text encoders' weights in CPU memory; a layer has them on the device while it runs, and no longer.

    Whole encoders that come and go would take 1.3 GiB beside the other models: more than the rest of a drawing.
    """
    models = {name: model for name, model in pipe.components.items() if isinstance(model, torch.nn.Module)}
    staying = [name for name in models if name not in _TEXT_ENCODERS]
    pipe._exclude_from_cpu_offload = staying  # noqa: SLF001  it asks the others' hooks where to draw
    for name in staying:
        models[name].to(device)
    for name in _TEXT_ENCODERS:
        accelerate.cpu_offload(models[name].to("cpu"), device)


def _tile_vae(vae: AutoencoderKL, memory: MemoryPolicy) -> None:
    vae.use_slicing, vae.use_tiling = memory.vae_slicing, memory.vae_tiling
    # The default tile is 1024 px, and a picture is tiled only if it is larger: SDXL's never was.
    vae.tile_sample_min_size = memory.vae_tile_px
    vae.tile_latent_min_size = memory.vae_tile_px // 2 ** (len(vae.config.block_out_channels) - 1)


def build_scheduler(scheduler: Scheduler, base_config: dict[str, Any]) -> Any:
    """Make a fresh scheduler; `base_config` is what the weights brought, which knows how they were trained."""
    # Only what the class knows, and without from_config, which takes longer to ask for it than to make the scheduler.
    scheduler_class = getattr(diffusers, scheduler.class_name)
    known = _init_names(scheduler_class)
    return scheduler_class(**{key: value for key, value in base_config.items() if key in known} | scheduler.kwargs)


@cache
def _init_names(scheduler_class: type) -> frozenset[str]:
    return frozenset(inspect.signature(scheduler_class).parameters)


def draw(
    loaded: LoadedPipeline,
    embeddings: Embeddings,
    scheduler: Scheduler,
    *,
    seeds: Sequence[int],
    width: int,
    height: int,
    steps: int,
    guidance_scale: float,
    guidance_start: float = 0.0,
    guidance_stop: float = 1.0,
    on_step: OnStep | None = None,
    guide: Guide | None = None,
) -> "list[Image]":
    """Draw a picture of (width, height) px from each seed, all of them at once.

    The noise comes from a CPU generator of each picture's own, in float32: the same for every device, dtype and batch.
    (Euler a draws more of it at each step, in the dtype of the weights.) What is drawn at once differs in the last bits
    from what is drawn alone: other kernels add in another order. `on_step(step, steps, latents)` is called after each
    step, counted from 1. A `guide` brings its own pipeline. Only steps between `guidance_start` and `guidance_stop`,
    fractions of them all, are guided. Raises GenerationError when NaNs, infinities or an empty picture come out, and
    when diffusers' flag to interrupt has ended it early.
    """
    pipe = guide.pipe if guide else loaded.pipe
    generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
    pipe.scheduler = build_scheduler(scheduler, loaded.scheduler_config)
    finite: list[Tensor] = []
    guidance: dict[str, Any] = {"guidance_scale": guidance_scale}
    switch = None
    if (guidance_start, guidance_stop) != (0.0, 1.0):
        switch = GuidanceSwitch(
            guidance_scale=guidance_scale,
            start=guidance_start,
            stop=guidance_stop,
            steps=steps,
            pictures=len(seeds),
            embeddings=embeddings,
        )
        guidance = switch.arguments(controlled=guide is not None)

    def after_step(_: Any, step: int, __: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        finite.append(tensors["latents"].isfinite().all())  # looked at in the end: asking a GPU now would stall it
        if on_step is not None:
            on_step(step + 1, steps, tensors["latents"])
        return switch.go_to(step + 1, tensors) if switch else {}

    pixels = _run(
        pipe,
        prompt_embeds=embeddings.positive,
        negative_prompt_embeds=embeddings.negative,
        pooled_prompt_embeds=embeddings.pooled_positive,
        negative_pooled_prompt_embeds=embeddings.pooled_negative,
        num_images_per_prompt=len(seeds),
        latents=noise(loaded, width, height, generators),
        generator=generators,
        width=width,
        height=height,
        num_inference_steps=steps,
        output_type="pt",
        callback_on_step_end=after_step,
        **guidance,
        **(guide.arguments() if guide else {}),
    )
    if pipe.interrupt:  # what has come out looks like a picture, and lacks steps
        raise GenerationError(
            f"interrupted after step {len(finite)} of {steps}, by pipeline._interrupt", "Draw it again"
        )
    # On its way while the pixels are waited for, which follow it: so asking costs no wait of its own.
    good = torch.stack([*finite, pixels.isfinite().all()]).to("cpu", non_blocking=True)
    decoded = pipe.image_processor.pt_to_numpy(pixels)
    _check_finite(good.tolist())
    images: list[Image] = pipe.image_processor.numpy_to_pil(decoded)
    for seed, image in zip(seeds, images, strict=True):
        if len(image.getcolors(2) or ()) == 1:
            reason = f"the picture of seed {seed} is of one colour all over"
            raise GenerationError(reason, "Try other settings; the model may be damaged")
    return images


def noise(loaded: LoadedPipeline, width: int, height: int, generators: Sequence[torch.Generator]) -> Tensor:
    """Return what pictures of (width, height) px begin with, each from its own generator: (pictures, 4, h/8, w/8)."""
    factor = loaded.pipe.vae_scale_factor
    shape = (1, loaded.pipe.unet.config.in_channels, height // factor, width // factor)
    return torch.cat([torch.randn(shape, generator=own) for own in generators]).to(loaded.dtype)


def _run(pipe: Any, **given: Any) -> Tensor:
    pixels: Tensor = within_memory(partial(pipe, **given), OFFLOAD).images  # (pictures, 3, h, w) in 0..1
    return pixels


def _check_finite(good: list[bool]) -> None:
    """Raise GenerationError unless all is finite: the latents after each step, and at last the picture."""
    *steps, picture = good
    if not all(steps):
        reason = f"NaN or infinity in the latents after step {steps.index(False) + 1} of {len(steps)}"
        raise GenerationError(reason, "Lower guidance_scale and the LoRAs' weights; the weights may be damaged")
    if not picture:
        raise GenerationError("NaN or infinity in the decoded picture", "Use a VAE that is fit for the dtype")
