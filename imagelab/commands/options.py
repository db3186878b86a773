"""What several commands ask for and say, in the same words."""

import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from typer.models import OptionInfo

from imagelab.errors import ImageLabError, InvalidValueError

BAD_INPUT = 2  # as for a mistyped option
FAILED = 1
INCOMPLETE = 3  # of a batch: the same command goes on with it

ProfileName = Annotated[str | None, typer.Option(help="Profile of sdxl_config.yaml, by default its default.")]
Compiled = Annotated[
    bool | None,
    typer.Option("--compile/--no-compile", help="Compile the models that draw; by default as the profile says."),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:<number>.")]


def fail(error: ImageLabError, code: int) -> NoReturn:
    """End the command with an error and its exit code."""
    if debug():
        raise error
    typer.echo(f"error: {error}", err=True)
    raise typer.Exit(code)


def debug() -> bool:
    """Say whether the traceback of an error is wanted."""
    return "--debug" in sys.argv


def number(option: str, text: str, digits: str) -> float:
    """Read the number in an option's text, or say which text has none."""
    try:
        return float(digits)
    except ValueError as error:
        raise InvalidValueError(f"the number in {option} {text}", digits, "one, such as 0.8") from error


def folder_option(says: str) -> OptionInfo:
    """Return an option that takes a folder's path."""
    option: OptionInfo = typer.Option(parser=folder_path, metavar="FOLDER", help=says)
    return option


def folder_path(text: str) -> Path:
    """Read a folder's path, which an unset variable of a shell script isn't: Path would take it for the current one."""
    if not text:
        raise typer.BadParameter("must be a folder's path, got ''")
    return Path(text)
