"""Measure cases in turns, so that what drifts (clocks, heat, neighbours) reaches all of them alike."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import TYPE_CHECKING

import torch
from tqdm.auto import tqdm

from imagelab.benchmark.cases import Case, LoraChange, plan_lora_changes
from imagelab.benchmark.limits import count_flop, matmul_flop_per_second, synchronize
from imagelab.benchmark.measure import Bench
from imagelab.benchmark.report import (
    BenchmarkReport,
    LoraSample,
    OutOfMemory,
    Sample,
    by_case,
    report_case,
    report_lora_changes,
    stock_of,
)
from imagelab.character import CharacterGenerator
from imagelab.checks import check_whole
from imagelab.compiling import eagerly
from imagelab.config import Configs, Profile, load_configs
from imagelab.consistency import CharacterConsistencyChecker
from imagelab.devices import device_name, resolve_device
from imagelab.environment import read_environment
from imagelab.errors import InvalidValueError, OutOfMemoryError
from imagelab.pipeline import LoadedPipeline
from imagelab.versions import checkout, drawing_versions
from imagelab.vram import release_memory

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
    on_round: Callable[[BenchmarkReport], object] | None = None,
) -> BenchmarkReport:
    """Measure each case `runs` times, the cases in turns, every second round backwards, and then each change of LoRAs.

    Before that each is drawn, judged and written once to warm up, and its arithmetic is counted. A case has its LoRAs
    in the weights before its clock starts. One that runs out of memory isn't measured again: the report says so.
    `vram_cap_gib` lets PyTorch have so much of the GPU's memory only, as a smaller card would, and predicted memory is
    held to it (`capped`). `compiled` models are ours, never stock diffusers'; None: as the profile says.
    `on_round` is given the report of all rounds until then, whenever one is over. Nothing is kept of the pictures.
    Raises what drawing raises, and InvalidValueError for cases or runs that aren't there.
    """
    check_whole(runs, "runs", 1, 10_000)
    if not cases:
        raise InvalidValueError("cases", [], "at least one")
    configs = capped(configs or load_configs(), profile, vram_cap_gib)
    where = resolve_device(device)
    with (
        _little_vram(where, vram_cap_gib),
        CharacterGenerator(profile, device, configs, compiled=compiled) as generator,
        CharacterConsistencyChecker("auto", generator.profile.name, configs) as checker,
        TemporaryDirectory(prefix="imagelab-bench-") as folder,
    ):
        start = perf_counter()
        loaded = generator.load()
        synchronize(where)
        load_seconds = perf_counter() - start
        image = control_image(generator.profile)
        turns = Turns(
            bench=Bench(
                generator=generator,
                checker=checker,
                control_image=image,
                folder=Path(folder),
                capped=vram_cap_gib is not None,
            ),
            cases=cases,
            changes=plan_lora_changes(configs, generator.profile, cases),
            quiet=None if progress is None else not progress,
        )
        turns.warm_up()
        empty = BenchmarkReport(
            profile=generator.profile.name,
            measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
            machine=_machine(loaded, checker),
            flop_per_second=matmul_flop_per_second(where, generator.pipeline.unet.dtype),
            cases=(),
            samples=(),
            targets_for=generator.profile.targets.device,
            vram_cap_gib=vram_cap_gib,
            rounds=runs,
            load_seconds=load_seconds,
        )
        report = empty
        for _ in turns.rounds(runs):
            report = turns.fill(empty)
            if on_round is not None:
                on_round(report)
        return report


def capped(configs: Configs, profile: str | None, vram_cap_gib: float | None) -> Configs:
    """Return the configurations with a profile's `memory.limit_gib` on CUDA at most the cap; None changes nothing.

    Both are what PyTorch may use: a card's memory without what its driver and the CUDA context take of it, a GiB or so.
    """
    if vram_cap_gib is None:
        return configs
    chosen = configs.profile(profile)
    limit = chosen.memory.limit_gib
    least = vram_cap_gib if limit.cuda is None else min(limit.cuda, vram_cap_gib)
    memory = chosen.memory.model_copy(update={"limit_gib": limit.model_copy(update={"cuda": least})})
    return configs.with_profile(chosen.model_copy(update={"memory": memory}))


def check_cap(device: torch.device, vram_cap_gib: float | None) -> float:
    """Return the GiB that a GPU has, 0 without one; raises InvalidValueError for a cap that it can't have."""
    there = torch.cuda.get_device_properties(device).total_memory / _GIB if device.type == "cuda" else 0.0
    if vram_cap_gib is not None and not there:
        raise InvalidValueError("vram_cap_gib", vram_cap_gib, f"None: the models are on {device.type}")
    if vram_cap_gib is not None and not 0 < vram_cap_gib <= there:
        raise InvalidValueError("vram_cap_gib", vram_cap_gib, f"more than 0 and at most {there:.1f}, what there is")
    return there


@contextmanager
def _little_vram(device: torch.device, vram_cap_gib: float | None) -> Iterator[None]:
    there = check_cap(device, vram_cap_gib)
    if vram_cap_gib is None:
        yield
        return
    before = torch.cuda.get_per_process_memory_fraction(device)
    torch.cuda.set_per_process_memory_fraction(vram_cap_gib / there, device)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(before, device)


