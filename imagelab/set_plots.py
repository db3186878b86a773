"""Figures about encoders and sets of pictures: each function returns a Figure and shows nothing.

What a colour says, a shape, a size or a number says too: they are read in grey as well.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from imagelab.plots import COLOURS, INK, MUTED, closed, figure_style, say
from imagelab.set_description import Measured, SetDescription
from imagelab.set_measures import pareto_optimal

if TYPE_CHECKING:
    from imagelab.encoders import EncoderComparison

_SMALLEST, _LARGEST = 7.0, 17.0  # points: markers of the least and the most adherence shown
_BLUE = COLOURS[0]


def frontier(sets: Sequence[SetDescription], *, title: str = "Consistency, diversity, adherence") -> Figure:
    """Show sets of pictures by identity, diversity and adherence, the Pareto-optimal ones filled and connected.

    Right: more like the references, with the interval of the mean. Up: more unlike each other. Larger, and written
    beside it: closer to the prompts, CLIP-T x 100; a hollow ring has another set that is as good in all respects and
    better in one. Of adherence, sets without prompts have none, and it decides nothing unless all have it. Sets without
    identity or diversity are named below.
    """
    shown = [item for item in sets if item.identity.value is not None and item.diversity.value is not None]
    if not shown:
        return say("no set with an identity and a diversity", title)
    best = pareto_optimal(np.array([_goals(item, shown) for item in shown]))
    with figure_style():
        figure, axis = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
        front = sorted(
            (float(item.identity), float(item.diversity)) for item, on in zip(shown, best, strict=True) if on
        )
        axis.plot(*zip(*front, strict=True), color=MUTED, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
        middle = (min(float(item.identity) for item in shown) + max(float(item.identity) for item in shown)) / 2
        drawn = sorted(zip(shown, _sizes(shown), best, strict=True), key=lambda one: float(one[0].identity))
        for place, (item, size, on) in enumerate(drawn):  # neighbours have their labels above and below in turn
            _draw_set(axis, item, size, above=place % 2 == 0, on_right=float(item.identity) <= middle, filled=bool(on))
        confidence = shown[0].confidence
        axis.set(
            xlabel=f"identity: mean cosine to the references ({confidence:.0%} interval)",
            ylabel="diversity: mean 1 − cosine of pairs (CLIP-I)",
            title=title,
        )
        axis.margins(x=0.14, y=0.22)
        _explain(
            axis, [item.name for item in sets if item not in shown], adherence=any(item.adherence.n for item in shown)
        )
    return closed(figure)


def _goals(item: SetDescription, shown: Sequence[SetDescription]) -> list[float]:
    goals = [float(item.identity), float(item.diversity)]
    return [*goals, float(item.adherence)] if all(other.adherence.value is not None for other in shown) else goals


def _sizes(shown: Sequence[SetDescription]) -> list[float]:
    """Return the markers' diameters in points, from the least to the most adherence that is there."""
    values = np.array([float(item.adherence) for item in shown])
    known = values[np.isfinite(values)]
    span = float(np.ptp(known)) if len(known) else 0.0
    if span == 0:
        return [(_SMALLEST + _LARGEST) / 2] * len(shown)
    sizes = _SMALLEST + (_LARGEST - _SMALLEST) * (values - known.min()) / span
    return [float(size) if np.isfinite(size) else _SMALLEST for size in sizes]


def _draw_set(axis: Axes, item: SetDescription, size: float, *, above: bool, on_right: bool, filled: bool) -> None:
    x, y = float(item.identity), float(item.diversity)
    if item.identity.low is not None and item.identity.high is not None:
        axis.plot([item.identity.low, item.identity.high], [y, y], color=_BLUE, linewidth=1.2, zorder=2)
    face = _BLUE if filled else "white"
    axis.plot([x], [y], "o", color=_BLUE, markerfacecolor=face, markersize=size, markeredgewidth=1.6, zorder=3)
    align, lift = "left" if on_right else "right", size / 2 + 4
    axis.annotate(
        _label(item), (x, y), (0, lift if above else -lift), textcoords="offset points",
        ha=align, va="bottom" if above else "top", multialignment=align, fontsize=8,
        bbox={"boxstyle": "square,pad=0.15", "facecolor": "white", "edgecolor": "none"}, zorder=2.5,
    )  # fmt: skip


def _label(item: SetDescription) -> str:
    parts = [_say("CLIP-T", item.adherence, 100, ".1f"), _say("copy-paste", item.copy_paste, 1, ".2f")]
    return "\n".join([f"{item.name} (n = {item.identity.n})", ", ".join(part for part in parts if part)])


def _say(name: str, measured: Measured, factor: float, style: str) -> str:
    return "" if measured.value is None else f"{name} {factor * measured.value:{style}}"


def _explain(axis: Axes, missing: Sequence[str], *, adherence: bool) -> None:
    lines = ["filled and connected: no other set is as good in all respects and better in one"]
    lines += ["larger: closer to the prompts"] if adherence else []
    lines += [f"not shown, too few pictures: {', '.join(missing)}"] if missing else []
    axis.annotate(
        "\n".join(lines), (0, 0), (0, -38), xycoords="axes fraction", textcoords="offset points",
        va="top", fontsize=8, color=MUTED,
    )  # fmt: skip


def encoder_intervals(comparison: "EncoderComparison", *, title: str = "Which encoder tells them apart?") -> Figure:
    """Show the AUROC of several encoders with its intervals side by side, the recommended one filled."""
    results = [result for result in comparison.results if result.calibration is not None]
    if not results:
        return say("no encoder could compare enough pictures", title)
    with figure_style():
        figure, axis = plt.subplots(figsize=(6.4, 1.2 + 0.45 * len(results)), layout="constrained")
        for row, result in enumerate(results):
            auroc = result.calibration.auroc  # type: ignore[union-attr]  # those without are left out above
            chosen = result.name == comparison.recommended
            axis.plot([auroc.low, auroc.high], [row, row], color=_BLUE, linewidth=1.6)
            face = _BLUE if chosen else "white"
            axis.plot([auroc.value], [row], "o", color=_BLUE, markerfacecolor=face, markersize=8, markeredgewidth=1.6)
            text = f"{auroc.value:.3f}, ok {result.detection_rate:.0%} of {result.pictures}"
            axis.annotate(
                text, (1.02, row), xycoords=("axes fraction", "data"), va="center", fontsize=8, color=INK,
                annotation_clip=False, fontweight="bold" if chosen else "normal",
            )  # fmt: skip
        axis.set_yticks(range(len(results)), [result.name for result in results])
        axis.set_ylim(len(results) - 0.5, -0.5)
        axis.set(xlabel=f"AUROC ({comparison.confidence:.0%} interval); filled: recommended", title=title)
    return closed(figure)
