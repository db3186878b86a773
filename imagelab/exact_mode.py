"""What each part of exact mode saves of a picture's seconds, what it should save, and how far it moves the latents.

A part is switched on alone, by turns with the models as diffusers loads them; last come all that imagelab uses. Each
prediction is counted or profiled before: nothing is fitted.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from time import perf_counter, process_time
from typing import Any

import diffusers
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention
from torch.profiler import ProfilerActivity, profile
from tqdm.auto import tqdm

from imagelab.benchmark import paired_ratio
from imagelab.benchmark.limits import count_flop, synchronize
from imagelab.calibration.intervals import geometric_mean
from imagelab.character import CharacterGenerator
from imagelab.checks import check_whole
from imagelab.compiling import eagerly
from imagelab.config import Configs, Profile, Scheduler
from imagelab.devices import device_name
from imagelab.encoded_prompts import EncodedPrompts
from imagelab.environment import read_environment
from imagelab.errors import OutOfMemoryError
from imagelab.loading import load_pipeline
from imagelab.pipeline import LoadedPipeline, draw
from imagelab.prompt_attention import asking_prompts_once
from imagelab.prompts import Prompt
from imagelab.reporting import Measurement
from imagelab.versions import drawing_versions

PROMPT = "running on the beach, excited expression"
EAGER = "as diffusers loads them"
ATTENTION = {
    "math": SDPBackend.MATH,
    "flash": SDPBackend.FLASH_ATTENTION,
    "memory-efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cuDNN": SDPBackend.CUDNN_ATTENTION,
}
# What fusing kernels takes nothing from: ATen's products, convolutions and attention, as the profiler names them.
_HEAVY = ("mm", "addmm", "bmm", "baddbmm", "mkldnn_convolution", "cudnn_convolution", "convolution_overrideable")
_HEAVY_ATTENTION = ("_scaled_dot_product", "_flash_attention", "_efficient_attention", "_cudnn_attention")
_FLOOR_PICTURES = 3
_ARITHMETIC = "arithmetic, counted"
_HEAVY_ALONE = "products, convolutions and attention alone, profiled"

Around = Callable[[LoadedPipeline], AbstractContextManager[object]]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Way:
    """A way to draw: what is done around the drawing, and whether imagelab draws so."""

    part: str
    used: str
    around: Around = nullcontext
    prompt_kept: bool = False
    attention: bool = False
    compiled: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class _Seen:
    seconds: list[float] = field(default_factory=list)
    latents: list[Tensor] = field(default_factory=list)  # after the last step, of each round's seed


@dataclass(frozen=True, kw_only=True, slots=True)
class _Studio:
    """What pictures are drawn with: the profile's default preset and size."""

    loaded: LoadedPipeline
    prompts: EncodedPrompts
    prompt: Prompt
    scheduler: Scheduler
    settings: Mapping[str, Any]  # what `draw` takes beside these

    def draw(self, seed: int, *, prompt_kept: bool) -> Tensor:
        """Draw one picture; return the latents after its last step."""
        seen: list[Tensor] = []
        if not prompt_kept:
            self.prompts.forget()
        embeddings = self.prompts.encode(self.prompt, loras=())
        draw(
            self.loaded,
            embeddings,
            self.scheduler,
            seeds=[seed],
            on_step=lambda step, steps, latents: seen.append(latents.clone()) if step == steps else None,
            **self.settings,
        )
        return seen[0]

    @contextmanager
    def ready(self, way: _Way) -> Iterator[Callable[[int], Tensor]]:
        """Give what draws a picture of a seed in one way."""
        models = () if way.compiled else (self.loaded.pipe.unet, self.loaded.pipe.vae.decoder)
        with eagerly(*models), way.around(self.loaded):
            yield partial(self.draw, prompt_kept=way.prompt_kept)


