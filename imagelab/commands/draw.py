"""The commands that draw: batch, sweep, replay."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, TypedDict

import typer

from imagelab.commands.options import FAILED, INCOMPLETE, Compiled, Device, ProfileName, fail, folder_option, number
from imagelab.errors import InvalidValueError, RunStoppedError

if TYPE_CHECKING:
    from imagelab.batch import BatchImageGenerator
    from imagelab.results import BatchResult
    from imagelab.runs import BatchRequest

RetryFailed = Annotated[bool, typer.Option("--retry-failed", help="Draw those again that have failed.")]
Verify = Annotated[
    bool, typer.Option("--verify", help="Read every picture that is there, to find what was harmed since.")
]
Reuse = Annotated[
    list[Path] | None,
    typer.Option(metavar="DIR", help="Take pictures from another run that drew the same; may be given several times."),
]
Workers = Annotated[
    int,
    typer.Option(
        help="Processes that draw, each on a GPU of its own if there are any. On a CPU each uses as many threads as one"
        " alone, since their number moves the last bits: set OMP_NUM_THREADS to the cores divided by the workers."
    ),
]
Ray = Annotated[
    str | None, typer.Option(metavar="ADDRESS", help="Let as many actors of a Ray cluster draw: auto, local or ray://…")
]

DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Check everything, say what would be drawn and what it costs, and keep none.")
]


class _How(TypedDict):
    """How a run is drawn or gone on with, by whichever command."""

    retry_failed: bool
    verify: bool
    reuse: list[Path]
    workers: int
    ray: str | None


def batch(
    character: Annotated[str, typer.Option(help="Character of character_presets.yaml.")],
    scene: Annotated[str, typer.Option(help="What happens in the pictures, or the name of one of its scenes.")],
    num_images: Annotated[int, typer.Option(help="How many pictures; the seeds count up.")] = 20,
    seed: Annotated[int, typer.Option(help="Of the first picture.")] = 0,
    output_dir: Annotated[
        Path | None, folder_option("To draw into or to go on in; by default a new one in reports/runs.")
    ] = None,
    preset: Annotated[str | None, typer.Option(help="Quality preset, by default the profile's own.")] = None,
    style: Annotated[str | None, typer.Option(help="Style of sdxl_config.yaml.")] = None,
    negative_prompt: Annotated[str | None, typer.Option(help="Replaces the configured one.")] = None,
    width: Annotated[int | None, typer.Option(help="In pixels.")] = None,
    height: Annotated[int | None, typer.Option(help="In pixels.")] = None,
    steps: Annotated[int | None, typer.Option(help="By default the preset's.")] = None,
    guidance_scale: Annotated[float | None, typer.Option(help="By default the preset's.")] = None,
    guidance_start: Annotated[
        float, typer.Option(help="Fraction of the steps from which on guidance acts; without it one is faster.")
    ] = 0.0,
    guidance_stop: Annotated[float, typer.Option(help="Fraction of the steps after which it acts no more.")] = 1.0,
    scheduler: Annotated[str | None, typer.Option(help="By default the preset's.")] = None,
    lora: Annotated[
        list[str] | None, typer.Option(metavar="NAME[=WEIGHT]", help="Add a LoRA; may be given several times.")
    ] = None,
    character_loras: Annotated[bool, typer.Option(help="Draw with the character's own LoRAs.")] = True,
    control: Annotated[
        list[str] | None,
        typer.Option(metavar="TYPE=PICTURE[@SCALE]", help="Follow a picture: pose=luca.png@0.9; may be given often."),
    ] = None,
    consistency_check: Annotated[bool, typer.Option(help="Compare the faces with the character's references.")] = True,
    threshold: Annotated[
        float | None, typer.Option(help="Cosine from which on a picture is accepted; by default the one in force.")
    ] = None,
    save_rejected: Annotated[bool, typer.Option(help="Keep the pictures that aren't accepted, too.")] = True,
    until_accepted: Annotated[
        int | None, typer.Option(help="Draw until so many are accepted, in place of --num-images.")
    ] = None,
    max_images: Annotated[
        int | None, typer.Option(help="With --until-accepted: at most so many, by default 4×.")
    ] = None,
    determinism: Annotated[
        str, typer.Option(help="strict: bit for bit; fast: several pictures at once, which moves their last bits.")
    ] = "strict",
    batch_size: Annotated[int, typer.Option(help="With --determinism fast: pictures drawn at once.")] = 4,
    retry_failed: RetryFailed = False,
    verify: Verify = False,
    reuse: Reuse = None,
    workers: Workers = 1,
    ray: Ray = None,
    dry_run: DryRun = False,
    profile: ProfileName = None,
    device: Device = "auto",
    compiled: Compiled = None,
) -> None:
    """Draw a batch and keep what shows the character; the same command goes on with one that was stopped.

    Exit code 0: all pictures are drawn; 1: they are, and fewer than --until-accepted were accepted; 2: bad input; 3:
    some have failed or are still to be drawn.
    """
    from imagelab.batch import BatchImageGenerator, batch_request
    from imagelab.composition import lora_uses
    from imagelab.controls import control_uses
    from imagelab.results import GenerationRequest
    from imagelab.runs import claimed_folder

    picture = GenerationRequest(
        character=character,
        scene_description=scene,
        quality_preset=preset,
        style=style,
        seed=seed,
        negative_prompt=negative_prompt,
        width=width,
        height=height,
        steps=steps,
        guidance_scale=guidance_scale,
        guidance_start=guidance_start,
        guidance_stop=guidance_stop,
        scheduler=scheduler,
        additional_loras=lora_uses([_lora(text) for text in lora or ()]),
        use_character_loras=character_loras,
        controls=control_uses([_control_use(text) for text in control or ()]),
    )
    request = batch_request(
        picture,
        num_images,
        enable_consistency_check=consistency_check,
        consistency_threshold=threshold,
        save_rejected=save_rejected,
        until_accepted=until_accepted,
        max_images=max_images,
        determinism=determinism,
        batch_size=batch_size,
    )
    how = _How(retry_failed=retry_failed, verify=verify, reuse=reuse or [], workers=workers, ray=ray)
    with BatchImageGenerator(profile=profile, device=device, compiled=compiled) as batches:
        if dry_run:
            _say_plan(batches, request, output_dir, how)
            return
        name = batches.generator.configs.character(character).name
        with claimed_folder(output_dir, name) as folder, _resumable(folder):
            result = batches.run(request, folder, **how)
    _say_batch(result)


def sweep(
    file: Annotated[Path, typer.Argument(help="YAML file of a sweep, as in configs/sweeps.")],
    output_dir: Annotated[
        Path | None, folder_option("To draw into, or to go on in; by default reports/runs/sweep-<name of the file>.")
    ] = None,
    retry_failed: RetryFailed = False,
    verify: Verify = False,
    reuse: Reuse = None,
    workers: Workers = 1,
    ray: Ray = None,
    dry_run: DryRun = False,
    profile: ProfileName = None,
    device: Device = "auto",
    compiled: Compiled = None,
) -> None:
    """Draw pictures along axes: LoRA weights, schedulers, seeds …; the same command goes on with a stopped one.

    Exit code 0: all pictures are drawn; 2: bad input; 3: some have failed or are still to be drawn.
    """
    from imagelab.batch import BatchImageGenerator
    from imagelab.config import load_configs, project_root
    from imagelab.config.sweeps import load_sweep
    from imagelab.runs import SHEET_FILE, TABLE_FILE
    from imagelab.sweeps import run_sweep, sweep_request

    configs = load_configs()
    request = sweep_request(load_sweep(file, configs, profile))
    folder = project_root() / "reports" / "runs" / f"sweep-{file.stem}" if output_dir is None else output_dir
    how = _How(retry_failed=retry_failed, verify=verify, reuse=reuse or [], workers=workers, ray=ray)
    with BatchImageGenerator(profile=profile, device=device, configs=configs, compiled=compiled) as batches:
        if dry_run:
            _say_plan(batches, request, folder, how)
            return
        with _resumable(folder):
            result = run_sweep(batches, request, folder, **how)
    _say_batch(result, SHEET_FILE, TABLE_FILE)


def replay(
    image: Annotated[Path, typer.Argument(help="A picture that imagelab drew: PNG, JPEG or WebP.")],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Where to keep the new one.")] = None,
    control: Annotated[
        list[Path] | None,
        typer.Option(help="Map of a control, what it was made of, or a folder of such; may be given several times."),
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or cuda:1; by default as it was drawn.")] = None,
) -> None:
    """Draw a picture again from what it carries: exit code 0 if it is the same, 1 if not, with all that changed."""
    from imagelab.imagefiles import check_picture_path, save_picture

    if output is not None:
        check_picture_path(output, "--output")
    from imagelab.redraw import replay as draw_again

    outcome = draw_again(image, controls=control or (), device=device)
    typer.echo(outcome.to_text())
    if output is not None:
        save_picture(outcome.generation.image, output, outcome.generation.record)
        typer.echo(f"wrote {output}")
    if not outcome.identical:
        raise typer.Exit(FAILED)


def _lora(text: str) -> dict[str, object]:
    name, equals, weight = text.partition("=")
    return {"name": name, "weight": number("--lora", text, weight)} if equals else {"name": name}


def _control_use(text: str) -> dict[str, object]:
    control_type, equals, picture = text.partition("=")
    if not equals:
        raise InvalidValueError("--control", text, "TYPE=PICTURE or TYPE=PICTURE@SCALE")
    path, at, scale = picture.rpartition("@")
    if not at:
        return {"type": control_type, "image": picture}
    return {"type": control_type, "image": path, "scale": number("--control", text, scale)}


def _say_plan(batches: "BatchImageGenerator", request: "BatchRequest", folder: Path | None, how: _How) -> None:
    """Check what drawing checks, and say what it would do and cost."""
    from imagelab.runs import check_room, plan_text
    from imagelab.sweeps import estimate_cost

    plan = batches.plan(request, workers=how["workers"], ray=how["ray"])
    cost = estimate_cost(
        batches,
        plan,
        folder,
        retry_failed=how["retry_failed"],
        verify=how["verify"],
        reuse=how["reuse"],
        workers=how["workers"],
    )
    if folder is not None and cost.pending:  # a run that has ended is only read
        check_room(folder)
    typer.echo(f"{plan_text(plan)}\n{cost.to_text()}")


@contextmanager
def _resumable(folder: Path) -> Iterator[None]:
    """Turn what stops a run that can go on into the exit code that says so."""
    try:
        with _stopping_on_sigterm():
            yield
    except KeyboardInterrupt:
        there = quote(str(folder))
        goes_on = f"{there} has what was drawn, and the same command with --output-dir {there} goes on"
        typer.echo(f"stopped; {goes_on if (folder / 'plan.json').exists() else 'nothing was drawn'}", err=True)
        raise typer.Exit(INCOMPLETE) from None
    except RunStoppedError as error:
        fail(error, INCOMPLETE)


def _say_batch(result: "BatchResult", *files: str) -> None:
    """Say what became of a run and where it is; exit with INCOMPLETE, or FAILED, where pictures are missing."""
    from imagelab.runs import batch_text

    typer.echo(batch_text(result))
    typer.echo(f"wrote {result.output_dir}" + "".join(f", {name}" for name in files))
    if result.pending or result.counts["failed"]:
        raise typer.Exit(INCOMPLETE)
    if result.fell_short:  # going on with it draws nothing
        raise typer.Exit(FAILED)


@contextmanager
def _stopping_on_sigterm() -> Iterator[None]:
    """Let SIGTERM, by which schedulers end a job, stop as Ctrl-C does: cleanly."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
