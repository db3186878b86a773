"""Which characters a face encoder takes for each other, by their references."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from imagelab.records import Record
from imagelab.reference_store import CharacterReferences
from imagelab.reference_template import leave_one_out_scores, template_scores


@dataclass(frozen=True, kw_only=True, slots=True)
class ConfusedPair(Record):
    """How near two characters are to each other."""

    first: str
    second: str
    similarity: float  # cosine of their templates
    nearer: float  # share of both's references that are nearer to the other's template than to their own


@dataclass(frozen=True, kw_only=True, slots=True)
class Confusion(Record):
    """Characters against each other, by the templates of their references."""

    characters: tuple[str, ...]
    templates: tuple[tuple[float, ...], ...]  # (c, c) cosines of the templates
    nearer: tuple[tuple[float, ...], ...]  # (c, c): the share of row's references that are nearer to column's template
    nearer_to_another: Mapping[str, float]  # {character: share of its references that are nearer to any other's}
    pairs: tuple[ConfusedPair, ...]  # the most confused first


def measure_confusion(characters: Sequence[CharacterReferences]) -> Confusion:
    """Compare characters by their references; each reference with its own template as a picture left out of it.

    A single reference has no template but itself, so that it counts as nearer to nobody else's.
    """
    names = [each.character_name for each in characters]
    templates = np.stack([each.template for each in characters]).astype(np.float64)
    cosines = np.clip(templates @ templates.T, -1, 1)
    nearer = [[_nearer(own, other) for other in characters] for own in characters]  # [c][c] (n,) booleans
    shares = [[float(flags.mean()) for flags in row] for row in nearer]
    pairs = [
        ConfusedPair(
            first=names[i],
            second=names[j],
            similarity=round(float(cosines[i, j]), 6),
            nearer=float(np.concatenate([nearer[i][j], nearer[j][i]]).mean()),
        )
        for i in range(len(names))
        for j in range(i + 1, len(names))
    ]
    return Confusion(
        characters=tuple(names),
        templates=tuple(tuple(round(float(value), 6) for value in row) for row in cosines),
        nearer=tuple(tuple(row) for row in shares),
        nearer_to_another={name: float(np.any(row, axis=0).mean()) for name, row in zip(names, nearer, strict=True)},
        pairs=tuple(sorted(pairs, key=lambda pair: (-pair.nearer, -pair.similarity))),
    )


def _nearer(own: CharacterReferences, other: CharacterReferences) -> np.ndarray:
    rows = own.embeddings
    if own is other or len(rows) < 2:
        return np.zeros(len(rows), bool)
    home, _ = leave_one_out_scores(own.provenance.template.kind, rows)
    return np.asarray(template_scores(other.provenance.template.kind, other.embeddings, rows) > home)
