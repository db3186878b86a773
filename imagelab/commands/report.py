"""The command that writes reports."""

from pathlib import Path
from typing import Annotated

import typer


def report(
    runs: Annotated[
        list[str] | None, typer.Argument(help="Runs to add, by the names of their folders in reports/runs or by paths.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Markdown file to write, by default reports/summary.md.")
    ] = None,
) -> None:
    """Gather what has been measured, and what runs came to, into one page of tables."""
    from imagelab.config import project_root
    from imagelab.reporting import gather, write_summary

    typer.echo(f"wrote {write_summary(gather(runs or ()), output or project_root() / 'reports' / 'summary.md')}")
