"""Measure cases in turns, so that what drifts (clocks, heat, neighbours) reaches all of them alike."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import torch
from tqdm.auto import tqdm

from imagelab.benchmark.cases import Case
from imagelab.benchmark.limits import count_flop, matmul_flop_per_second
from imagelab.benchmark.measure import Bench
from imagelab.benchmark.report import BenchmarkReport, Sample, base_of, report_case
from imagelab.character import CharacterGenerator
from imagelab.checks import check_whole
from imagelab.compiling import eagerly
from imagelab.config import Configs, load_configs
from imagelab.consistency import CharacterConsistencyChecker
from imagelab.devices import device_name
from imagelab.environment import read_environment
from imagelab.errors import InvalidValueError
from imagelab.pipeline import LoadedPipeline
from imagelab.versions import drawing_versions

if TYPE_CHECKING:
    from PIL.Image import Image

_GIB = 2**30


def run_benchmark(
    cases: Sequence[Case],
    *,
    profile: str | None = None,
    device: str = "auto",
    runs: int = 5,
    vram_cap_gib: float | None = None,
    configs: Configs | None = None,
    progress: bool | None = None,
    compiled: bool | None = None,
) -> BenchmarkReport:
    """Measure each case `runs` times, the cases in turns, every second round backwards.

    Before that each is drawn, judged and written once to warm up, and its arithmetic is counted. `vram_cap_gib` lets
    PyTorch have so much of the GPU's memory only, as a smaller card would. `compiled` models are ours, never stock
    diffusers'; None: as the profile says. Nothing is kept of the pictures. Raises what
    drawing raises, and InvalidValueError for cases or runs that aren't there.
    """
    check_whole(runs, "runs", 1, 10_000)
    if not cases:
        raise InvalidValueError("cases", [], "at least one")
    configs = configs or load_configs()
    with (
        CharacterGenerator(profile, device, configs, compiled=compiled) as generator,
        CharacterConsistencyChecker("auto", generator.profile.name, configs) as checker,
        TemporaryDirectory(prefix="imagelab-bench-") as folder,
        ExitStack() as stack,
    ):
        loaded = generator.load()
        where = loaded.device
        stack.enter_context(_capped(where, vram_cap_gib))
        image = _control_image(generator)
        bench = Bench(generator=generator, checker=checker, control_image=image, folder=Path(folder))
        quiet = None if progress is None else not progress
        flop = _warm_up(bench, cases, disable=quiet)
        rate = matmul_flop_per_second(where, generator.pipeline.unet.dtype)
        samples = _measure(bench, cases, runs, disable=quiet)
        by_case = {case.name: [sample for sample in samples if sample.case == case.name] for case in cases}
        return BenchmarkReport(
            profile=generator.profile.name,
            measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
            machine=_machine(loaded, checker),
            flop_per_second=rate,
            cases=tuple(
                report_case(
                    case,
                    by_case[case.name],
                    by_case.get(base_of(case).name, ()),
                    flop=flop[case.name],
                    rate=rate,
                    profile=generator.profile,
                )
                for case in cases
            ),
            samples=tuple(samples),
            targets_for=generator.profile.targets.device,
            vram_cap_gib=vram_cap_gib,
        )


@contextmanager
def _capped(device: torch.device, vram_cap_gib: float | None) -> Iterator[None]:
    if vram_cap_gib is None:
        yield
        return
    if device.type != "cuda":
        raise InvalidValueError("vram_cap_gib", vram_cap_gib, f"None: the models are on {device.type}")
    there = torch.cuda.get_device_properties(device).total_memory / _GIB
    if not 0 < vram_cap_gib <= there:
        raise InvalidValueError("vram_cap_gib", vram_cap_gib, f"more than 0 and at most {there:.1f}, what there is")
    before = torch.cuda.get_per_process_memory_fraction(device)
    torch.cuda.set_per_process_memory_fraction(vram_cap_gib / there, device)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(before, device)


def _control_image(generator: CharacterGenerator) -> "Image":
    """Return a map to follow: a picture of fine lines, of the size that the profile draws by default."""
    import numpy as np
    from PIL import Image

    width, height = generator.profile.size_px(generator.profile.preset().size)
    across, down = np.meshgrid(np.arange(width), np.arange(height))
    lines = ((across // 8 + down // 8) % 8 == 0).astype(np.uint8) * 255
    return Image.fromarray(np.stack([lines] * 3, axis=-1))


def _warm_up(bench: Bench, cases: Sequence[Case], *, disable: bool | None) -> dict[str, int]:
    """Draw each case once; return what arithmetic a picture of it is: the same in a batch, and for whoever does it.

    It is counted when the case's LoRAs are in the weights, so that putting them there doesn't count or not by the order
    of the cases.
    """
    loaded, counts, flop = bench.generator.load(), dict[Case, int](), dict[str, int]()
    for case in tqdm(cases, desc="warm-up", disable=disable):
        bench.measure(case, 0)
        alone = replace(case, batch_size=1, engine="imagelab")
        if alone not in counts:
            with eagerly(loaded.pipe.unet, loaded.pipe.vae.decoder):  # what is compiled can't be counted
                counts[alone] = count_flop(partial(bench.draw, alone, [0]), loaded.device)
        flop[case.name] = counts[alone]
    return flop


def _measure(bench: Bench, cases: Sequence[Case], runs: int, *, disable: bool | None) -> list[Sample]:
    samples = []
    with tqdm(total=runs * len(cases), desc="measure", disable=disable) as bar:
        for number in range(runs):
            for case in cases if number % 2 == 0 else reversed(cases):
                samples.append(bench.measure(case, number))
                bar.update()
    return samples


def _machine(loaded: LoadedPipeline, checker: CharacterConsistencyChecker) -> Mapping[str, str]:
    faces = ", ".join(checker.providers)
    return {
        "device": device_name(loaded.device),
        "processor": read_environment(loaded.device).processor,
        "threads": str(torch.get_num_threads()),
        "faces": faces,
        **drawing_versions(loaded.compiled_by),
    }
