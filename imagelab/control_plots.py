"""Figures about controls: each function returns a Figure and shows nothing."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from imagelab.plots import closed, colours, figure_style

_MARKERS = "osD^vP"
_LABEL_GAP = 0.055  # between the lines' names, as a share of the axis


def adherence_curves(
    scales: Sequence[float],
    scores: Mapping[str, Sequence[float | None]],
    metrics: Mapping[str, str],
    *,
    title: str = "",
) -> Figure:
    """Draw how closely pictures follow against the scale of their control, a line a kind; 1 is full agreement.

    `scores` maps a kind to its score at each scale, None where there is none; `metrics` says what its number is.
    """
    with figure_style():
        figure, axis = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
        lines = {kind: np.array(values, dtype=np.float64) for kind, values in scores.items()}
        for values, colour, marker in zip(lines.values(), colours(len(lines)), cycle(_MARKERS), strict=False):
            axis.plot(scales, values, color=colour, marker=marker, markersize=5, linewidth=1.6)
        axis.set(xlabel="scale of the control (0: as without it)", ylabel="agreement with the source", title=title)
        axis.set_ylim(min([0.0, *map(_lowest, lines.values())]) - 0.02, 1.02)
        axis.set_xticks(scales)
        _name_lines(axis, max(scales, default=0.0), lines, metrics)
    return closed(figure)


def _lowest(values: np.ndarray) -> float:
    return float(np.nanmin(values, initial=0.0))


def _name_lines(axis: Axes, right: float, lines: Mapping[str, np.ndarray], metrics: Mapping[str, str]) -> None:
    """Write each line's name where it ends, the names moved apart where the lines are close together."""
    low, high = axis.get_ylim()
    ends = {kind: _last(values, low) for kind, values in lines.items()}
    gap, place = _LABEL_GAP * (high - low), np.inf
    inks = dict(zip(lines, colours(len(lines)), strict=True))
    for kind in sorted(ends, key=lambda kind: -ends[kind]):
        place = min(ends[kind], place - gap)
        text = f"{kind}, {metrics[kind]}"
        looks: dict[str, Any] = {"color": inks[kind], "fontsize": 8, "va": "center", "annotation_clip": False}
        axis.annotate(text, (right, place), (8, 0), textcoords="offset points", **looks)


def _last(values: np.ndarray, default: float) -> float:
    known = values[np.isfinite(values)]
    return float(known[-1]) if len(known) else default
