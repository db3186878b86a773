"""The contact sheet of a sweep: what it varied fastest from left to right, everything else from top to bottom."""

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from imagelab.imagefiles import open_image
from imagelab.plots import INK, MUTED, closed, contact_sheet, figure_style, say

if TYPE_CHECKING:
    import pandas as pd

MAX_PICTURES = 240  # of one sheet: more can't be told apart any more
_SIDE_IN = 1.6  # inches
_COLUMNS = 6  # of a sheet that is no table


def sweep_sheet(
    folder: str | os.PathLike[str], table: "pd.DataFrame", axes: Sequence[str], *, title: str = ""
) -> Figure:
    """Lay a sweep's pictures out; `table` is `sweep_table`'s, `axes` are the columns in which they differ.

    The last axis goes from left to right and the others from top to bottom, if each has all values of the other; else
    each picture carries its settings. Similarities stand beneath. Only the first 240 pictures are shown. Raises
    ImageFileError.
    """
    if table.empty or not axes:
        return say("no pictures", title)
    *down, across = axes
    columns = list(dict.fromkeys(table[across]))
    rows = list(dict.fromkeys(zip(*(table[name] for name in down), strict=True))) or [()]
    if len(rows) * len(columns) != len(table) or len(columns) > 2 * _COLUMNS:
        return _list(Path(folder), table, axes, title)
    shown = rows[: max(1, MAX_PICTURES // len(columns))]
    title += f", the first {len(shown) * len(columns)} of {len(table)}" if len(shown) < len(rows) else ""
    with figure_style():
        size = _size_px(table)
        height = _SIDE_IN * size[1] / size[0] + 0.08
        figure, cells = plt.subplots(
            len(shown),
            len(columns),
            figsize=(_SIDE_IN * len(columns) + 1.3, height * len(shown) + 0.6),
            squeeze=False,
            layout="constrained",
        )
        for axis, (_, row) in zip(cells.flat, table.iterrows(), strict=False):
            _draw(axis, Path(folder), row)
        for axis, value in zip(cells[0], columns, strict=True):
            axis.set_title(f"{_name(across)} {_shown(value)}", fontsize=9, fontweight="normal", loc="center")
        for axis, values in zip(cells[:, 0], shown, strict=True):
            label = "\n".join(f"{_name(name)} {_shown(value)}" for name, value in zip(down, values, strict=True))
            axis.set_ylabel(label, rotation=0, ha="right", va="center", fontsize=9, color=INK, labelpad=8)
        figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
        if table["similarity"].notna().any():
            figure.supxlabel("Numbers: cosine similarity of the face to the references", fontsize=8, color=MUTED)
    return closed(figure)


def _list(folder: Path, table: "pd.DataFrame", axes: Sequence[str], title: str) -> Figure:
    shown = table.head(MAX_PICTURES)
    title += f", the first {len(shown)} of {len(table)}" if len(shown) < len(table) else ""
    there = [row for _, row in shown.iterrows() if isinstance(row["file"], str)]
    captions = ["\n".join([*(f"{_name(name)} {_shown(row[name])}" for name in axes), _outcome(row)]) for row in there]
    images = [open_image(folder / row["file"]) for row in there]
    return contact_sheet(images, captions, title=title, columns=min(_COLUMNS, len(images) or 1))


def _draw(axis: Axes, folder: Path, row: "pd.Series") -> None:
    axis.set_xticks([])
    axis.set_yticks([])
    axis.spines[:].set_visible(False)
    if isinstance(row["file"], str):
        image = open_image(folder / row["file"])
        image.thumbnail((512, 512))
        axis.imshow(np.asarray(image), interpolation="lanczos")
    else:
        axis.set_facecolor("#eeeeee")
        axis.set_box_aspect(row["height"] / row["width"])
    axis.set_xlabel(_outcome(row), fontsize=8, color=INK if row["status"] == "accepted" else MUTED, labelpad=3)


def _outcome(row: "pd.Series") -> str:
    """Say what became of a picture, briefly."""
    if math.isfinite(row["similarity"]):
        return f"{row['similarity']:.2f}" + ("" if row["status"] == "accepted" else f" {row['status']}")
    return str(row["reason"] or row["status"]).partition(":")[0].replace("_", " ")[:28]


def _name(axis: str) -> str:
    """Return an axis as people say it; a LoRA has its own name."""
    kind, _, name = axis.partition(" ")
    return name or kind.replace("_", " ")


def _shown(value: object) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 24 else f"{text[:23]}…"


def _size_px(table: "pd.DataFrame") -> tuple[int, int]:
    return int(table["width"].max()), int(table["height"].max())
