"""The commands that measure: bench, bench-exact, compare, predict-memory, and random-sdxl for what is measured."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from imagelab.commands.options import FAILED, Compiled, Device, ProfileName, folder_option, number
from imagelab.errors import InvalidValueError

if TYPE_CHECKING:
    from imagelab.reporting import Measurement


def bench(
    profile: ProfileName = None,
    device: Device = "auto",
    num_runs: Annotated[int, typer.Option(min=1, max=10_000, help="Measurements of each case.")] = 5,
    output_dir: Annotated[Path | None, folder_option("For the JSON, by default reports/benchmarks.")] = None,
    preset: Annotated[list[str] | None, typer.Option(help="Quality preset; by default the targets' own.")] = None,
    variant: Annotated[list[str] | None, typer.Option(help="base, lora, controlnet or both; by default all.")] = None,
    batch_size: Annotated[
        list[int] | None, typer.Option(min=1, max=64, help="Pictures drawn at once, by default 1.")
    ] = None,
    loras: Annotated[int, typer.Option(min=1, max=16, help="How many LoRAs a variant with LoRAs has.")] = 1,
    stock: Annotated[bool, typer.Option(help="Also measure diffusers' own pipeline.")] = True,
    vram_cap: Annotated[
        float | None, typer.Option(help="GiB that PyTorch may use, as on a smaller card: a real and a predicted limit.")
    ] = None,
    compiled: Compiled = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be measured.")] = False,
) -> None:
    """Measure how fast pictures are drawn, and in how much memory, against what the machine could do."""
    from imagelab.benchmark import VARIANTS, plan_cases
    from imagelab.config import load_configs
    from imagelab.config.paths import project_root
    from imagelab.whole_file import check_folder

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
    if dry_run:
        from imagelab.benchmark import rehearse

        text = rehearse(
            cases,
            configs=configs,
            profile=profile,
            device=device,
            runs=num_runs,
            vram_cap_gib=vram_cap,
            compiled=compiled,
        )
        typer.echo(text)
        return
    from imagelab.benchmark import run_benchmark

    folder = check_folder(output_dir or project_root() / "reports" / "benchmarks", "--output-dir")
    report = run_benchmark(
        cases,
        profile=profile,
        device=device,
        runs=num_runs,
        vram_cap_gib=vram_cap,
        configs=configs,
        compiled=compiled,
        on_round=lambda report: report.write(folder / report.file_name),  # what is killed leaves the rounds until then
    )
    typer.echo(report.to_text())
    typer.echo(f"wrote {folder / report.file_name}")


def bench_exact(
    profile: ProfileName = None,
    device: Device = "auto",
    rounds: Annotated[int, typer.Option(min=2, max=10_000, help="Pictures of each part.")] = 10,
    compiled: Annotated[bool, typer.Option("--compile/--no-compile", help="Measure compiled models too.")] = True,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="JSON file to write, by default none.")] = None,
) -> None:
    """Measure each part of exact mode alone: seconds, beside the prediction, and by how much the latents move."""
    from imagelab.exact_mode import measure_exact_mode

    _tell(measure_exact_mode(profile, device=device, rounds=rounds, compiled=compiled), output)


def _tell(found: "Measurement", output: Path | None) -> None:
    """Print a measurement, and write it where that is asked for."""
    from imagelab.reporting import write_measurement

    for row in (*found.rows, found.facts):
        typer.echo("  ".join(f"{name} {value}" for name, value in row.items()))
    if output is not None:
        typer.echo(f"wrote {write_measurement(found, output)}")


def compare(
    a: Annotated[Path, typer.Argument(metavar="A", help="A benchmark's JSON, or a batch's folder.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="Likewise: is it worse than A?")],
    fail_over: Annotated[
        str | None, typer.Option(metavar="LOSS", help="Exit with 1 if B is worse by more: 10% or 0.1.")
    ] = None,
    across: Annotated[
        list[str] | None,
        typer.Option(help="Condition that may differ: profile, device, processor, threads, encoder …; several times."),
    ] = None,
    relative: Annotated[
        bool, typer.Option("--relative", help="Seconds as multiples of stock diffusers' in the same round.")
    ] = False,
    output_dir: Annotated[Path | None, folder_option("For comparison.json and the figures.")] = None,
) -> None:
    """Say whether a benchmark or a batch is worse than another one; exit code 0 if not, 1 if so, 2 for no such pair."""
    limit = None if fail_over is None else _share(fail_over)
    from imagelab.compare import compare_runs, open_run

    runs = open_run(a), open_run(b)
    found = compare_runs(*runs, names=(str(a), str(b)), fail_over=limit, across=across or (), relative=relative)
    typer.echo(found.to_text())
    if output_dir is not None:
        from imagelab.compare.figures import write_figures

        wrote = [found.write(output_dir / "comparison.json"), *write_figures(found, *runs, output_dir)]
        typer.echo(f"wrote {', '.join(map(str, wrote))}")
    if not found.passed:
        raise typer.Exit(FAILED)


def _share(text: str) -> float:
    """Read 10% or 0.1; 10 alone could be either, and is refused."""
    share = number("--fail-over", text, text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    if not (0 <= share < 1 or (text.endswith("%") and 1 <= share <= 10)):
        raise InvalidValueError("--fail-over", text, "a loss as 10%, or as 0.1")
    return share


def predict_memory(
    profile: ProfileName = "sdxl",
    room: Annotated[float, typer.Option(help="GiB of GPU memory that PyTorch may use.")] = 15.0,
    policy: Annotated[str | None, typer.Option(help="Memory policy to begin with, by default the profile's.")] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="JSON file to write, by default none.")] = None,
) -> None:
    """Say which of a profile's sizes and batches fit a graphics card, and how; needs neither weights nor a GPU."""
    from imagelab.config import load_configs
    from imagelab.memory_table import tabulate

    _tell(tabulate(load_configs().profile(profile), room, policy), output)


def random_sdxl(
    device: Annotated[
        str, typer.Option(help="Where the numbers are drawn: auto, cpu, cuda or cuda:<number>.")
    ] = "auto",
    small: Annotated[bool, typer.Option("--small", help="One of 80 MB, to rehearse on a CPU.")] = False,
) -> None:
    """Write an SDXL with random weights, 11 GB unless small, to measure the profile random-sdxl with."""
    from imagelab.random_sdxl import FULL, SMALL, write_random_sdxl

    folder = write_random_sdxl(shape=SMALL if small else FULL, device=device)
    typer.echo(f"the profile random-sdxl reads {folder}")
