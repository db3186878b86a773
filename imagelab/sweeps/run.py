"""Draw a sweep, and write what it leaves beside its pictures: a contact sheet and a table."""

import os
from collections.abc import Iterable
from pathlib import Path

from imagelab.batch import BatchImageGenerator
from imagelab.errors import RunStoppedError
from imagelab.results import BatchResult
from imagelab.runs import SHEET_FILE, TABLE_FILE, BatchRequest, read_run
from imagelab.sweeps.sheet import sweep_sheet
from imagelab.sweeps.table import sweep_table
from imagelab.whole_file import whole_file


def run_sweep(
    batches: BatchImageGenerator,
    request: BatchRequest,
    output_dir: str | os.PathLike[str] | None = None,
    *,
    retry_failed: bool = False,
    verify: bool = False,
    reuse: Iterable[str | os.PathLike[str]] = (),
    progress: bool = True,
    workers: int = 1,
    ray: str | None = None,
) -> BatchResult:
    """Draw a sweep, or go on with it, as `BatchImageGenerator.run` does; then write its sheet and its table.

    `request` is `sweep_request`'s or `lora_request`'s. Pictures that are there already, or in the folders of other runs
    that `reuse` names, aren't drawn again: so a sweep grows by values of an axis, in a folder of its own. Workers are
    those of `BatchImageGenerator.run`. Raises what `generate_batch` raises.
    """
    result = batches.run(
        request,
        output_dir,
        retry_failed=retry_failed,
        verify=verify,
        reuse=reuse,
        progress=progress,
        workers=workers,
        ray=ray,
    )
    assert result.output_dir is not None  # noqa: S101  a run has a folder
    write_sweep(result.output_dir)
    return result


def write_sweep(folder: str | os.PathLike[str], *, title: str | None = None) -> tuple[Path, Path]:
    """Write sheet.png and pictures.parquet of a run into its folder and return their paths.

    Of a run that goes on, too. Raises RunFolderError, RunStoppedError where they can't be written, or ImageFileError
    for a picture that can't be read.
    """
    plan, _ = read_run(folder)
    table = sweep_table(folder)
    varied = dict.fromkeys(axis for variant in plan.request.swept for axis in variant.settings)
    axes = [name for name in [*varied, "seed"] if table[name].nunique(dropna=False) > 1] or ["seed"]
    picture = plan.request.picture
    title = f"{picture.character}: {picture.scene_description}" if title is None else title
    sheet, parquet = Path(folder) / SHEET_FILE, Path(folder) / TABLE_FILE
    figure = sweep_sheet(folder, table, axes, title=title)
    try:
        with whole_file(parquet) as stream:
            table.to_parquet(stream, index=False)
        with whole_file(sheet) as stream:
            figure.savefig(stream, format="png", dpi=150)
    except OSError as error:
        reason = f"can't be written to: {error.strerror or error}"
        raise RunStoppedError(Path(folder), reason, "Make it writable; the pictures are all there") from error
    return sheet, parquet
