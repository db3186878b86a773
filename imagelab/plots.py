"""Figures for the notebooks: each function returns a Figure and shows nothing.

The colours are Okabe and Ito's, which colour-blind readers tell apart (https://jfly.uni-koeln.de/color/).
"""

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from imagelab.errors import InvalidValueError

if TYPE_CHECKING:
    from PIL.Image import Image

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
INK = "#222222"
MUTED = "#767676"
_LEGEND_COLUMNS = 4

_STYLE: Any = {
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "figure.dpi": 110,
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same on every machine
    "font.size": 9,
    "legend.frameon": False,
    "savefig.bbox": "tight",
    "text.color": INK,
    "xtick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.color": MUTED,
    "ytick.labelcolor": INK,
}


def figure_style() -> AbstractContextManager[None]:
    """Return the block within which figures have the style of all of them."""
    return mpl.rc_context(_STYLE)


def contact_sheet(
    images: Sequence["Image"],
    captions: Sequence[str] = (),
    *,
    title: str = "",
    columns: int = 5,
    colour: str = INK,
    if_empty: str = "no pictures",
) -> Figure:
    """Lay pictures out in rows, a caption under each; `colour` is that of the captions.

    Raises InvalidValueError for less than one column.
    """
    if type(columns) is not int or columns < 1:
        raise InvalidValueError("columns", columns, "a whole number, 1 or more")
    if not images:
        return say(if_empty, title)
    rows = math.ceil(len(images) / columns)
    height = 1.55 * max(image.height / image.width for image in images)
    lines = max([2, *(caption.count("\n") + 1 for caption in captions)])
    with figure_style():
        figure, axes = plt.subplots(
            rows,
            columns,
            figsize=(1.6 * columns, (height + 0.16 * lines) * rows + 0.3),
            squeeze=False,
            layout="constrained",
        )
        for axis in axes.flat:
            axis.axis("off")
        for axis, image in zip(axes.flat, images, strict=False):
            axis.imshow(np.asarray(image), interpolation="lanczos")
        for axis, caption in zip(axes.flat, captions, strict=False):
            axis.annotate(
                caption,
                (0.5, 0),
                (0, -3),
                xycoords="axes fraction",
                textcoords="offset points",
                ha="center",
                va="top",
                fontsize=8,
                color=colour,
            )
        if title:
            figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    return closed(figure)


def similarity_histogram(
    groups: Mapping[str, Sequence[float]],
    threshold: float | None = None,
    *,
    title: str = "",
    xlabel: str = "cosine similarity to the references",
    bin_width: float = 0.05,
) -> Figure:
    """Compare the distributions of similarity scores as densities over shared bins.

    `groups` maps a label to its scores; NaN and None don't count, and the legend says how many are left.
    """
    if not groups:
        return say("no scores", title)
    scores = {label: _finite(values) for label, values in groups.items()}
    legend_rows = math.ceil(len(scores) / _LEGEND_COLUMNS)
    bins = _bins(np.concatenate([*scores.values(), [] if threshold is None else [threshold]]), bin_width)
    with figure_style():
        figure, axis = plt.subplots(figsize=(6.4, 3.2), layout="constrained")
        for (label, values), colour in zip(scores.items(), colours(len(scores)), strict=True):
            name = f"{label} (n = {len(values)})"
            if not len(values):
                axis.plot([], [], color=colour, linewidth=6, alpha=0.4, label=name)
                continue
            axis.hist(values, bins, density=True, color=colour, alpha=0.35, label=name)
            axis.hist(values, bins, density=True, color=colour, histtype="step", linewidth=1.4)
            axis.plot(values, np.zeros_like(values), "|", color=colour, markersize=9, clip_on=False)
        if threshold is not None:
            _draw_threshold(axis, threshold)
        axis.set(xlabel=xlabel, ylabel="density", xlim=(bins[0], bins[-1]))
        axis.set_ylim(bottom=0)
        axis.set_title(title, pad=10 + 14 * legend_rows)
        axis.legend(
            loc="lower left", bbox_to_anchor=(-0.01, 1), ncols=min(len(scores), _LEGEND_COLUMNS), handlelength=1.2
        )
    return closed(figure)


