"""One measurement: a case drawn once, stage by stage."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple

from imagelab.benchmark.cases import Case
from imagelab.benchmark.limits import synchronize
from imagelab.benchmark.report import Sample
from imagelab.benchmark.resident import peak_resident_gib, reset_peak_resident
from imagelab.benchmark.stock import draw_stock
from imagelab.character import CharacterGenerator
from imagelab.compiling import eagerly
from imagelab.consistency import CharacterConsistencyChecker
from imagelab.imagefiles import save_png
from imagelab.plan import plan_generation
from imagelab.vram import read_vram, reset_peak

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image


class Drawn(NamedTuple):
    """A case's pictures, the seconds that its LoRAs took to come into the weights, the GiB that it should take."""

    images: "list[Image]"
    lora_seconds: float = 0.0
    predicted_gib: float = 0.0  # 0 without a prediction


@dataclass(kw_only=True)
class _Clock:
    """When the first and the last step were done, on the device and not only asked for."""

    device: "torch.device"
    steps: int
    moments: list[float] = field(default_factory=list)

    def __call__(self, step: int, *_: Any) -> None:
        if step in (1, self.steps):  # each look stalls the GPU: no more than needed
            synchronize(self.device)
            self.moments.append(perf_counter())


@dataclass(frozen=True, kw_only=True, slots=True)
class Bench:
    """What pictures are drawn, judged and written with."""

    generator: CharacterGenerator
    checker: CharacterConsistencyChecker
    control_image: "Image"
    folder: Path  # pictures are written to it

    def steps(self, case: Case) -> int:
        """Return how many steps the case's preset takes."""
        return self.generator.profile.preset(case.quality_preset).steps

    def draw(self, case: Case, seeds: Sequence[int], on_step: Callable[..., object] | None = None) -> "Drawn":
        """Draw the case's pictures."""
        request = case.request(self.control_image)
        if case.engine == "imagelab":
            self.generator.forget_prompts()  # stock diffusers encodes them each time, and so does whoever draws once
            made = self.generator.generate_together(request, seeds, on_step)
            record = made[0].record
            return Drawn([each.image for each in made], record.seconds["loras"], record.predicted_vram_gib)
        plan = plan_generation(self.generator.configs, self.generator.profile, request)
        fp32_vae = case.engine == "diffusers_fp32_vae"
        return Drawn(draw_stock(self.generator.load(), plan, seeds, on_step, fp32_vae=fp32_vae))

    def measure(self, case: Case, round_number: int) -> Sample:
        """Draw, judge and write the case's pictures once.

        Memory counts whatever is resident, the ControlNet of a case before this one included. Stock diffusers draws
        with models that aren't compiled.
        """
        pipe = self.generator.load().pipe
        stock = (pipe.unet, pipe.vae.decoder) if case.engine != "imagelab" else ()
        with eagerly(*stock):
            return self._measure(case, round_number)

    def _measure(self, case: Case, round_number: int) -> Sample:
        device = self.generator.load().device
        seeds = range(round_number * case.batch_size, (round_number + 1) * case.batch_size)
        clock = _Clock(device=device, steps=self.steps(case))
        reset_peak(device)
        reset_peak_resident()
        synchronize(device)
        start = perf_counter()
        images, loras, predicted = self.draw(case, seeds, clock)
        drawn = perf_counter()
        vram, resident = read_vram(device), peak_resident_gib()
        list(self.checker.faces_in(images))
        judged = perf_counter()
        for seed, image in zip(seeds, images, strict=True):
            save_png(image, self.folder / f"{seed}.png")
        written = perf_counter()
        first, last = clock.moments
        step = (last - first) / (clock.steps - 1)
        return Sample(
            case=case.name,
            round=round_number,
            seconds={
                "loras": loras,
                "text": first - start - step - loras,
                "denoise": clock.steps * step,
                "vae": drawn - last,
                "face": judged - drawn,
                "write": written - judged,
                "picture": (drawn - start) / case.batch_size,
            },
            iterations_per_second=1 / step,
            peak_allocated_gib=vram.peak_gib,
            peak_reserved_gib=vram.peak_reserved_gib,
            peak_resident_gib=resident,
            predicted_gib=predicted,
        )
