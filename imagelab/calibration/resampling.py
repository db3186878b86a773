"""Resamples of pictures and characters: how much each score weighs in each of them.

Scores that share a picture, or a character, err together. So a resample draws pictures or characters, and a score
weighs the product of how often what it is of was drawn; a resample of the scores themselves would take n scores of
five characters for n independent ones.

- n - 1 of n are drawn, so that the variance between resamples is unbiased (Rao and Wu 1988, doi:10/gr33b5).
- Where there are `SEVERAL` characters or more, characters are drawn, with all of their pictures. Drawing pictures
  within the drawn characters once more would count their noise twice (Davison and Hinkley 1997, section 3.8).
- Of fewer characters, pictures are drawn: a handful of them can't tell how much characters differ.
- A template that scores are compared with is no picture: where pictures are drawn it stays what it is, and where
  characters are, it comes and goes with its own.
- The characters that genuine scores are of and those that only impostors are of are drawn apart, as their numbers are
  chosen, not random.

`scipy.stats.bootstrap` draws rows of the data, so it can't do this; where each picture has a row, both say the same.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imagelab.calibration.scores import TEMPLATE, Scores

SEVERAL = 5  # the least number of characters that stand for characters in general
FIXED = np.intp(-1)  # the unit of what isn't drawn
_CHUNK = 4_000_000  # weights that are drawn at a time; another number draws others
_PART = 500_000  # of them yielded at a time: some ten arrays of this size are made of them, 4 MiB each

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Plan:
    """What is drawn: units, which are characters or pictures, in groups that are drawn apart."""

    groups: tuple[int, ...]  # how many units each has; they are numbered through
    genuine: NDArray[np.intp]  # (n, k): the units of each score; FIXED for what isn't drawn
    impostor: NDArray[np.intp]

    def freedom(self, units: NDArray[np.intp]) -> int:
        """Return the degrees of freedom of what is computed from scores of these units."""
        ends = np.cumsum(self.groups)
        drawn = np.unique(np.searchsorted(ends, np.unique(units[units != FIXED]), side="right"))
        return max(1, min((self.groups[int(group)] for group in drawn), default=1) - 1)


def plan_resamples(genuine: Scores, impostor: Scores) -> Plan:
    """Decide what is drawn for these scores."""
    characters = np.concatenate([genuine.characters.ravel(), impostor.characters.ravel()])
    pictures = np.concatenate([genuine.picture_keys.ravel(), impostor.picture_keys.ravel()])
    shown = np.concatenate([genuine.pictures.ravel(), impostor.pictures.ravel()]) != TEMPLATE
    own = np.isin(characters, np.unique(genuine.characters))
    units = np.full(len(characters), FIXED)
    groups: list[int] = []
    for group in (own, ~own):
        several = len(np.unique(characters[group])) >= SEVERAL
        drawn = group if several else group & shown
        if drawn.any():
            names, numbers = np.unique((characters if several else pictures)[drawn], return_inverse=True)
            units[drawn] = numbers + sum(groups)
            groups.append(len(names))
    split = genuine.characters.size
    return Plan(
        groups=tuple(groups),
        genuine=units[:split].reshape(genuine.characters.shape),
        impostor=units[split:].reshape(impostor.characters.shape),
    )


def draw_weights(plan: Plan, resamples: int, seed: int) -> Iterator[tuple[Floats, Floats]]:
    """Yield the weights (b, n) of the genuine and of the impostor scores, some resamples at a time."""
    rng = np.random.default_rng(seed)
    size_of_one = len(plan.genuine) + len(plan.impostor)
    size = max(1, _CHUNK // size_of_one)
    for start in range(0, resamples, size):
        count = min(size, resamples - start)
        drawn = [rng.multinomial(max(1, n - 1), np.full(n, 1 / n), size=count) for n in plan.groups]
        always = np.ones((count, 1))  # the last column, which is FIXED's
        times = np.concatenate([*drawn, always], axis=1).astype(np.float64)
        for few in np.array_split(times, -(-count * size_of_one // _PART)):
            yield _weights(few, plan.genuine), _weights(few, plan.impostor)


def _weights(times: Floats, units: NDArray[np.intp]) -> Floats:
    """Multiply how often the units of each score were drawn; a unit that both sides of a pair share counts once."""
    weights: Floats = times[:, units[:, 0]]
    if units.shape[1] == 2:
        weights *= np.where(units[:, 1] == units[:, 0], 1.0, times[:, units[:, 1]])
    return weights
