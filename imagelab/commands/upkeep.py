"""The commands that keep a checkout in order: doctor, refresh, schema."""

from typing import Annotated

import typer

from imagelab.commands.options import FAILED, ProfileName


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


def refresh(notebooks: Annotated[list[str] | None, typer.Argument(help="By default all.")] = None) -> None:
    """Write the committed outputs of notebooks anew, after a change that is meant to change them."""
    from imagelab.notebooks import refresh as refresh_notebooks

    for path in refresh_notebooks(notebooks):
        typer.echo(f"wrote {path.name}")


def schema() -> None:
    """Write the JSON schemas of the YAML files, and that of the chunk in pictures."""
    from imagelab.config.schema import write_schemas
    from imagelab.metadata.schema import write_chunk_schema

    for path in (*write_schemas(), write_chunk_schema()):
        typer.echo(f"wrote {path.name}")
