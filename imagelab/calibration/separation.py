"""How well similarity scores tell a character from others, and how well references agree among themselves."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imagelab.results import Record
from imagelab.similarity import centroid, cosine


@dataclass(frozen=True, kw_only=True, slots=True)
class Separation(Record):
    """How far the character's own scores overlap with those of others; the rates are NaN where either are missing."""

    genuine: int  # scores of the character
    impostors: int  # scores of others
    auroc: float  # chance that a genuine score is above an impostor's; 1 is perfect, 0.5 a coin
    eer: float  # the rate at which as many genuine ones are refused as impostors accepted
    fnmr: float  # genuine ones that the threshold refuses
    fmr: float  # impostors that it accepts


def separate(genuine: Sequence[float], impostors: Sequence[float], threshold: float) -> Separation:
    """Measure how well `threshold`, and any threshold, parts genuine scores from those of impostors.

    The equal error rate is where scikit-learn's DET curve crosses its diagonal.

    >>> separate([0.9, 0.8], [0.1, 0.2, 0.3], 0.5).auroc
    1.0
    """
    if not genuine or not impostors:
        unknown = {"auroc": math.nan, "eer": math.nan, "fnmr": math.nan, "fmr": math.nan}
        return Separation(genuine=len(genuine), impostors=len(impostors), **unknown)
    from sklearn.metrics import det_curve, roc_auc_score

    labels = [1] * len(genuine) + [0] * len(impostors)
    scores = [*genuine, *impostors]
    fmr, fnmr, _ = det_curve(labels, scores)
    crossing = int(np.argmin(np.abs(fmr - fnmr)))
    return Separation(
        genuine=len(genuine),
        impostors=len(impostors),
        auroc=float(roc_auc_score(labels, scores)),
        eer=float(fmr[crossing] + fnmr[crossing]) / 2,
        fnmr=sum(score < threshold for score in genuine) / len(genuine),
        fmr=sum(score >= threshold for score in impostors) / len(impostors),
    )


def leave_one_out(embeddings: NDArray[np.float32]) -> list[float]:
    """Return the cosine of each embedding (n, d) to the template of the n - 1 others; NaN when it is the only one."""
    if len(embeddings) < 2:
        return [math.nan] * len(embeddings)
    others = (np.delete(embeddings, index, axis=0) for index in range(len(embeddings)))
    return [cosine(own, centroid(rest)) for own, rest in zip(embeddings, others, strict=True)]
