"""The commands that run notebooks: run, integration."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from imagelab.commands.options import FAILED, Device, fail
from imagelab.errors import InvalidValueError, NotebookError

if TYPE_CHECKING:
    from imagelab.notebooks import Run, RunPlan

INTEGRATION = "50_integration"


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
    _run(plan)


def integration(
    sdxl_model: Annotated[
        Path | None,
        typer.Option(
            help="Base to draw with: a folder in diffusers' layout, or a .safetensors file; by default its own."
        ),
    ] = None,
    character: Annotated[str, typer.Option(help="Whose LoRA and references are tried.")] = "luca",
    profile: Annotated[str | None, typer.Option(help="By default sdxl where a model is given, else puppet.")] = None,
    device: Device = "auto",
    run_id: Annotated[str, typer.Option(help="Name of the folder in reports/runs.")] = "integration",
) -> None:
    """Try everything once with these weights: base, LoRA, character, consistency; exit code 1 if something fails."""
    name = profile or ("puppet" if sdxl_model is None else "sdxl")
    _check_integration(name, sdxl_model, character, device)
    given = {
        "profile": name,
        "sdxl_model": None if sdxl_model is None else str(sdxl_model.resolve()),
        "character": character,
        "device": device,
    }
    from imagelab.notebooks import plan_run

    _run(plan_run(INTEGRATION, given, run_id=run_id))


def _check_integration(profile: str, model: Path | None, character: str, device: str) -> None:
    """Refuse what the notebook would only find out in a kernel."""
    from imagelab.config import load_configs
    from imagelab.devices import resolve_device
    from imagelab.integration import with_base

    configs = load_configs()
    configs.profile(profile)
    configs.character(character)
    with_base(configs, profile, model)
    resolve_device(device)


def _plan(notebook: str, file: Path | None, pairs: list[str], run_id: str | None) -> "RunPlan":
    from imagelab.notebooks import find_notebook, plan_run, read_parameter_file, read_parameters
    from imagelab.notebooks.parameters import read_text

    known = read_parameters(find_notebook(notebook))
    given, foreign = read_parameter_file(file, notebook) if file else ({}, ())
    if foreign:
        typer.echo(f"passed over, for other notebooks: {', '.join(foreign)}", err=True)
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals:
            raise InvalidValueError("-p", pair, "NAME=VALUE")
        given[name] = read_text(known[name], text) if name in known else text
    return plan_run(notebook, given, run_id=run_id)


def _run(plan: "RunPlan") -> None:
    from imagelab.notebooks import execute

    try:
        done = execute(plan, progress=True)
    except NotebookError as error:
        fail(error, FAILED)
    _say(done)


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
