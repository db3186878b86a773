"""Figures about calibrations and experiments: each function returns a Figure and shows nothing.

Colour never speaks alone: hatches, dashes and markers say the same.
"""

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator, MaxNLocator, NullLocator
from numpy.typing import NDArray

from imagelab.calibration import Calibration, Curve, Estimate, Scores, error_curve
from imagelab.conditions import ConditionSummary
from imagelab.experiments import PairedComparison
from imagelab.plots import COLOURS, INK, MUTED, closed, figure_style, say

ScoresLike = Scores | Sequence[float] | NDArray[np.floating]
GENUINE, IMPOSTOR = COLOURS[0], COLOURS[1]
_RATES = (0.001, 0.01, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 0.9)
_LEAST_RATE, _MOST_RATE = 0.0005, 0.95
_DASHES: Any = ((0, (4, 3)), (0, (1, 1.5)), (0, (6, 2, 1, 2)))
_BINS = 40  # at most; fewer than the rule of Freedman and Diaconis asks for would hide the gap


def score_histogram(
    genuine: ScoresLike,
    impostor: ScoresLike,
    calibration: Calibration | None = None,
    *,
    configured: float | Mapping[str, float] | None = None,
    title: str = "",
    xlabel: str = "similarity to the references",
) -> Figure:
    """Compare genuine and impostor scores as densities over shared bins, with the thresholds between them.

    The band is the interval of the calibrated threshold; `configured` is the one in the configuration, or several by
    name.
    """
    fixed = _configured(configured)
    own, others = _values(genuine), _values(impostor)
    everything = np.concatenate([own, others])
    if not everything.size:
        return say("no scores", title)
    marks = [*fixed.values(), *([calibration.threshold.value] if calibration else [])]
    bins = np.histogram_bin_edges(np.append(everything, marks), min(_BINS, max(10, 2 * int(everything.size**0.5))))
    with figure_style():
        figure, axis = plt.subplots(figsize=(6.4, 3.4), layout="constrained")
        for values, name, colour, hatch in ((own, "genuine", GENUINE, ""), (others, "impostor", IMPOSTOR, "////")):
            if not len(values):
                axis.plot([], [], color=colour, label=f"{name} (n = 0)")
                continue
            style: dict[str, Any] = {"density": True, "bins": bins}
            face: dict[str, Any] = {
                "facecolor": colour if not hatch else "none",
                "edgecolor": colour,
                "alpha": 0.4,
                "hatch": hatch,
            }
            axis.hist(values, **style, histtype="stepfilled", linewidth=0, label=f"{name} (n = {len(values)})", **face)
            heights = np.histogram(values, bins, density=True)[0]
            outline = np.where(heights > 0, heights, np.nan)  # none along the axis, where there is nothing
            axis.stairs(outline, bins, color=colour, linewidth=1.4)
        if calibration is not None:
            threshold = calibration.threshold
            label = f"calibrated, {calibration.policy}: {_interval(threshold, 2)}"
            axis.axvspan(threshold.low, threshold.high, color=MUTED, alpha=0.25, linewidth=0)
            axis.axvline(threshold.value, color=INK, linewidth=1.4, label=label)
        for (name, value), dashes in zip(fixed.items(), cycle(_DASHES), strict=False):
            axis.axvline(value, color=INK, linewidth=1.4, linestyle=dashes, label=f"{name}: {value:.2f}")
        axis.set(xlabel=xlabel, ylabel="density", xlim=_reach(bins, calibration))
        axis.set_ylim(bottom=0)
        figure.legend(loc="outside lower left", ncols=2, handlelength=1.8)
        axis.set_title(title)
    return closed(figure)


def _reach(bins: NDArray[np.floating], calibration: Calibration | None) -> tuple[float, float]:
    """Return from where to where to draw: to the ends of the threshold's interval, if that isn't too far."""
    low, high = float(bins[0]), float(bins[-1])
    far, margin = (high - low) / 3, (high - low) / 50
    if calibration is not None:
        threshold = calibration.threshold
        low, high = max(low - far, min(low, threshold.low)), min(high + far, max(high, threshold.high))
    return low - margin, high + margin


