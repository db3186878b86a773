"""One measurement: a case drawn once, stage by stage."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from imagelab.benchmark.cases import Case, LoraChange
from imagelab.benchmark.limits import synchronize
from imagelab.benchmark.report import LoraSample, Sample
from imagelab.benchmark.resident import peak_resident_gib, reset_peak_resident
from imagelab.benchmark.stock import draw_stock
from imagelab.character import CharacterGenerator
from imagelab.compiling import eagerly
from imagelab.consistency import CharacterConsistencyChecker
from imagelab.devices import within_memory
from imagelab.errors import GenerationError
from imagelab.imagefiles import save_png
from imagelab.plan import plan_generation
from imagelab.vram import read_vram, reset_peak

if TYPE_CHECKING:
    from PIL.Image import Image


_SMALLER = "Measure fewer pictures at once"


class Drawn(NamedTuple):
    """A case's pictures, the GiB that they should take, and what was given up for the memory."""

    images: "list[Image]"
    predicted_gib: float = 0.0  # 0 without a prediction
    degraded: tuple[str, ...] = ()


class Measured(NamedTuple):
    """A sample, the last latents of its pictures (pictures, 4, h/8, w/8) on the CPU, and what they had to wait for."""

    sample: Sample
    latents: Tensor
    ready_seconds: float  # for LoRAs, ControlNets and hooks to be put where the case has them


@dataclass(kw_only=True)
class _Clock:
    """When first and last steps were done, on the device and not only asked for, and the latents after the last ones.

    There are several of them where the memory lets pictures be drawn in parts only, or a second time.
    """

    device: torch.device
    steps: int
    began: float = 0.0  # the first step, of all or of the part that is being drawn
    first: float | None = None  # the first step of the first part
    parts: list[float] = field(default_factory=list)  # seconds between first and last step of each
    latents: list[Tensor] = field(default_factory=list)

    def __call__(self, step: int, _: int, latents: Tensor) -> None:
        if step not in (1, self.steps):  # each look stalls the GPU: no more than needed
            return
        synchronize(self.device)
        now = perf_counter()
        if step == 1:
            self.began = now
            return
        if self.first is None:
            self.first = self.began
        self.parts.append(now - self.began)
        self.latents.append(latents.clone())  # the tensor itself may be written to when the next part is drawn

    @property
    def step(self) -> float:
        """Return the seconds of one step."""
        return sum(self.parts) / len(self.parts) / (self.steps - 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Bench:
    """What pictures are drawn, judged and written with."""

    generator: CharacterGenerator
    checker: CharacterConsistencyChecker
    control_image: "Image"
    folder: Path  # pictures are written to it
    capped: bool = False  # whether memory is short: our ControlNets then make room for whoever knows nothing of them

    def steps(self, case: Case) -> int:
        """Return how many steps the case's preset takes."""
        return self.generator.profile.preset(case.quality_preset).steps

    def make_ready(self, case: Case, pictures: int) -> float:
        """Put weights where a case has them, of its LoRAs and no others; return the seconds that took.

        What another case had to give up for its memory is taken back, and what so many pictures ask for given up.
        """
        device = self.generator.load().device
        synchronize(device)
        start = perf_counter()
        self.generator.restore_memory_policy()
        if self.capped and not pictures:
            self.generator.drop_controlnets()
        self.generator.make_ready(case.request(self.control_image), pictures)
        synchronize(device)
        return perf_counter() - start

    def draw(self, case: Case, seeds: Sequence[int], on_step: Callable[..., object] | None = None) -> Drawn:
        """Draw the case's pictures; raises OutOfMemoryError, also where stock diffusers runs out of memory."""
        request = case.request(self.control_image)
        if case.engine == "imagelab":
            self.generator.forget_prompts()  # stock diffusers encodes them each time, and so does whoever draws once
            made = self.generator.generate_together(request, seeds, on_step)
            degraded = tuple(dict.fromkeys(what for each in made for what in each.record.degraded))
            return Drawn([each.image for each in made], made[0].record.predicted_vram_gib, degraded)
        plan = plan_generation(self.generator.configs, self.generator.profile, request)
        fp32_vae = case.engine == "diffusers_fp32_vae"
        stock = partial(draw_stock, self.generator.load(), plan, seeds, on_step, fp32_vae=fp32_vae)
        return Drawn(within_memory(stock, _SMALLER))

    def measure(self, case: Case, round_number: int) -> Measured:
        """Draw, judge and write the case's pictures once, with its LoRAs in the weights.

        Memory counts whatever is resident, the ControlNet of a case before this one included, but for stock diffusers
        under a cap. That draws with models that aren't compiled. Raises OutOfMemoryError, or GenerationError for
        latents that aren't finite.
        """
        pipe = self.generator.load().pipe
        stock = (pipe.unet, pipe.vae.decoder) if case.engine != "imagelab" else ()
        ready = self.make_ready(case, 0 if stock else case.batch_size)  # stock diffusers gives nothing up
        with eagerly(*stock):
            return self._measure(case, round_number, ready)

    def change_loras(self, change: LoraChange, round_number: int) -> LoraSample:
        """Measure how long the weights take to have other LoRAs; raises OutOfMemoryError."""
        preset = self.generator.profile.default_quality_preset
        self.make_ready(Case(quality_preset=preset, loras=change.before), 0)
        seconds = self.make_ready(Case(quality_preset=preset, loras=change.after), 0)
        return LoraSample(change=change.name, round=round_number, seconds=seconds)

    def _measure(self, case: Case, round_number: int, ready: float) -> Measured:
        device = self.generator.load().device
        seeds = range(round_number * case.batch_size, (round_number + 1) * case.batch_size)
        clock = _Clock(device=device, steps=self.steps(case))
        reset_peak(device)
        reset_peak_resident()
        synchronize(device)
        start = perf_counter()
        images, predicted, degraded = self.draw(case, seeds, clock)
        drawn = perf_counter()
        vram, resident = read_vram(device), peak_resident_gib()
        list(self.checker.faces_in(images))
        judged = perf_counter()
        for seed, image in zip(seeds, images, strict=True):
            save_png(image, self.folder / f"{seed}.png")
        written = perf_counter()
        text = (clock.first or start) - start - clock.step
        denoise = len(clock.parts) * clock.steps * clock.step
        sample = Sample(
            case=case.name,
            round=round_number,
            seconds={
                "text": text,
                "denoise": denoise,
                "vae": drawn - start - text - denoise,
                "face": judged - drawn,
                "write": written - judged,
                "picture": (drawn - start) / case.batch_size,
            },
            iterations_per_second=1 / clock.step,
            peak_allocated_gib=vram.peak_gib,
            peak_reserved_gib=vram.peak_reserved_gib,
            peak_resident_gib=resident,
            predicted_gib=predicted,
            degraded=degraded,
        )
        latents = torch.cat(clock.latents).float().cpu()
        if not latents.isfinite().all():  # ours were looked at; broken numbers are also faster to compute
            raise GenerationError(f"NaN or infinity in the last latents of {case.name}", "Measure with another dtype")
        return Measured(sample, latents, ready)
