"""Figures of a comparison: the changes, the distributions, the pictures."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from imagelab.benchmark import BenchmarkReport
from imagelab.compare.batches import Batch, paired_items
from imagelab.compare.benchmarks import case_samples
from imagelab.compare.changes import Change
from imagelab.compare.opening import Run
from imagelab.compare.values import Comparison
from imagelab.errors import InvalidValueError
from imagelab.imagefiles import open_image
from imagelab.plots import COLOURS, INK, MUTED, closed, contact_sheet, figure_style, say, similarity_histogram
from imagelab.results import BatchItem

_MARKS = {"worse": "X", "better": "D", "no worse": "o", "undecided": "s", "control": "."}
_HUES = {"worse": COLOURS[1], "better": COLOURS[2], "no worse": COLOURS[0], "undecided": MUTED, "control": MUTED}


def change_figure(comparison: Comparison, *, title: str = "") -> Figure:
    """Show each change with its interval, the limit as a dashed line on the side where it is worse."""
    limit = comparison.fail_over or 0.0
    rows = comparison.changes
    with figure_style():
        figure, axis = plt.subplots(figsize=(7.2, 1.3 + 0.34 * len(rows)), layout="constrained")
        axis.axvline(0, color=INK, linewidth=0.9)
        for place, one in enumerate(rows):
            _draw_change(axis, one, place, limit)
        axis.set_yticks(range(len(rows)), [f"{one.of}: {one.measure}" for one in rows])
        axis.set_ylim(len(rows) - 0.4, -0.6)
        axis.xaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
        axis.margins(x=0.08)
        axis.set(xlabel=f"B against A, with intervals that hold together at {comparison.confidence:.0%}", title=title)
    return closed(figure)


def _draw_change(axis: Axes, one: Change, place: int, limit: float) -> None:
    says = one.verdict(limit) if one.gates else "control"
    style: dict[str, Any] = {"color": _HUES[says], "zorder": 3}
    axis.plot([one.change.low, one.change.high], [place, place], linewidth=1.6, **style)
    axis.plot([one.change.value], [place], _MARKS[says], markersize=7, **style)
    if limit and one.gates:
        edge = limit if one.worse_if_more else -limit
        axis.plot([edge, edge], [place - 0.4, place + 0.4], color=INK, linewidth=1.1, linestyle=(0, (3, 2)))
    axis.annotate(
        says, (1.01, place), xycoords=("axes fraction", "data"), va="center", fontsize=8, color=_HUES[says],
        annotation_clip=False,
    )  # fmt: skip


def distribution_figure(a: Run, b: Run, *, names: tuple[str, str] = ("A", "B"), title: str = "") -> Figure:
    """Lay the distributions of A and B over each other: similarities, or each case's seconds a picture.

    Raises InvalidValueError for a benchmark and a batch.
    """
    if isinstance(a, Batch) and isinstance(b, Batch):
        threshold = a.plan.request.threshold
        return similarity_histogram({names[0]: a.scores, names[1]: b.scores}, threshold, title=title)
    if isinstance(a, BenchmarkReport) and isinstance(b, BenchmarkReport):
        return _seconds_figure(a, b, names, title)
    raise InvalidValueError("B", type(b).__name__, f"of A's kind, {type(a).__name__}")


def _seconds_figure(a: BenchmarkReport, b: BenchmarkReport, names: tuple[str, str], title: str) -> Figure:
    theirs = {one.case.name for one in b.cases}
    cases = [one.case.name for one in a.cases if one.case.name in theirs]
    if not cases:
        return say("no case that both have", title)
    with figure_style():
        figure, axis = plt.subplots(figsize=(7.2, 1.4 + 0.5 * len(cases)), layout="constrained")
        for report, name, mark, colour, lift in (
            (a, names[0], "o", COLOURS[0], -0.17),
            (b, names[1], "s", COLOURS[1], 0.17),
        ):
            for place, case in enumerate(cases):
                seconds = [sample.seconds["picture"] for sample in case_samples(report, case)]
                height = np.full(len(seconds), place + lift)
                axis.plot(seconds, height, mark, color=colour, alpha=0.55, markersize=5, markeredgewidth=0)
                middle, label = float(np.median(seconds)), f"{name}, with its median" if not place else None
                axis.plot([middle] * 2, [place + lift - 0.15, place + lift + 0.15], color=colour, linewidth=2)
                axis.plot([], [], f"{mark}-", color=colour, label=label)
        axis.set_yticks(range(len(cases)), cases)
        axis.set_ylim(len(cases) - 0.4, -0.6)
        axis.set_xlim(left=0)
        axis.set(xlabel="seconds a picture, one mark a round", title=title)
        figure.legend(loc="outside lower left", ncols=2)
    return closed(figure)


def picture_figure(
    a: Batch, b: Batch, *, most: int = 6, names: tuple[str, str] = ("A", "B"), title: str = ""
) -> Figure:
    """Show the pairs of pictures that have lost most similarity, A's above B's.

    Raises ImageFileError for a picture that can't be read.
    """
    pairs = paired_items(a, b)[:most]
    images = [open_image(run.folder / str(pair[row].path)) for row, run in enumerate((a, b)) for pair in pairs]
    captions = [f"{names[row]}, seed {pair[row].seed}\n{_said(pair[row])}" for row in (0, 1) for pair in pairs]
    return contact_sheet(
        images, captions, title=title, columns=max(1, len(pairs)), if_empty="no pair of pictures is kept"
    )


def _said(item: BatchItem) -> str:
    return item.status if item.similarity_score is None else f"{item.status}, {item.similarity_score:.2f}"


def write_figures(comparison: Comparison, a: Run, b: Run, folder: Path) -> Sequence[Path]:
    """Write the figures of a comparison as PNG; returns the paths."""
    figures = {"changes": change_figure(comparison), "distributions": distribution_figure(a, b)}
    if isinstance(a, Batch) and isinstance(b, Batch):
        figures["pictures"] = picture_figure(a, b)
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in figures.items():
        figure.savefig(folder / f"{name}.png", bbox_inches="tight")
    return [folder / f"{name}.png" for name in figures]