def det_figure(
    genuine: ScoresLike, impostor: ScoresLike, calibration: Calibration | None = None, *, title: str = ""
) -> Figure:
    """Draw the detection error tradeoff on normal-deviate axes, with the operating point and its intervals.

    Straight lines here are normal distributions. Where the impostors are too few to show a false match rate, the
    ground is grey: below 3 / pictures. Rates of 0 lie outside, as on every such figure.
    """
    own, others = _values(genuine), _values(impostor)
    if not len(own) or not len(others):
        return say("genuine and impostor scores are needed", title)
    curve = error_curve(own, others)
    least = 3 / (calibration.impostor.pictures if calibration else len(others))
    with figure_style():
        figure, axis = plt.subplots(figsize=(4.8, 4.8), layout="constrained")
        if _LEAST_RATE < least < _MOST_RATE:
            unknown = f"FMR below {100 * least:.2g} %: too few impostors to tell"
            axis.axvspan(_deviate(_LEAST_RATE), _deviate(least), color=MUTED, alpha=0.18, linewidth=0, label=unknown)
        diagonal = _deviate(np.array([_LEAST_RATE, _MOST_RATE]))
        axis.plot(diagonal, diagonal, color=MUTED, linewidth=0.9, linestyle=":", label="FMR = FNMR")
        _draw_curve(axis, curve)
        if calibration is not None:
            _draw_operating_point(axis, calibration)
        for side in (axis.xaxis, axis.yaxis):
            side.set_major_locator(FixedLocator(_deviate(np.array(_RATES)).tolist()))
            side.set_major_formatter(FixedFormatter([f"{100 * rate:g}" for rate in _RATES]))
            side.set_minor_locator(NullLocator())
        axis.grid(color=MUTED, alpha=0.25, linewidth=0.6)
        axis.set(xlim=diagonal, ylim=diagonal, xlabel="false match rate, %", ylabel="false non-match rate, %")
        axis.set_aspect("equal")
        axis.set_title(title)
        figure.legend(loc="outside lower left", handlelength=1.8)
    return closed(figure)


def roc_figure(
    genuine: ScoresLike, impostor: ScoresLike, calibration: Calibration | None = None, *, title: str = ""
) -> Figure:
    """Draw the receiver operating characteristic, with the operating point and its intervals."""
    own, others = _values(genuine), _values(impostor)
    if not len(own) or not len(others):
        return say("genuine and impostor scores are needed", title)
    curve = error_curve(own, others)
    with figure_style():
        figure, axis = plt.subplots(figsize=(4.4, 4.4), layout="constrained")
        axis.plot([0, 1], [0, 1], color=MUTED, linewidth=0.9, linestyle=":", label="a coin")
        name = f"AUROC {_interval(calibration.auroc, 3)}" if calibration else f"n = {len(own)} and {len(others)}"
        axis.plot(curve.fmr, 1 - curve.fnmr, color=GENUINE, linewidth=1.8, label=name)
        if calibration is not None:
            x, y = calibration.fmr, calibration.fnmr
            _draw_cross(axis, x, Estimate(value=1 - y.value, low=1 - y.high, high=1 - y.low), calibration)
        axis.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
        axis.set(xlabel="false match rate", ylabel="true match rate (1 - FNMR)")
        axis.set_aspect("equal")
        axis.set_title(title)
        figure.legend(loc="outside lower left", handlelength=1.8)
    return closed(figure)


def condition_figure(
    summaries: Sequence[ConditionSummary],
    threshold: float | None = None,
    *,
    title: str = "",
    xlabel: str = "mean similarity to the references",
) -> Figure:
    """Show the mean of each condition with its interval, aspect by aspect, and of how many of its pictures it is.

    A ring is a single picture, which has no interval. A condition without a picture that can be compared has no mark.
    """
    if not summaries:
        return say("no conditions", title)
    with figure_style():
        figure, axis = plt.subplots(figsize=(6.4, 0.32 * len(summaries) + 1.6), layout="constrained")
        places = _condition_places(summaries)
        for place, one in zip(places, summaries, strict=True):
            if one.low is not None and one.high is not None:
                axis.plot([one.low, one.high], [place, place], color=GENUINE, linewidth=2.2)
            if one.mean is not None:
                face = "white" if one.low is None else GENUINE
                axis.plot(one.mean, place, "o", color=GENUINE, markerfacecolor=face, markersize=6)
        if threshold is not None:
            axis.axvline(threshold, color=INK, linewidth=1.1, linestyle=_DASHES[0], label=f"threshold {threshold:.2f}")
            figure.legend(loc="outside lower left", handlelength=2.4)
        _name_conditions(axis, summaries, places)
        axis.set(xlabel=xlabel, ylim=(max(places) + 0.7, -1.3))
        axis.margins(x=0.06)
        axis.grid(axis="x", color=MUTED, alpha=0.25, linewidth=0.6)
        axis.set_title(title)
    return closed(figure)


def _condition_places(summaries: Sequence[ConditionSummary]) -> list[float]:
    """Return a place for each row, with room for a heading before each aspect's first."""
    places, next_place = [], 0.0
    for index, one in enumerate(summaries):
        next_place += 1.0 if index and one.aspect != summaries[index - 1].aspect else 0.0
        places.append(next_place)
        next_place += 1.0
    return places