def control_image(profile: Profile) -> "Image":
    """Return a map to follow: a picture of fine lines, of the size that a profile draws by default."""
    import numpy as np
    from PIL import Image

    width, height = profile.size_px(profile.preset().size)
    across, down = np.meshgrid(np.arange(width), np.arange(height))
    lines = ((across // 8 + down // 8) % 8 == 0).astype(np.uint8) * 255
    return Image.fromarray(np.stack([lines] * 3, axis=-1))


@dataclass(kw_only=True)
class Turns:
    """What is measured by turns, and what was found until now."""

    bench: Bench
    cases: Sequence[Case]
    changes: Sequence[LoraChange]
    quiet: bool | None  # None: progress is shown on a terminal
    flop: dict[Case, int] = field(default_factory=dict)  # of a picture of it, drawn alone
    first_seconds: dict[Case, float] = field(default_factory=dict)
    latents: dict[Case, torch.Tensor] = field(default_factory=dict)  # of the warm-up
    samples: list[Sample] = field(default_factory=list)
    lora_samples: list[LoraSample] = field(default_factory=list)
    out_of_memory: dict[str, OutOfMemory] = field(default_factory=dict)
    finished: int = 0  # rounds

    def warm_up(self) -> None:
        """Draw each case once, count the arithmetic of a picture of it, and change LoRAs once.

        Arithmetic is the same in a batch, and for whoever does it.
        """
        for case in tqdm(self.cases, desc="warm-up", disable=self.quiet):
            with self._within_memory(case.name):
                found = self.bench.measure(case, 0)
                self.first_seconds[case] = found.ready_seconds + found.sample.seconds["picture"] * case.batch_size
                if case.variant == "base":
                    self.latents[case] = found.latents
                if _alone(case) not in self.flop:
                    self.flop[_alone(case)] = self._count(replace(case, batch_size=1))
        for change in self.changes:
            with self._within_memory(change.name):
                self.bench.change_loras(change, 0)

    def _count(self, case: Case) -> int:
        loaded = self.bench.generator.load()
        with eagerly(loaded.pipe.unet, loaded.pipe.vae.decoder):  # what is compiled can't be counted
            return count_flop(partial(self.bench.draw, case, [0]), loaded.device)

    def rounds(self, runs: int) -> Iterator[int]:
        """Measure everything so many times; gives the number of each round when it is over."""
        with tqdm(total=runs * len(self.cases), desc="measure", disable=self.quiet) as bar:
            for number in range(runs):
                for case in self.cases if number % 2 == 0 else reversed(self.cases):
                    if case.name not in self.out_of_memory:
                        with self._within_memory(case.name, number):
                            self.samples.append(self.bench.measure(case, number).sample)
                    bar.update()
                for change in self.changes:
                    if change.name not in self.out_of_memory:
                        with self._within_memory(change.name, number):
                            self.lora_samples.append(self.bench.change_loras(change, number))
                self.finished = number + 1
                yield number

    @contextmanager
    def _within_memory(self, name: str, number: int | None = None) -> Iterator[None]:
        """Keep what runs out of memory from being measured again, and from ending the benchmark."""
        reason = ""
        try:
            yield
        except OutOfMemoryError as error:
            reason = error.reason
        if reason:  # out of the handler, whose traceback would keep the tensors of the attempt alive
            self.out_of_memory[name] = OutOfMemory(of=name, reason=reason, round=number)
            release_memory()

    def fill(self, empty: BenchmarkReport) -> BenchmarkReport:
        """Return a report with what was found until now; what ran out of memory is no case of it."""
        samples, profile = by_case(self.samples), self.bench.generator.profile
        measured = [case for case in self.cases if case.name not in self.out_of_memory and case.name in samples]
        cases = [
            report_case(
                case,
                samples,
                flop=self.flop[_alone(case)],
                rate=empty.flop_per_second,
                profile=profile,
                first_seconds=self.first_seconds[case],
                latents_to_stock=self._latents_to_stock(case),
            )
            for case in measured
        ]
        return replace(
            empty,
            cases=tuple(cases),
            samples=tuple(self.samples),
            finished_rounds=self.finished,
            out_of_memory=tuple(self.out_of_memory.values()),
            lora_changes=report_lora_changes(self.changes, self.lora_samples),
            lora_samples=tuple(self.lora_samples),
        )

    def _latents_to_stock(self, case: Case) -> float | None:
        own, stock = self.latents.get(case), self.latents.get(stock_of(case))
        if own is None or stock is None or case == stock_of(case):
            return None
        return float((own - stock).abs().max())


def _alone(case: Case) -> Case:
    return replace(case, batch_size=1, engine="imagelab")


def _machine(loaded: LoadedPipeline, checker: CharacterConsistencyChecker) -> Mapping[str, str]:
    environment = read_environment(loaded.device)
    unet = sum(weight.numel() for weight in loaded.pipe.unet.parameters())
    return {
        "device": device_name(loaded.device),
        "processor": environment.processor,
        "cores": str(os.cpu_count()),
        "threads": str(environment.threads),
        "faces": ", ".join(checker.providers),
        "unet": f"{unet / 1e6:.4g} million weights, {str(loaded.dtype).removeprefix('torch.')}",
        **({"driver": environment.driver} if environment.driver else {}),
        **drawing_versions(loaded.compiled_by),
        **checkout(),
    }
