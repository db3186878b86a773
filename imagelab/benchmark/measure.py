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

    from imagelab.results import Generation


_SMALLER = "Measure fewer pictures at once"


class Drawn(NamedTuple):
    """A case's pictures, how many at once, the GiB that they should take, and what was given up for the memory."""

    images: "list[Image]"
    parts: tuple[int, ...]
    predicted_gib: float = 0.0  # 0 without a prediction
    degraded: tuple[str, ...] = ()


def _parts_of(made: "Sequence[Generation]") -> tuple[int, ...]:
    """Return how many of the pictures were drawn at once, part by part."""
    sizes: list[int] = []
    while sum(sizes) < len(made):
        sizes.append(made[sum(sizes)].record.batch_size)
    return tuple(sizes)


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
    parts: list[tuple[float, Tensor]] = field(default_factory=list)  # seconds from the first to the last step, latents

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
        # a clone, because the tensor itself may be written to when the next part is drawn
        self.parts.append((now - self.began, latents.clone()))

    def kept(self, sizes: Sequence[int]) -> list[tuple[float, Tensor]]:
        """Return the parts that became pictures, of so many each: others have run out of memory after their steps."""
        parts, wanted = [], list(sizes)
        for seconds, latents in reversed(self.parts):  # a part that failed comes before what was drawn in its place
            if wanted and len(latents) == wanted[-1]:
                parts.append((seconds, latents))
                wanted.pop()
        return parts[::-1]


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
        within_memory(partial(self.generator.make_ready, case.request(self.control_image), pictures), _SMALLER)
        synchronize(device)
        return perf_counter() - start

    def draw(self, case: Case, seeds: Sequence[int], on_step: Callable[..., object] | None = None) -> Drawn:
        """Draw the case's pictures; raises OutOfMemoryError, also where stock diffusers runs out of memory."""
        request = case.request(self.control_image)
        if case.engine == "imagelab":
            self.generator.forget_prompts()  # stock diffusers encodes them each time, and so does whoever draws once
            made = self.generator.generate_together(request, seeds, on_step)
            degraded = tuple(dict.fromkeys(what for each in made for what in each.record.degraded))
            predicted = made[0].record.predicted_vram_gib
            return Drawn([each.image for each in made], _parts_of(made), predicted, degraded)
        plan = plan_generation(self.generator.configs, self.generator.profile, request)
        fp32_vae = case.engine == "diffusers_fp32_vae"
        stock = partial(draw_stock, self.generator.load(), plan, seeds, on_step, fp32_vae=fp32_vae)
        return Drawn(within_memory(stock, _SMALLER), (len(seeds),))

    def measure(self, case: Case, round_number: int) -> Measured:
        """Draw, judge and write the case's pictures once, with its LoRAs in the weights.

        Memory counts whatever is resident, the ControlNet of a case before this one included, but for stock diffusers
        under a cap. That draws with models that aren't compiled. Raises OutOfMemoryError, or GenerationError for
        latents that aren't finite.
        """
        pipe = self.generator.load().pipe
        stock = (pipe.unet, pipe.vae.decoder) if case.engine != "imagelab" else ()
        if self.capped and stock:
            self.generator.drop_controlnets()
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
        images, sizes, predicted, degraded = self.draw(case, seeds, clock)
        drawn = perf_counter()
        parts = clock.kept(sizes)
        step = sum(seconds for seconds, _ in parts) / len(parts) / (clock.steps - 1)
        vram, resident = read_vram(device), peak_resident_gib()
        list(self.checker.faces_in(images))
        judged = perf_counter()
        for seed, image in zip(seeds, images, strict=True):
            save_png(image, self.folder / f"{seed}.png")
        written = perf_counter()
        text = (clock.first or start) - start - step
        denoise = len(parts) * clock.steps * step
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
            iterations_per_second=1 / step,
            peak_allocated_gib=vram.peak_gib,
            peak_reserved_gib=vram.peak_reserved_gib,
            peak_resident_gib=resident,
            predicted_gib=predicted,
            degraded=degraded,
        )
        latents = torch.cat([latents for _, latents in parts]).float().cpu()
        if not latents.isfinite().all():  # ours were looked at; broken numbers are also faster to compute
            raise GenerationError(f"NaN or infinity in the last latents of {case.name}", "Measure with another dtype")
        return Measured(sample, latents, ready)
