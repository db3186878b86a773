"""The command line: `python -m imagelab run|doctor|check|replay|bench|lora|control|random-sdxl|refresh|schema`.

Nothing heavy is imported before a command is chosen, so that --help answers at once.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from imagelab.errors import ImageLabError, InvalidValueError, NotebookError

if TYPE_CHECKING:
    from imagelab.notebooks import Run, RunPlan

BAD_INPUT = 2  # as for a mistyped option
FAILED = 1

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
    profile: Annotated[str | None, typer.Option(help="Profile of sdxl_config.yaml, by default its default.")] = None,
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
def doctor(
    profile: Annotated[str | None, typer.Option(help="Profile of sdxl_config.yaml, by default its default.")] = None,
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
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1.")] = "auto",
    profile: Annotated[str | None, typer.Option(help="Profile of sdxl_config.yaml, by default its default.")] = None,
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
    profile: Annotated[str | None, typer.Option(help="Profile of sdxl_config.yaml, by default its default.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:<number>.")] = "auto",
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
    """Write the JSON schemas of the four YAML files, and that of the chunk in pictures."""
    from imagelab.config.schema import write_schemas
    from imagelab.metadata.schema import write_chunk_schema

    for path in (*write_schemas(), write_chunk_schema()):
        typer.echo(f"wrote {path.name}")


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
    """Run the command line; exit code 0, 1 for a run that failed, 2 for input that can't be used."""
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    try:
        app(arguments)
    except ImageLabError as error:
        if _debug():
            raise
        typer.echo(f"error: {error}", err=True)
        sys.exit(BAD_INPUT)