def measure_exact_mode(
    profile: str | None = None,
    *,
    device: str = "auto",
    rounds: int = 10,
    configs: Configs | None = None,
    compiled: bool = True,
    progress: bool | None = None,
) -> Measurement:
    """Draw a picture of the profile's default preset in each way, `rounds` times by turns, and return the table.

    Without `compiled` nothing is compiled, which takes a minute or more. Raises what drawing raises, and
    InvalidValueError for fewer than two rounds, of which no interval can be told.
    """
    check_whole(rounds, "rounds", 2, 10_000)
    with CharacterGenerator(profile, device, configs, compiled=compiled) as generator:
        studio = _studio(generator)
        ways = _ways(studio.loaded, compiled=compiled)
        predicted = _predict(studio, ways)
        seen = _by_turns(studio, ways, rounds, disable=None if progress is None else not progress)
        base, own = seen[EAGER], generator.profile
        dtype = str(studio.loaded.dtype).removeprefix("torch.")
        largest = max(one.abs().max().item() for one in base.latents)
        seconds = "seconds of the CPU" if studio.loaded.device.type == "cpu" else "seconds"
        width, height, steps = (studio.settings[name] for name in ("width", "height", "steps"))
        return Measurement(
            what="Parts of exact mode, each alone beside models that are as diffusers loads them: a picture of profile "
            f"{own.name}, {width} x {height} px, {steps} steps, {dtype}; {rounds} rounds by turns, {seconds}",
            command=f"python -m imagelab bench-exact --profile {own.name} --rounds {rounds}"
            + ("" if compiled else " --no-compile"),
            machine={
                "device": device_name(studio.loaded.device),
                "processor": read_environment(studio.loaded.device).processor,
                "threads": str(torch.get_num_threads()),
                **drawing_versions(studio.loaded.compiled_by),
            },
            facts={"largest_latent": round(largest, 2), **_floor(own, studio, base)},
            rows=tuple(_row(way, seen[way.part], base, predicted[way.part]) for way in ways),
        )


def _studio(generator: CharacterGenerator) -> _Studio:
    preset = generator.profile.preset()
    width, height = generator.profile.size_px(preset.size)
    loaded = generator.load()
    return _Studio(
        loaded=loaded,
        prompts=EncodedPrompts(pipe=loaded.pipe),
        prompt=Prompt(positive=PROMPT, negative=""),
        scheduler=generator.configs.scheduler(preset.scheduler),
        settings={"width": width, "height": height, "steps": preset.steps, "guidance_scale": preset.guidance_scale},
    )


def _ways(loaded: LoadedPipeline, *, compiled: bool) -> list[_Way]:
    attention = [
        _Way(
            part=f"attention by {name}",
            used="PyTorch chooses",
            around=partial(_attending_by, backend),
            attention=True,
        )
        for name, backend in ATTENTION.items()
        if _attends(backend, loaded)
    ]
    at_last = _Way(part="all that is always used", used="always", around=_asking_once, prompt_kept=True)
    fused = [
        _Way(part="compiled", used="if asked for", compiled=True),
        _Way(
            part="compiled, and all that is always used",
            used="if asked for",
            around=_asking_once,
            prompt_kept=True,
            compiled=True,
        ),
    ]
    return [
        _Way(part=EAGER, used="no"),
        _Way(part="the same again", used="no"),
        _Way(part="prompts encoded once", used="always", prompt_kept=True),
        _Way(part="keys and values of prompts asked once", used="always", around=_asking_once),
        _Way(part="channels_last", used="compiled models", around=_channels_last),
        *attention,
        at_last,
        *(fused if compiled else []),
    ]


def _asking_once(loaded: LoadedPipeline) -> AbstractContextManager[object]:
    return asking_prompts_once(loaded.pipe.unet)


def _attending_by(backend: SDPBackend, _: LoadedPipeline) -> AbstractContextManager[object]:
    # Plain products are left for heads that are too wide for it, as the one of SDXL's VAE is.
    return sdpa_kernel(list(dict.fromkeys((backend, SDPBackend.MATH))), set_priority=True)


@contextmanager
def _channels_last(loaded: LoadedPipeline) -> Iterator[None]:
    models = loaded.pipe.unet, loaded.pipe.vae
    for model in models:
        model.to(memory_format=torch.channels_last)
    try:
        yield
    finally:
        for model in models:
            model.to(memory_format=torch.contiguous_format)


def _attends(backend: SDPBackend, loaded: LoadedPipeline) -> bool:
    """Say whether the device has an attention of this kind for heads of SDXL's width."""
    heads = torch.zeros(1, 1, 8, 64, device=loaded.device, dtype=loaded.dtype)
    try:
        with sdpa_kernel(backend):
            scaled_dot_product_attention(heads, heads, heads)
    except RuntimeError:  # no viable backend
        return False
    return True


