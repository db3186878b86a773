"""Figures of a reference audit; each function returns a Figure and shows nothing."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from imagelab.errors import InvalidValueError
from imagelab.plots import COLOURS, INK, MUTED, closed, contact_sheet, figure_style, say, similarity_matrix
from imagelab.reference_audit.confusable import Confusion
from imagelab.reference_audit.coverage import PITCH, YAW, Aspect
from imagelab.reference_audit.report import ReferenceAudit
from imagelab.reference_store import CharacterReferences

if TYPE_CHECKING:
    from PIL.Image import Image

_OUTLIER, _DUPLICATE = COLOURS[1], COLOURS[3]
_MAX_NAME = 18  # characters of a caption's line that fit under a picture
_YAW_LIMIT, _PITCH_LIMIT = 75.0, 40.0  # degrees that are drawn at least


def audit_sheet(images: Sequence["Image"], audit: ReferenceAudit, *, columns: int = 6) -> Figure:
    """Lay the references out, each with its leave-one-out score; outliers and near-duplicates are framed and say so.

    `images` are the references' pictures in their order. Raises InvalidValueError unless there is one for each.
    """
    if len(images) != len(audit.pictures):
        raise InvalidValueError("images", len(images), f"the {len(audit.pictures)} references' pictures")
    numbers = {picture.name: index + 1 for index, picture in enumerate(audit.pictures)}
    copies = {pair.second: f"{pair.kind} of {numbers[pair.first]}" for pair in reversed(audit.duplicates)}
    captions, frames = [], []
    for number, picture in enumerate(audit.pictures, start=1):
        score = "the only one" if picture.leave_one_out is None else f"{picture.leave_one_out:.3f}"
        said = "somebody else?" if picture.is_outlier else copies.get(picture.name, "")
        captions.append(f"{number}  {_short(picture.name)}\n{score}\n{said}".rstrip())
        frames.append(_OUTLIER if picture.is_outlier else _DUPLICATE if said else None)
    title = f"References of {audit.character_name}: similarity to the others"
    figure = contact_sheet(images, captions, title=title, columns=min(columns, max(len(images), 4)))
    for axis, colour in zip(figure.axes, frames, strict=False):
        if colour:
            _frame(axis, colour)
    return closed(figure)


def _short(name: str) -> str:
    stem = Path(name).stem if Path(name).suffix else name
    return stem if len(stem) <= _MAX_NAME else f"{stem[: _MAX_NAME - 1]}…"


def _frame(axis: Axes, colour: str) -> None:
    border = Rectangle((0, 0), 1, 1, transform=axis.transAxes, fill=False, color=colour, linewidth=4, clip_on=False)
    axis.add_patch(border)
    for text in axis.texts:
        text.set(fontweight="bold")


def pose_coverage(references: CharacterReferences) -> Figure:
    """Draw which way the references' heads are turned, over the bins that coverage counts; empty bins are hatched."""
    faces = [picture.face for picture in references.provenance.pictures]
    poses = [(face.yaw_degrees, face.pitch_degrees) for face in faces]
    yaws, pitches = zip(*((yaw, pitch) for yaw, pitch in poses if yaw is not None and pitch is not None), strict=True)
    right = max(_YAW_LIMIT, *(abs(yaw) + 5 for yaw in yaws))
    top = max(_PITCH_LIMIT, *(abs(pitch) + 5 for pitch in pitches))
    with figure_style():
        figure, axis = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
        _draw_bins(axis, yaws, pitches, right, top)
        axis.scatter(yaws, pitches, s=34, color=COLOURS[0], edgecolor="white", linewidth=0.8, zorder=3)
        for number, (yaw, pitch) in enumerate(zip(yaws, pitches, strict=True), start=1):
            beside = (5, 3) if number % 2 else (5, -9)  # neighbours' numbers seldom meet
            axis.annotate(str(number), (yaw, pitch), beside, textcoords="offset points", fontsize=8, zorder=4)
        _name_bins(axis.secondary_xaxis("top"), "x", YAW, right)
        _name_bins(axis.secondary_yaxis("right"), "y", PITCH, top)
        axis.set(xlim=(-right, right), ylim=(-top, top), xlabel="yaw in degrees", ylabel="pitch in degrees")
        axis.set_title(f"Poses of {references.character_name}'s {len(faces)} references", pad=10)
    return closed(figure)


def _draw_bins(axis: Axes, yaws: Sequence[float], pitches: Sequence[float], right: float, top: float) -> None:
    points = list(zip(yaws, pitches, strict=True))
    for across in YAW.bins:
        x0, x1 = max(across.low, -right), min(across.high, right)
        for along in PITCH.bins:
            y0, y1 = max(along.low, -top), min(along.high, top)
            filled = any(across.low <= x < across.high and along.low <= y < along.high for x, y in points)
            fill, hatch = ("#E8F1F8", None) if filled else ("none", "///")
            axis.add_patch(
                Rectangle((x0, y0), x1 - x0, y1 - y0, edgecolor="#E2E2E2", linewidth=0.6, facecolor=fill, hatch=hatch)
            )


def _name_bins(axis: Any, letter: str, aspect: Aspect, limit: float) -> None:
    middles = [(max(each.low, -limit) + min(each.high, limit)) / 2 for each in aspect.bins]
    names = [each.name.replace(" ", "\n") for each in aspect.bins]
    (axis.set_xticks if letter == "x" else axis.set_yticks)(middles, names, fontsize=8)
    axis.tick_params(length=0, labelcolor=MUTED)
    axis.spines[:].set_visible(False)


def confusion_matrix(confusion: Confusion | None) -> Figure:
    """Show how near the characters' templates are to each other, and say which two are confused most."""
    if confusion is None or not confusion.pairs:
        return say("no other characters to compare with", "Which characters are confusable?")
    first = confusion.pairs[0]
    figure = similarity_matrix(confusion.templates, confusion.characters, title="Who is like whom?")
    verdict = (
        f"nearest: {first.first} and {first.second}, {first.similarity:.2f};\n{first.nearer:.0%} of theirs confused"
    )
    figure.axes[0].set_xlabel(verdict, color=INK, loc="left", labelpad=8)
    return closed(figure)
