"""The commands that measure: bench, and random-sdxl for what it measures with."""

from pathlib import Path
from typing import Annotated

import typer

from imagelab.commands.options import Device, ProfileName, folder_path


def bench(
    profile: ProfileName = None,
    device: Device = "auto",
    num_runs: Annotated[int, typer.Option(help="Measurements of each case.")] = 5,
    output_dir: Annotated[
        Path | None,
        typer.Option(parser=folder_path, metavar="FOLDER", help="For the JSON, by default reports/benchmarks."),
    ] = None,
    preset: Annotated[list[str] | None, typer.Option(help="Quality preset; by default the targets' own.")] = None,
    variant: Annotated[list[str] | None, typer.Option(help="base, lora, controlnet or both; by default all.")] = None,
    batch_size: Annotated[list[int] | None, typer.Option(help="Pictures drawn at once, by default 1.")] = None,
    loras: Annotated[int, typer.Option(help="How many LoRAs a variant with LoRAs has.")] = 1,
    stock: Annotated[bool, typer.Option(help="Also measure diffusers' own pipeline.")] = True,
    vram_cap: Annotated[float | None, typer.Option(help="GiB that PyTorch may use, as on a smaller card.")] = None,
) -> None:
    """Measure how fast pictures are drawn, and in how much memory, against what the machine could do."""
    from imagelab.benchmark import VARIANTS, plan_cases, run_benchmark
    from imagelab.config import load_configs
    from imagelab.config.paths import project_root

    configs = load_configs()
    cases = plan_cases(
        configs,
        configs.profile(profile),
        presets=preset,
        variants=variant or VARIANTS,
        batch_sizes=batch_size or [1],
        lora_count=loras,
        stock=stock,
    )
    report = run_benchmark(cases, profile=profile, device=device, runs=num_runs, vram_cap_gib=vram_cap, configs=configs)
    folder = project_root() / "reports" / "benchmarks" if output_dir is None else output_dir
    typer.echo(report.to_text())
    typer.echo(f"wrote {report.write(folder / report.file_name)}")


def random_sdxl(
    device: Annotated[
        str, typer.Option(help="Where the numbers are drawn: auto, cpu, cuda or cuda:<number>.")
    ] = "auto",
) -> None:
    """Write an SDXL with random weights, 11 GB, to measure the profile random-sdxl with."""
    from imagelab.random_sdxl import write_random_sdxl

    typer.echo(f"the profile random-sdxl reads {write_random_sdxl(device=device)}")
