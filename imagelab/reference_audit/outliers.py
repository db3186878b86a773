"""Which references show somebody else."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

MIN_REFERENCES = 3  # of two that disagree, neither is the stranger

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


class Outliers(NamedTuple):
    """What the outlier test saw."""

    scores: Floats  # (n,): each one's cosine to the mean of the others that show the person
    limit: float  # below it a reference shows somebody else
    flags: Flags  # (n,)


def find_outliers(embeddings: NDArray[np.float32], stranger: float = 0.0) -> Outliers | None:
    """Find the references (n, d) that aren't of the person whom most of them show; None for fewer than three.

    `stranger` is the cosine that two different people usually have. The majority that is nearest to each other is taken
    for the person, which fewer than half can't change, also when they are one other person; each reference is scored by
    its cosine to the mean of those but itself. What falls short of a share of the way from a stranger to the median is
    an outlier. Whom that leaves is the person then, and all are scored once more: a mean of more is steadier.

    The share is 1/2 + 0.28/√n: the more references there are, the farther the least like of them may be from the rest.
    It finds a stranger in 99 of 100 sets of puppets and is wrong about one clean set in 100 at most, from 3 to 20.
    No multiple of the scores' own spread (MAD): of five numbers that is a guess, small by chance in one clean set of
    many, so that a rule of it either cries wolf at narrow sets or overlooks strangers in wide ones.
    """
    count = len(embeddings)
    if count < MIN_REFERENCES:
        return None
    rows = np.asarray(embeddings, np.float64)
    cosines, share = rows @ rows.T, 0.5 + 0.28 / np.sqrt(count)
    scores = _to_the_others(cosines, _nearest_majority(cosines))
    scores = _to_the_others(cosines, scores >= _limit(scores, share, stranger))
    limit = _limit(scores, share, stranger)
    return Outliers(scores, limit, scores < limit)


def _nearest_majority(cosines: Floats) -> Flags:
    """Say of each of n (n, n) whether it is of the n // 2 + 1 around one of them that are nearest to each other."""
    groups = np.argsort(-cosines, axis=1, kind="stable")[:, : len(cosines) // 2 + 1]
    chosen = max(groups, key=lambda group: round(float(cosines[np.ix_(group, group)].sum()), 9))
    flags = np.zeros(len(cosines), bool)
    flags[chosen] = True
    return flags


def _to_the_others(cosines: Floats, person: Flags) -> Floats:
    """Return the cosine (n,) of each to the mean of those that show the person, itself left out."""
    others = (person & ~np.eye(len(cosines), dtype=bool)).astype(np.float64)  # (n, n): a row's own others
    lengths = np.sqrt(np.einsum("ij,jk,ik->i", others, cosines, others))
    return np.asarray((others * cosines).sum(axis=1) / np.maximum(lengths, 1e-9))


def _limit(scores: Floats, share: float, stranger: float) -> float:
    return stranger + share * (float(np.median(scores)) - stranger)