def _name_conditions(axis: Axes, summaries: Sequence[ConditionSummary], places: Sequence[float]) -> None:
    """Write the conditions to the left, under their aspects, and to the right how many of their pictures count."""
    axis.set_yticks(places, [one.condition for one in summaries])
    axis.tick_params(axis="y", length=0)
    beside: dict[str, Any] = {"xycoords": axis.get_yaxis_transform(), "textcoords": "offset points", "va": "center"}
    axis.annotate("n/N", (1, -0.95), (6, 0), fontsize=8, color=MUTED, **beside)
    for index, (place, one) in enumerate(zip(places, summaries, strict=True)):
        axis.annotate(f"{one.ok}/{one.total}", (1, place), (6, 0), fontsize=8, **beside)
        if not index or one.aspect != summaries[index - 1].aspect:
            axis.annotate(
                one.aspect, (0, place - 0.95), (-4, 0), ha="right", fontsize=8, fontweight="bold", color=MUTED, **beside
            )


def paired_figure(comparison: PairedComparison, *, names: tuple[str, str] = ("A", "B"), title: str = "") -> Figure:
    """Show each pair's difference as a dot, sorted, and the mean with its interval as a band; 0 is no difference."""
    values = np.sort(np.array(comparison.differences))
    mean, detection = comparison.difference, comparison.detection
    with figure_style():
        figure, axis = plt.subplots(figsize=(6.4, 3.4), layout="constrained")
        axis.axhline(0, color=INK, linewidth=0.9, linestyle=":")
        axis.axhspan(mean.low, mean.high, color=GENUINE, alpha=0.2, linewidth=0)
        axis.axhline(mean.value, color=GENUINE, linewidth=1.6, label=f"mean {_interval(mean, 3, sign='+')}")
        for sign, marker, colour in ((values > 0, "^", GENUINE), (values < 0, "v", IMPOSTOR)):
            nearer = names[0] if marker == "^" else names[1]
            label = f"{nearer} is nearer in {sign.sum()} of {len(values)} pairs"
            axis.plot(np.flatnonzero(sign) + 1, values[sign], marker, color=colour, markersize=5, label=label)
        if same := int((values == 0).sum()):
            at = np.flatnonzero(values == 0) + 1
            axis.plot(at, np.zeros(same), "o", color=INK, markersize=4, label=f"no difference in {same}")
        axis.plot([], [], " ", label=f"with a score: {detection.a} and {detection.b} of {detection.seeds}")
        axis.set(xlabel="pair, by its difference", ylabel=f"similarity, {names[0]} − {names[1]}")
        axis.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        axis.set_title(title)
        figure.legend(loc="outside lower left", ncols=2, handlelength=1.8)
    return closed(figure)


def _draw_curve(axis: Axes, curve: Curve) -> None:
    fmr, fnmr = (np.clip(rates, 1e-6, 1 - 1e-6) for rates in (curve.fmr, curve.fnmr))
    if not ((curve.fmr > 0) & (curve.fnmr > 0)).any():
        axis.text(0.97, 0.04, "no threshold errs both ways here:\nthe curve lies outside, beyond the lower left corner",
                  transform=axis.transAxes, ha="right", va="bottom", fontsize=8, color=INK)  # fmt: skip
        return
    axis.plot(_deviate(fmr), _deviate(fnmr), color=GENUINE, linewidth=1.8, label="all thresholds")


def _draw_operating_point(axis: Axes, calibration: Calibration) -> None:
    x, y = (
        Estimate(**{name: float(_deviate(np.clip(value, 1e-6, 1 - 1e-6))) for name, value in rate.to_dict().items()})
        for rate in (calibration.fmr, calibration.fnmr)
    )
    edge = float(_deviate(_LEAST_RATE))
    x, y = (Estimate(value=max(rate.value, edge), low=rate.low, high=rate.high) for rate in (x, y))
    _draw_cross(axis, x, y, calibration)


def _draw_cross(axis: Axes, x: Estimate, y: Estimate, calibration: Calibration) -> None:
    """Draw the operating point and the intervals of both of its rates."""
    axis.plot([x.low, x.high], [y.value, y.value], color=IMPOSTOR, linewidth=1.4, zorder=4)
    axis.plot([x.value, x.value], [y.low, y.high], color=IMPOSTOR, linewidth=1.4, zorder=4)
    label = f"{calibration.policy}, threshold {calibration.threshold.value:.2f}"
    axis.plot(x.value, y.value, "D", color=IMPOSTOR, markersize=7, label=label, clip_on=False, zorder=5)


def _deviate(rate: Any) -> Any:
    from scipy.stats import norm

    return norm.ppf(rate)


def _configured(given: float | Mapping[str, float] | None) -> Mapping[str, float]:
    if given is None:
        return {}
    return given if isinstance(given, Mapping) else {"configured": given}


def _values(scores: ScoresLike) -> NDArray[np.float64]:
    values = scores.values if isinstance(scores, Scores) else np.asarray(scores, dtype=np.float64)
    return np.asarray(values[np.isfinite(values)])


def _interval(found: Estimate, digits: int, sign: str = "") -> str:
    numbers = (f"{number:{sign}.{digits}f}".replace("-", "−") for number in (found.value, found.low, found.high))
    return "{} [{}, {}]".format(*numbers)
