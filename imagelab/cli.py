"""The command line: `python -m imagelab run|batch|sweep|doctor|check|replay|bench|compare|lora|control|…`, see --help.

Nothing heavy is imported before a command is chosen, so that --help answers at once.
"""

import sys

import typer

from imagelab.commands.draw import batch, replay, sweep
from imagelab.commands.look import check, control_map, inspect_file
from imagelab.commands.measure import bench, bench_exact, compare, predict_memory, random_sdxl
from imagelab.commands.notebooks import integration, run
from imagelab.commands.options import BAD_INPUT, debug
from imagelab.commands.report import report
from imagelab.commands.upkeep import doctor, refresh, schema
from imagelab.errors import ImageLabError

app = typer.Typer(
    name="imagelab",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
lora = typer.Typer(no_args_is_help=True, help="Look into LoRA files.")
control = typer.Typer(no_args_is_help=True, help="Control maps.")


@app.callback()
def _imagelab() -> None:
    """Consistent 3D characters drawn with SDXL, in notebooks. --debug shows the traceback of an error."""


@control.callback()
def _control() -> None:
    """Control maps."""  # the callback keeps `map` a command of its own


for command in (
    run,
    batch,
    sweep,
    check,
    replay,
    bench,
    compare,
    report,
    doctor,
    integration,
    predict_memory,
    bench_exact,
    random_sdxl,
    refresh,
    schema,
):
    app.command()(command)
lora.command("inspect")(inspect_file)
control.command("map")(control_map)
app.add_typer(lora, name="lora")
app.add_typer(control, name="control")


def main() -> None:
    """Run the command line; exit code 0, 1 for a run that failed or is worse, 2 for bad input, 3 for incomplete."""
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    try:
        app(arguments)
    except ImageLabError as error:
        if debug():
            raise
        typer.echo(f"error: {error}", err=True)
        sys.exit(BAD_INPUT)
