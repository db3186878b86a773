"""What stands for a character's several references when one number is wanted: their mean, their medoid, the nearest.

Rows are unit embeddings, so that a matrix product gives cosines.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from imagelab.calibration.curves import equal_error_rate, error_curve
from imagelab.config import pick
from imagelab.records import Record
from imagelab.similarity import centroid

TemplateKind = Literal["mean", "medoid", "max"]
TemplateRequest = Literal["mean", "medoid", "max", "auto"]
Embeddings = NDArray[np.float32]  # (n, d), rows of norm 1

TEMPLATES: Mapping[TemplateKind, str] = {
    "mean": "the direction of the mean of all references",
    "medoid": "the reference that is nearest to the others",
    "max": "the nearest reference",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class TemplateChoice(Record):
    """Which template a character's references are compared by, and why."""

    requested: TemplateRequest = "mean"
    kind: TemplateKind = "mean"
    why: str = "asked for"
    eer: Mapping[str, float] = field(default_factory=dict)  # {kind: leave-one-out equal error rate}; of auto only


def medoid(embeddings: Embeddings) -> int:
    """Return the row that is nearest to the others; the first of equals."""
    rows = np.asarray(embeddings, np.float64)
    return int(np.argmax(np.round((rows @ rows.T).sum(axis=1), 9)))  # rounded: equals stay equal on every CPU


def template_rows(kind: TemplateKind, references: Embeddings) -> Embeddings:
    """Return the rows (k, d) of which the nearest is compared with; raises InvalidValueError for those that cancel."""
    if kind == "max":
        return references
    return references[medoid(references)][None] if kind == "medoid" else centroid(references)[None]


def template_scores(kind: TemplateKind, references: Embeddings, probes: Embeddings) -> NDArray[np.float64]:
    """Return the cosine (m,) of each probe (m, d) to the template that stands for references (n, d)."""
    rows = np.asarray(template_rows(kind, references), np.float64)
    return np.asarray((np.asarray(probes, np.float64) @ rows.T).max(axis=1))


def leave_one_out_scores(
    kind: TemplateKind, references: Embeddings, impostors: Embeddings | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Score each reference (n, d), n > 1, and all impostors (m, d) against the template of the n - 1 others.

    Returns genuine scores (n,) and impostor scores (n * m,): both against templates of n - 1, so that they compare.
    """
    genuine, false = [], []
    for index, own in enumerate(references):
        rest = np.delete(references, index, axis=0)
        genuine.append(template_scores(kind, rest, own[None])[0])
        if impostors is not None:
            false.append(template_scores(kind, rest, impostors))
    return np.array(genuine), np.concatenate(false) if false else np.empty(0)


def choose_template(requested: str, references: Embeddings, impostors: Embeddings | None = None) -> TemplateChoice:
    """Choose the template: the one asked for, or for `auto` that with the lowest leave-one-out equal error rate.

    `impostors` (m, d) are embeddings of other people. The mean is taken where others do no better, and where auto can't
    tell: without impostors or with a single reference. Raises UnknownNameError.
    """
    asked: TemplateRequest = pick("template", {"auto": "auto", **{kind: kind for kind in TEMPLATES}}, requested)
    if asked != "auto":
        return TemplateChoice(requested=asked, kind=asked)
    if impostors is None or not len(impostors):
        return TemplateChoice(requested="auto", why="no references of others to choose by")
    if len(references) < 2:
        return TemplateChoice(requested="auto", why="a single reference: all templates are the same")
    rates: dict[str, float] = {kind: _eer(*leave_one_out_scores(kind, references, impostors)) for kind in TEMPLATES}
    kind = min(TEMPLATES, key=lambda kind: rates[kind])  # the first of equals, which is the mean
    why = f"lowest leave-one-out EER against {len(impostors)} references of others"
    return TemplateChoice(requested="auto", kind=kind, why=why, eer=rates)


def _eer(genuine: NDArray[np.float64], impostors: NDArray[np.float64]) -> float:
    return round(float(equal_error_rate(error_curve(genuine, impostors))), 9)
