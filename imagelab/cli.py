"""The command line: `python -m imagelab run|batch|sweep|doctor|check|replay|bench|lora|control|…`, see --help.

Nothing heavy is imported before a command is chosen, so that --help answers at once.
"""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from imagelab.errors import ImageLabError, InvalidValueError, NotebookError, RunFolderError

if TYPE_CHECKING:
    from imagelab.notebooks import Run, RunPlan
    from imagelab.results import BatchResult

BAD_INPUT = 2  # as for a mistyped option
FAILED = 1
INCOMPLETE = 3  # of a batch: the same command goes on with it

# what several commands ask for, in the same words
ProfileName = Annotated[str | None, typer.Option(help="Profile of sdxl_config.yaml, by default its default.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:<number>.")]
RetryFailed = Annotated[bool, typer.Option("--retry-failed", help="Draw those again that have failed.")]
Workers = Annotated[int, typer.Option(help="Processes that draw, each on a GPU of its own if there are any.")]
Ray = Annotated[
    str | None, typer.Option(metavar="ADDRESS", help="Let as many actors of a Ray cluster draw: auto, local or ray://…")
]

app = typer.Typer(
    name="imagelab",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


lora_app = typer.Typer(no_args_is_help=True, help="Look into LoRA files.")
app.add_typer(lora_app, name="lora")
control = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Control maps.")
app.add_typer(control, name="control")


@control.callback()
def _control() -> None:
    """Control maps."""  # the callback keeps `map` a command of its own


@control.command("map")
def control_map(
    control_type: Annotated[str, typer.Argument(metavar="TYPE", help="pose, canny, depth, seg or normal.")],
    picture: Annotated[Path, typer.Argument(help="PNG, JPEG or WebP.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="PNG to write.")],
    profile: ProfileName = None,
) -> None:
    """Make the map of a picture that a ControlNet obeys."""
    from imagelab.imagefiles import check_png_path, save_png

    check_png_path(output, "--output")
    from imagelab.preprocess import make_control_map

    save_png(make_control_map(control_type, picture, profile).image, output)
    typer.echo(f"wrote {output}")


@app.callback()
def _imagelab() -> None:
    """Consistent 3D characters drawn with SDXL, in notebooks. --debug shows the traceback of an error."""


@app.command()
def run(
    notebook: Annotated[str, typer.Argument(help="Name of a notebook: 22_filter_batches.")],
    parameter: Annotated[
        list[str] | None, typer.Option("-p", "--parameter", metavar="NAME=VALUE", help="Set one of its parameters.")
    ] = None,
    params: Annotated[
        Path | None, typer.Option(help="YAML file of parameters, as in configs/runs; -p wins over it.")
    ] = None,
    profile: Annotated[str | None, typer.Option(help="Short for -p profile=…")] = None,
    run_id: Annotated[
        str | None, typer.Option(help="Name of the folder in reports/runs; by default the time and the notebook.")
    ] = None,
    list_parameters: Annotated[bool, typer.Option("--list", help="List its parameters and run nothing.")] = False,
) -> None:
    """Run a notebook and keep it, its HTML, its pictures and result.json in reports/runs."""
    if list_parameters:
        _list_parameters(notebook)
        return
    plan = _plan(notebook, params, [*(parameter or []), *([f"profile={profile}"] if profile else [])], run_id)
    from imagelab.notebooks import execute

    try:
        done = execute(plan, progress=True)
    except NotebookError as error:
        _fail(error, FAILED)
    _say(done)


@app.command()
def batch(
    character: Annotated[str, typer.Option(help="Character of character_presets.yaml.")],
    scene: Annotated[str, typer.Option(help="What happens in the pictures, or the name of one of its scenes.")],
    num_images: Annotated[int, typer.Option(help="How many pictures; the seeds count up.")] = 20,
    seed: Annotated[int, typer.Option(help="Of the first picture.")] = 0,
    output_dir: Annotated[
        Path | None, typer.Option(help="Folder to draw into, or to go on in; by default a new one in reports/runs.")
    ] = None,
    preset: Annotated[str | None, typer.Option(help="Quality preset, by default the profile's own.")] = None,
    style: Annotated[str | None, typer.Option(help="Style of sdxl_config.yaml.")] = None,
    negative_prompt: Annotated[str | None, typer.Option(help="Replaces the configured one.")] = None,
    width: Annotated[int | None, typer.Option(help="In pixels.")] = None,
    height: Annotated[int | None, typer.Option(help="In pixels.")] = None,
    steps: Annotated[int | None, typer.Option(help="By default the preset's.")] = None,
    guidance_scale: Annotated[float | None, typer.Option(help="By default the preset's.")] = None,
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
    workers: Workers = 1,
    ray: Ray = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be drawn, and draw nothing.")] = False,
    profile: ProfileName = None,
    device: Device = "auto",
) -> None:
    """Draw a batch and keep what shows the character; the same command goes on with one that was stopped.

    Exit code 0: all pictures are drawn; 2: bad input; 3: some have failed or are still to be drawn.
    """
    from imagelab.batch import BatchImageGenerator, batch_request
    from imagelab.composition import lora_uses
    from imagelab.controls import control_uses
    from imagelab.results import GenerationRequest
    from imagelab.runs import plan_text

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
    with BatchImageGenerator(profile=profile, device=device) as batches:
        if dry_run:
            typer.echo(plan_text(batches.plan(request)))
            return
        with _resumable():
            result = batches.run(request, output_dir, retry_failed=retry_failed, workers=workers, ray=ray)
    _say_batch(result)


@app.command()
def sweep(
    file: Annotated[Path, typer.Argument(help="YAML file of a sweep, as in configs/sweeps.")],
    output_dir: Annotated[
        Path | None,
        typer.Option(help="Folder to draw into, or to go on in; by default reports/runs/sweep-<name of the file>."),
    ] = None,
    retry_failed: RetryFailed = False,
    workers: Workers = 1,
    ray: Ray = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say how many pictures there will be and what they cost, and keep none.")
    ] = False,
    profile: ProfileName = None,
    device: Device = "auto",
) -> None:
    """Draw pictures along axes: LoRA weights, schedulers, seeds …; the same command goes on with a stopped one.

    Exit code 0: all pictures are drawn; 2: bad input; 3: some have failed or are still to be drawn.
    """
    from imagelab.batch import BatchImageGenerator
    from imagelab.config import load_configs, project_root
    from imagelab.config.sweeps import load_sweep
    from imagelab.runs import plan_text
    from imagelab.sweeps import SHEET_FILE, TABLE_FILE, estimate_cost, run_sweep, sweep_request

    configs = load_configs()
    request = sweep_request(load_sweep(file, configs, profile))
    folder = project_root() / "reports" / "runs" / f"sweep-{file.stem}" if output_dir is None else output_dir
    with BatchImageGenerator(profile=profile, device=device, configs=configs) as batches:
        if dry_run:
            plan = batches.plan(request)
            typer.echo(plan_text(plan))
            typer.echo(estimate_cost(batches, plan, folder).to_text())
            return
        with _resumable():
            result = run_sweep(batches, request, folder, retry_failed=retry_failed, workers=workers, ray=ray)
    _say_batch(result, SHEET_FILE, TABLE_FILE)


@app.command()
def doctor(
    profile: ProfileName = None,
    json: Annotated[bool, typer.Option("--json", help="Print everything, hashes included, as JSON.")] = False,
) -> None:
    """Say whether this machine can run a profile, and what to do if it can't."""
    from imagelab.doctor import examine

    report = examine(profile)
    if json:
        from json import dumps

        typer.echo(dumps(report.to_dict(), indent=2, ensure_ascii=False))
    else:
        typer.echo(report.to_text())
    if not report.can_run:
        raise typer.Exit(FAILED)


@app.command()
def check(
    folder: Annotated[Path, typer.Argument(help="Folder of PNG, JPEG and WebP pictures.")],
    character: Annotated[list[str], typer.Option(help="Whom they are compared with; may be given several times.")],
    threshold: Annotated[
        float | None, typer.Option(help="Cosine from which on a picture shows the character; by default its own.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Table to write, or to go on with; by default check-FOLDER.parquet."),
    ] = None,
    encoder: Annotated[
        list[str] | None, typer.Option(help="Another encoder, whose scores are added; may be given several times.")
    ] = None,
    recursive: Annotated[bool, typer.Option("--recursive", help="Look into the folders in it, too.")] = False,
    several: Annotated[
        str, typer.Option(help="Of several faces: require_one, largest, most_central or best_match.")
    ] = "require_one",
    device: Device = "auto",
    profile: ProfileName = None,
) -> None:
    """Compare a folder of pictures with a character; a check that was stopped goes on when it is asked for again."""
    from imagelab.consistency import CharacterConsistencyChecker
    from imagelab.folder_check import check_folder
    from imagelab.references import CharacterReferenceManager

    with CharacterConsistencyChecker(device, profile, several=several) as checker:  # type: ignore[arg-type]  # it checks
        manager = CharacterReferenceManager(checker)
        references = [manager.references(name) for name in character]
        calibrations = {name: manager.calibration(name) for name in character} if threshold is None else {}
        result = check_folder(
            folder,
            references,
            output or Path(f"check-{folder.resolve().name}.parquet"),  # a second folder's table is another one
            checker=checker,
            threshold=threshold,
            calibrations=calibrations,
            encoders=encoder or (),
            recursive=recursive,
        )
    typer.echo(result.to_text())


@app.command()
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


@app.command()
def bench(
    profile: ProfileName = None,
    device: Device = "auto",
    num_runs: Annotated[int, typer.Option(help="Measurements of each case.")] = 5,
    output_dir: Annotated[Path | None, typer.Option(help="Folder for the JSON, by default reports/benchmarks.")] = None,
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


@app.command("random-sdxl")
def random_sdxl(
    device: Annotated[
        str, typer.Option(help="Where the numbers are drawn: auto, cpu, cuda or cuda:<number>.")
    ] = "auto",
) -> None:
    """Write an SDXL with random weights, 11 GB, to measure the profile random-sdxl with."""
    from imagelab.random_sdxl import write_random_sdxl

    typer.echo(f"the profile random-sdxl reads {write_random_sdxl(device=device)}")


@lora_app.command("inspect")
def inspect_file(
    file: Annotated[Path, typer.Argument(help="A .safetensors file.")],
    profile: Annotated[
        str | None, typer.Option(help="Profile whose base model it is compared with, by default the default profile.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print everything as JSON, each module included.")] = False,
) -> None:
    """Tell what a LoRA file is, which base it is for, what it changes, and what is wrong with it."""
    from imagelab.composition import registered_words
    from imagelab.config import load_configs
    from imagelab.errors import ModelNotFoundError, ProfileError
    from imagelab.lora import inspect_lora, profile_base

    configs = load_configs()
    base = None
    try:
        base = profile_base(configs.profile(profile))
    except (ModelNotFoundError, ProfileError) as error:
        if profile is not None:
            raise
        typer.echo(f"not compared with the default profile's base: {error}", err=True)
    report = inspect_lora(file, base=base, registered=registered_words(configs, file))
    typer.echo(report.to_json(indent=2) if json else report.to_text())
    if report.faults:
        raise typer.Exit(FAILED)


@app.command()
def refresh(notebooks: Annotated[list[str] | None, typer.Argument(help="By default all.")] = None) -> None:
    """Write the committed outputs of notebooks anew, after a change that is meant to change them."""
    from imagelab.notebooks import refresh as refresh_notebooks

    for path in refresh_notebooks(notebooks):
        typer.echo(f"wrote {path.name}")


@app.command()
def schema() -> None:
    """Write the JSON schemas of the YAML files, and that of the chunk in pictures."""
    from imagelab.config.schema import write_schemas
    from imagelab.metadata.schema import write_chunk_schema

    for path in (*write_schemas(), write_chunk_schema()):
        typer.echo(f"wrote {path.name}")


def _lora(text: str) -> dict[str, object]:
    name, equals, weight = text.partition("=")
    return {"name": name, "weight": _number("--lora", text, weight)} if equals else {"name": name}


def _control_use(text: str) -> dict[str, object]:
    control_type, equals, picture = text.partition("=")
    if not equals:
        raise InvalidValueError("--control", text, "TYPE=PICTURE or TYPE=PICTURE@SCALE")
    path, at, scale = picture.rpartition("@")
    if not at:
        return {"type": control_type, "image": picture}
    return {"type": control_type, "image": path, "scale": _number("--control", text, scale)}


def _number(option: str, text: str, number: str) -> float:
    try:
        return float(number)
    except ValueError as error:
        raise InvalidValueError(option, text, "with a number at the end") from error


@contextmanager
def _resumable() -> Iterator[None]:
    """Turn what stops a run that can go on into the exit code that says so."""
    try:
        with _stopping_on_sigterm():
            yield
    except KeyboardInterrupt:
        typer.echo("stopped; the same command, with the same --output-dir, goes on", err=True)
        raise typer.Exit(INCOMPLETE) from None
    except RunFolderError as error:
        _fail(error, INCOMPLETE)


def _say_batch(result: "BatchResult", *files: str) -> None:
    """Say what became of a run and where it is; exit with INCOMPLETE where pictures are missing."""
    from imagelab.runs import batch_text

    typer.echo(batch_text(result))
    typer.echo(f"wrote {result.output_dir}" + "".join(f", {name}" for name in files))
    if result.pending or result.counts["failed"]:
        raise typer.Exit(INCOMPLETE)


@contextmanager
def _stopping_on_sigterm() -> Iterator[None]:
    """Let SIGTERM, by which schedulers end a job, stop as Ctrl-C does: cleanly."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _plan(notebook: str, file: Path | None, pairs: list[str], run_id: str | None) -> "RunPlan":
    from imagelab.notebooks import find_notebook, plan_run, read_parameters
    from imagelab.notebooks.parameters import read_text

    known = read_parameters(find_notebook(notebook))
    given = _read_file(file) if file else {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals:
            raise InvalidValueError("-p", pair, "NAME=VALUE")
        given[name] = read_text(known[name], text) if name in known else text
    return plan_run(notebook, given, run_id=run_id)


def _read_file(path: Path) -> dict[str, object]:
    from imagelab.config.yaml_file import read_yaml
    from imagelab.errors import ConfigError

    if not path.is_file():
        raise InvalidValueError("--params", str(path), "a YAML file of parameters, and there is none")
    document = read_yaml(path, str(path))
    if document.problems or not isinstance(document.data, dict):
        raise ConfigError(tuple(document.problems))
    return dict(document.data)


def _list_parameters(notebook: str) -> None:
    from imagelab.notebooks import find_notebook, read_parameters

    for known in read_parameters(find_notebook(notebook)).values():
        typer.echo(f"{known.name}: {known.annotation} = {known.default!r}  # {known.help}")


def _say(done: "Run") -> None:
    from imagelab.notebooks.runner import shown

    lines = {"notebook": done.notebook, "HTML": done.html, "pictures": done.pictures, "result": done.result}
    for name, path in lines.items():
        if path is not None:
            typer.echo(f"{name:<9} {shown(path)}")
    if headline := done.scraps.get("headline"):
        typer.echo(headline)


def _fail(error: ImageLabError, code: int) -> NoReturn:
    if _debug():
        raise error
    typer.echo(f"error: {error}", err=True)
    raise typer.Exit(code)


def _debug() -> bool:
    return "--debug" in sys.argv


def main() -> None:
    """Run the command line; exit code 0, 1 for a run that failed, 2 for unusable input, 3 for an incomplete batch."""
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    try:
        app(arguments)
    except ImageLabError as error:
        if _debug():
            raise
        typer.echo(f"error: {error}", err=True)
        sys.exit(BAD_INPUT)