def similarity_matrix(matrix: ArrayLike, labels: Sequence[str], *, title: str = "") -> Figure:
    """Show the similarity of each to each, the numbers written into the cells."""
    values = np.asarray(matrix, dtype=np.float64)
    if not values.size:
        return say("nothing to compare", title)
    side = 0.62 * len(labels) + 1.6
    with figure_style():
        figure, axis = plt.subplots(figsize=(side + 0.6, side), layout="constrained")
        lowest = min(0.0, float(values.min()))
        image = axis.imshow(values, cmap="cividis", vmin=lowest, vmax=1)
        dark = lowest + 0.55 * (1 - lowest)
        for (row, column), value in np.ndenumerate(values):
            ink = "white" if value < dark else INK
            axis.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=8, color=ink)
        axis.set_xticks(range(len(labels)), labels, rotation=45, ha="right", rotation_mode="anchor")
        axis.set_yticks(range(len(labels)), labels)
        axis.tick_params(length=0)
        axis.spines[:].set_visible(False)
        axis.set_title(title)
        figure.colorbar(image, ax=axis, shrink=0.8, label="cosine similarity").outline.set_visible(False)
    return closed(figure)


def loss_curves(stories: Mapping[str, Mapping[str, Sequence[float]]]) -> Figure:
    """Draw one small panel a training: its loss over its steps, on a logarithmic scale."""
    if not stories:
        return say("no trainings", "")
    columns = 4
    rows = math.ceil(len(stories) / columns)
    with figure_style():
        figure, axes = plt.subplots(rows, columns, figsize=(9, 1.9 * rows), squeeze=False, layout="constrained")
        for axis in axes.flat[len(stories) :]:
            axis.axis("off")
        for axis, (name, story) in zip(axes.flat, stories.items(), strict=False):
            axis.plot(story["step"], story["loss"], color=COLOURS[0], linewidth=1.2)
            axis.set(yscale="log", title=name)
            axis.set_xlabel(f"steps, {story['seconds'][-1] / 60:.0f} min in all")
    return closed(figure)


def colours(count: int) -> Sequence[str]:
    """Return COLOURS, or, where they don't suffice, steps of viridis, which is as safe."""
    if count <= len(COLOURS):
        return COLOURS[:count]
    return [to_hex(colour) for colour in mpl.colormaps["viridis"](np.linspace(0, 0.95, count))]


def _draw_threshold(axis: Axes, threshold: float) -> None:
    axis.axvline(threshold, color=INK, linewidth=1.1, linestyle=(0, (4, 3)))
    axis.annotate(
        f"threshold {threshold:.2f}",
        (threshold, 1),
        (4, -3),
        xycoords=("data", "axes fraction"),
        textcoords="offset points",
        va="top",
        fontsize=8,
    )


def _bins(values: ArrayLike, width: float) -> list[float]:
    """Return edges at multiples of `width` that span the values and all of 0 to 1."""
    known = np.append(np.asarray(values, dtype=np.float64), [0.0, 1.0])
    first, last = math.floor(known.min() / width + 1e-9), math.ceil(known.max() / width - 1e-9)
    return [edge * width for edge in range(first, last + 1)]


def _finite(values: Sequence[float]) -> np.ndarray:
    array = np.array([math.nan if value is None else value for value in values], dtype=np.float64)
    return array[np.isfinite(array)]


def say(text: str, title: str) -> Figure:
    """Return a figure that says why there is nothing to see."""
    with figure_style():
        figure, axis = plt.subplots(figsize=(6.4, 0.8), layout="constrained")
        axis.axis("off")
        axis.text(0, 0.5, text, va="center", color=MUTED)
        axis.set_title(title)
    return closed(figure)


def closed(figure: Figure) -> Figure:
    """Return the figure, to be shown once."""
    plt.close(figure)  # out of pyplot's list: else the inline backend shows it a second time
    return figure
