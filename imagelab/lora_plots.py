"""Figures about LoRAs: what their weights do to pictures, and what they do to the blocks of a model."""

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from imagelab.plots import INK, MUTED, closed, colours, figure_style, say

if TYPE_CHECKING:
    import pandas as pd

_MARKERS = "osD^vP"  # beside the colours: lines that coincide can still be told apart
_NO_SCORE_LEVEL = 0.04  # height of the crosses, as a fraction of the panel's


def weight_response(
    sweep: "pd.DataFrame", threshold: float | None = None, *, title: str = "", character: str = "the character"
) -> Figure:
    """Draw a LoRA sweep's change of the picture and similarity of the face against the weight, a panel each.

    `sweep` has the columns loras, weight, change, face (its status) and similarity. Lines are means over the seeds,
    small marks the pictures. Pictures whose face can't be compared are crosses at the bottom: they are in no mean.
    """
    if sweep.empty:
        return say("no pictures", title)
    with figure_style():
        figure, (left, right) = plt.subplots(1, 2, figsize=(8.4, 3.4), layout="constrained")
        groups = dict(_groups(sweep, "loras"))
        for index, (colour, (name, rows)) in enumerate(zip(colours(len(groups)), groups.items(), strict=True)):
            style: dict[str, Any] = {"color": colour, "marker": _MARKERS[index % len(_MARKERS)]}
            _draw_means(left, rows, "change", {**style, "label": str(name)})
            _draw_means(right, rows, "similarity", style)
        _mark_unscored(right, sweep)
        if threshold is not None:
            _label_threshold(right, threshold)
        left.set(xlabel="weight", ylabel="mean difference, grey levels", title="Change of the picture")
        left.set_ylim(bottom=0)
        right.set(xlabel="weight", ylabel="cosine similarity", title=f"Similarity to {character}")
        figure.legend(loc="outside lower left", ncols=3)
        figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    return closed(figure)


def _draw_means(axis: Axes, rows: "pd.DataFrame", column: str, style: dict[str, Any]) -> None:
    means = rows.groupby("weight")[column].mean()
    axis.plot(means.index, means, linewidth=1.6, markersize=5, **style)
    if rows["weight"].duplicated().any():
        single: dict[str, Any] = {"color": style["color"], "marker": style["marker"], "linestyle": "none"}
        axis.plot(rows["weight"], rows[column], markersize=3, alpha=0.5, **single)
    axis.xaxis.set_major_locator(MaxNLocator(steps=[1, 2, 2.5, 5, 10], nbins=6))


def _groups(frame: "pd.DataFrame", columns: str | list[str]) -> list[tuple[Any, "pd.DataFrame"]]:
    return list(frame.groupby(columns, sort=False))


def _label_threshold(axis: Axes, threshold: float) -> None:
    axis.axhline(threshold, color=INK, linewidth=1.1, linestyle=(0, (4, 3)))
    axis.annotate(
        f"threshold {threshold:.2f}",
        (0, threshold),
        (4, -4),
        xycoords=axis.get_yaxis_transform(),
        textcoords="offset points",
        va="top",
        fontsize=8,
    )


def _mark_unscored(axis: Axes, sweep: "pd.DataFrame") -> None:
    axis.set_ylim(min(0.0, sweep["similarity"].min(skipna=True)) if sweep["similarity"].notna().any() else 0.0, 1.0)
    unscored = sweep[sweep["face"].notna() & (sweep["face"] != "ok")]
    for (weight, status), rows in _groups(unscored, ["weight", "face"]):
        across = axis.get_xaxis_transform()  # x in weights, y as a fraction of the panel
        axis.plot([weight], [_NO_SCORE_LEVEL], "x", color=INK, markersize=7, transform=across, clip_on=False)
        axis.annotate(
            f"{len(rows)} × {str(status).replace('_', ' ')}",
            (weight, _NO_SCORE_LEVEL),
            (0, 7),
            xycoords=across,
            textcoords="offset points",
            ha="center",
            fontsize=8,
        )


def block_tables(effects: "pd.DataFrame", interferences: "pd.DataFrame", *, title: str = "") -> Figure:
    """Show relative effects and cosines of LoRAs by block, side by side, the numbers written into the cells.

    Both as `LoraComparison` returns them, with a row for each block. Blocks that no LoRA changes are left out.
    """
    touched = effects.index[(effects != 0).any(axis=1)]
    if touched.empty:
        return say("no LoRA changes anything", title)
    effects, cosines = effects.loc[touched], interferences.loc[touched]
    percent = 100 * effects.mask(effects == 0)
    panels = [(percent, "Size of the update, % of the weights", "cividis", (0.0, float(percent.max().max())))]
    if not cosines.columns.empty:
        panels.append((cosines, "Cosine between updates", "PuOr", (-1.0, 1.0)))
    widths = [len(table.columns) + 0.6 for table, *_ in panels]
    size = (1.4 * sum(widths), 0.26 * len(touched) + 1.9)
    with figure_style():
        figure, axes = plt.subplots(
            1, len(panels), figsize=size, squeeze=False, layout="constrained", width_ratios=widths
        )
        for axis, (table, name, colormap, limits) in zip(axes.flat, panels, strict=True):
            _draw_cells(axis, table, colormap, limits)
            axis.set_title(name)
        figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    return closed(figure)


def _draw_cells(axis: Axes, table: "pd.DataFrame", colormap: str, limits: tuple[float, float]) -> None:
    """Draw a table as coloured cells; what isn't known is a dash on white."""
    values = table.to_numpy(dtype=np.float64)
    image = axis.imshow(values, cmap=colormap, vmin=limits[0], vmax=limits[1], aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        red, green, blue, _ = image.to_rgba(value)
        is_dark = np.isfinite(value) and 0.3 * red + 0.59 * green + 0.11 * blue < 0.5
        text = _number(value, 2 if limits[0] < 0 else 1)
        axis.text(column, row, text, ha="center", va="center", fontsize=8, color="white" if is_dark else INK)
    axis.axhline(len(table) - 1.5, color="white", linewidth=3)  # the last row is of all blocks
    names = [str(name).replace(" × ", "\n× ") for name in table.columns]
    axis.set_xticks(range(len(names)), names, fontsize=7.5)
    axis.set_yticks(range(len(table)), [str(name) for name in table.index])
    axis.tick_params(length=0, labelcolor=INK, color=MUTED)
    axis.spines[:].set_visible(False)


def _number(value: float, digits: int) -> str:
    """Return a number for a cell: no 0 has a sign, and what isn't known is a dash."""
    return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "−") if np.isfinite(value) else "–"
