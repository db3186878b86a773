"""Figures of benchmarks: each function returns a Figure and shows nothing."""

from collections.abc import Sequence

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from imagelab.benchmark.report import BenchmarkReport, CaseReport
from imagelab.plots import COLOURS, INK, MUTED, closed, figure_style, say

STAGES = ("loras", "text", "denoise", "vae", "face", "write")
_NOTHING = "no case that the memory was enough for"
_HATCHES = ("", "///", "", "...", "\\\\\\", "xx")


def latency_figure(report: BenchmarkReport, *, title: str = "") -> Figure:
    """Show the seconds that a picture of each case takes: a mark a round, the mean, its interval, the target.

    Beside it: passes of the UNet a second, and the fraction of the machine's arithmetic that is made use of.
    """
    if not report.cases:
        return say(_NOTHING, title)
    with figure_style():
        figure, axis = plt.subplots(figsize=(7.6, 1.3 + 0.36 * len(report.cases)), layout="constrained")
        for place, one in enumerate(report.cases):
            own = [sample.seconds["picture"] for sample in report.samples if sample.case == one.case.name]
            found, colour = one.seconds["picture"], COLOURS[0] if one.case.engine == "imagelab" else MUTED
            axis.plot([found.low, found.high], [place, place], color=colour, linewidth=5, alpha=0.3, zorder=1)
            axis.plot(own, [place] * len(own), "o", color=colour, markersize=3.5, alpha=0.7, zorder=2)
            axis.plot([found.value] * 2, [place - 0.3, place + 0.3], color=colour, linewidth=2, zorder=3)
            if one.target_seconds is not None:
                axis.plot([one.target_seconds], [place], "|", color=COLOURS[1], markersize=16, markeredgewidth=2.5)
            axis.annotate(
                _beside(one), (1.02, place), xycoords=("axes fraction", "data"), va="center", fontsize=8, color=INK,
                annotation_clip=False,
            )  # fmt: skip
        one_round = all(one.samples == 1 for one in report.cases)
        says = "one round, no interval" if one_round else "geometric mean and 95 % interval"
        axis.plot([], [], color=COLOURS[0], linewidth=2, label=says)
        if any(one.target_seconds is not None for one in report.cases):
            axis.plot([], [], "|", color=COLOURS[1], markersize=10, markeredgewidth=2.5, label="target")
        _name_cases(axis, report.cases)
        axis.set(xlabel=f"seconds a picture on {report.machine['device']}, one mark a round", title=title)
        figure.legend(loc="outside lower left", ncols=2)
    return closed(figure)


def stage_figure(report: BenchmarkReport, *, title: str = "") -> Figure:
    """Show what a picture's seconds are made of in each case: the means of the stages, of a batch its share."""
    if not report.cases:
        return say(_NOTHING, title)
    with figure_style():
        figure, axis = plt.subplots(figsize=(7.6, 1.5 + 0.36 * len(report.cases)), layout="constrained")
        start = np.zeros(len(report.cases))
        there = {stage for one in report.cases for stage in one.seconds}
        for stage, colour, hatch in zip(STAGES, COLOURS, _HATCHES, strict=True):
            if stage not in there:
                continue
            width = np.array([_share(one, stage) for one in report.cases])
            axis.barh(
                range(len(width)), width, 0.62, left=start, color=colour, hatch=hatch, edgecolor="white", linewidth=0.5,
                label={"vae": "VAE", "loras": "LoRAs"}.get(stage, stage),
            )  # fmt: skip
            start += width
        _name_cases(axis, report.cases)
        axis.set(xlabel="seconds a picture, means of the stages", title=title)
        figure.legend(loc="outside lower left", ncols=len(STAGES), handlelength=1.4)
    return closed(figure)


def memory_figure(cases: Sequence[CaseReport], *, title: str = "") -> Figure:
    """Show each case's peak memory: of the GPU, allocated and reserved, with the target; without one the process's."""
    if not cases:
        return say(_NOTHING, title)
    on_gpu = any(one.peak_allocated_gib for one in cases)
    kinds = {"peak_reserved_gib": "reserved", "peak_allocated_gib": "allocated"} if on_gpu else {}
    kinds = kinds or {"peak_resident_gib": "resident, of the whole process: no GPU, no VRAM"}
    with figure_style():
        figure, axis = plt.subplots(figsize=(7.6, 1.4 + 0.36 * len(cases)), layout="constrained")
        for (name, label), colour, height in zip(kinds.items(), (MUTED, COLOURS[0]), (0.66, 0.4), strict=False):
            values = [getattr(one, name) for one in cases]
            axis.barh(range(len(values)), values, height, color=colour, alpha=0.75, label=label)
        for place, one in enumerate(cases):
            peak = one.peak_allocated_gib if on_gpu else one.peak_resident_gib
            axis.annotate(f" {peak:.2f}", (peak, place), va="center", fontsize=8, color=INK)
            if on_gpu and one.target_gib is not None:
                axis.plot([one.target_gib], [place], "|", color=COLOURS[1], markersize=16, markeredgewidth=2.5)
        _name_cases(axis, cases)
        axis.margins(x=0.12)
        axis.set(xlabel="peak, GiB", title=title)
        figure.legend(loc="outside lower left", ncols=2)
    return closed(figure)


def _share(one: CaseReport, stage: str) -> float:
    return one.seconds[stage].value / one.case.batch_size if stage in one.seconds else 0.0


def _beside(one: CaseReport) -> str:
    rate = f"{one.iterations_per_second.value:.3g} it/s, {one.fraction_of_limit:.0%} of the limit"
    return rate if one.target_seconds is None else f"{rate}, target: {one.verdict}"


def _name_cases(axis: Axes, cases: Sequence[CaseReport]) -> None:
    axis.set_yticks(range(len(cases)), [one.case.name for one in cases])
    axis.set_ylim(len(cases) - 0.4, -0.6)
    axis.set_xlim(left=0)
