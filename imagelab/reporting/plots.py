"""Figures about what was measured: each function returns a Figure and shows nothing."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from imagelab.plots import COLOURS, MUTED, closed, figure_style, say

if TYPE_CHECKING:
    from imagelab.benchmark import BenchmarkReport


def picture_times(reports: Mapping[str, "BenchmarkReport"]) -> Figure:
    """Show seconds a picture of every case, with intervals, and how much of it is arithmetic; a panel a benchmark.

    The dark part of a bar is what the arithmetic takes at the speed that the machine's matrix products reached: no way
    of drawing the same picture is faster than that.
    """
    if not reports:
        return say("no benchmarks", "")
    heights = [0.28 * len(report.cases) + 1.1 for report in reports.values()]
    with figure_style():
        figure, axes = plt.subplots(
            len(reports),
            1,
            figsize=(7.4, sum(heights)),
            squeeze=False,
            layout="constrained",
            gridspec_kw={"height_ratios": heights},
        )
        for axis, report in zip(axes.flat, reports.values(), strict=True):
            _bars(axis, report)
    return closed(figure)


def _bars(axis: Axes, report: "BenchmarkReport") -> None:
    times = [case.seconds["picture"] for case in report.cases]
    values = [time.value for time in times]
    limits = [case.fraction_of_limit * value for case, value in zip(report.cases, values, strict=True)]
    errors = [[time.value - time.low for time in times], [time.high - time.value for time in times]]
    axis.barh(range(len(values)), values, color=COLOURS[5], label="seconds a picture")
    axis.barh(range(len(values)), limits, color=COLOURS[0], label="of which arithmetic at full speed")
    axis.errorbar(values, range(len(values)), xerr=errors, fmt="none", ecolor=MUTED, linewidth=1, capsize=2)
    axis.set_yticks(range(len(values)), [case.case.name for case in report.cases])
    axis.invert_yaxis()
    axis.set_xlabel("seconds a picture")
    axis.set_title(f"{report.profile} on {report.machine['device']}", pad=22)
    axis.legend(loc="lower left", bbox_to_anchor=(-0.01, 1), ncols=2, fontsize=8)
