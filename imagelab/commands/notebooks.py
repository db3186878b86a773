"""The command that runs notebooks."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from imagelab.commands.options import FAILED, fail
from imagelab.errors import InvalidValueError, NotebookError

if TYPE_CHECKING:
    from imagelab.notebooks import Run, RunPlan


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
        fail(error, FAILED)
    _say(done)


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