def _predict(studio: _Studio, ways: Sequence[_Way]) -> dict[str, tuple[float, str]]:
    """Return the share of the eager seconds that each way should take, and what says so; draws a few pictures more."""
    device, predicted = studio.loaded.device, dict[str, tuple[float, str]]()
    with studio.ready(ways[0]) as picture:
        picture(0)
        whole = count_flop(partial(picture, 0), device)
        heavy = _heavy_share(partial(picture, 0), device)
    for way in ways:
        share = 1.0
        if not way.attention:  # of which only plain products can be counted on a CPU
            with studio.ready(replace(way, compiled=False)) as picture:  # what is compiled can't be counted
                picture(0)  # keeps the prompt
                share = count_flop(partial(picture, 0), device) / whole
        predicted[way.part] = (share * heavy, _HEAVY_ALONE) if way.compiled else (share, _ARITHMETIC)
    return predicted


def _heavy_share(picture: Callable[[], object], device: torch.device) -> float:
    """Return the share of a picture's time that goes into products, convolutions and attention."""
    on_gpu = device.type == "cuda"
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]) as profiler:
        start = perf_counter()
        picture()
        synchronize(device)
        seconds = perf_counter() - start
    events = [event for event in profiler.key_averages() if _is_heavy(event.key.removeprefix("aten::"))]
    spent = sum(event.self_device_time_total if on_gpu else event.self_cpu_time_total for event in events)
    return min(1.0, float(spent) / 1e6 / seconds)


def _is_heavy(name: str) -> bool:
    return name in _HEAVY or name.startswith(_HEAVY_ATTENTION)


def _clock(device: torch.device) -> Callable[[], float]:
    """Return the clock that counts: a CPU's own, of all threads, which its other users slow down less."""
    return process_time if device.type == "cpu" else perf_counter


def _by_turns(studio: _Studio, ways: Sequence[_Way], rounds: int, *, disable: bool | None) -> dict[str, _Seen]:
    seen, device = {way.part: _Seen() for way in ways}, studio.loaded.device
    clock = _clock(device)
    for way in ways:  # to warm up: of what is compiled it's here
        with studio.ready(way) as picture:
            picture(0)
    with tqdm(total=rounds * len(ways), desc="measure", disable=disable) as bar:
        for number in range(rounds):
            for way in ways if number % 2 == 0 else reversed(ways):
                with studio.ready(way) as picture:
                    synchronize(device)
                    start = clock()
                    latents = picture(number)
                    synchronize(device)
                    seen[way.part].seconds.append(clock() - start)
                seen[way.part].latents.append(latents.float().cpu())
                bar.update()
    return seen


def _floor(profile: Profile, studio: _Studio, base: _Seen) -> dict[str, float | str]:
    """Compare with the latents by the same weights in the other of float16 and float32."""
    other = "float32" if studio.loaded.dtype == torch.float16 else "float16"
    dtype = profile.dtype.model_copy(update={"cpu": other, "cuda": other})
    plain = profile.model_copy(update={"dtype": dtype, "compiled": False})
    name = f"largest_difference_of_latents_between_{'_and_'.join(sorted((str(studio.loaded.dtype)[6:], other)))}"
    with _unadvised():
        try:
            loaded = load_pipeline(plain, str(studio.loaded.device))
            loaded.pipe.vae.register_to_config(force_upcast=False)  # the latents alone are compared
            there = replace(studio, loaded=loaded, prompts=EncodedPrompts(pipe=loaded.pipe))
            pictures = [there.draw(seed, prompt_kept=True) for seed in range(min(len(base.latents), _FLOOR_PICTURES))]
        except OutOfMemoryError:
            return {name: "both don't fit the memory"}
    return {name: _difference([latents.float().cpu() for latents in pictures], base.latents)}


@contextmanager
def _unadvised() -> Iterator[None]:
    """Silence diffusers' advice against float16 on a CPU, where it is slow."""
    before = diffusers.utils.logging.get_verbosity()
    diffusers.utils.logging.set_verbosity_error()
    try:
        yield
    finally:
        diffusers.utils.logging.set_verbosity(before)


def _difference(own: Sequence[Tensor], base: Sequence[Tensor]) -> float:
    """Return the largest difference of any two, of as many as there are of both, to two digits."""
    return float(f"{max((a - b).abs().max().item() for a, b in zip(own, base, strict=False)):.2g}")


def _row(way: _Way, seen: _Seen, base: _Seen, predicted: tuple[float, str]) -> dict[str, str | float]:
    row: dict[str, str | float] = {
        "part": way.part,
        "imagelab uses it": way.used,
        "seconds": round(geometric_mean(seen.seconds).value, 4),
    }
    if way.part != EAGER:
        row["seconds to the first"] = str(paired_ratio(seen.seconds, base.seconds))
        row["predicted"], row["by"] = round(predicted[0], 3), predicted[1]
        row["largest difference of latents"] = _difference(seen.latents, base.latents)
    return row
