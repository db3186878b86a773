"""Similarity scores, and the pictures and characters that they are of."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imagelab.errors import InvalidValueError

TEMPLATE = ""
_FIX = "leave out pictures whose status isn't ok: they have no score"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Scores:
    """Similarity scores of pictures whose status is ok, and what they were made of.

    A score is of one picture, compared with a template, or of a pair. Scores that share a picture or a character err
    together, so who they are of decides how much n scores are worth. Where scores are of several templates, each is the
    second of a pair, named TEMPLATE among `pictures`: it counts as its character, and as no picture. Raises
    InvalidValueError for values that aren't finite and for shapes that don't fit.
    """

    values: NDArray[np.float64]  # (n,), higher is nearer
    pictures: NDArray[np.str_]  # (n, k): the k = 1 or 2 pictures that each score is of; TEMPLATE for what is none
    characters: NDArray[np.str_]  # (n, k): whose pictures they are

    def __post_init__(self) -> None:
        """Refuse what can't be scores."""
        values = np.asarray(self.values)
        if values.ndim != 1 or not np.issubdtype(values.dtype, np.number) or np.iscomplexobj(values):
            raise InvalidValueError("scores", self.values, "a row (n,) of numbers")
        if not np.isfinite(values).all():
            bad = values[~np.isfinite(values)][0]
            raise InvalidValueError("scores", float(bad), f"finite; {_FIX}")
        object.__setattr__(self, "values", values.astype(np.float64))
        for name in ("pictures", "characters"):
            names = np.asarray(getattr(self, name), dtype=np.str_)
            if names.shape not in {(len(values), 1), (len(values), 2)}:
                raise InvalidValueError(name, names.shape, f"of shape ({len(values)}, 1) or ({len(values)}, 2)")
            object.__setattr__(self, name, names)
        if self.pictures.shape != self.characters.shape:
            expected = f"of the shape of pictures, {self.pictures.shape}"
            raise InvalidValueError("characters", self.characters.shape, expected)

    def __len__(self) -> int:
        """Count the scores."""
        return len(self.values)

    @property
    def picture_keys(self) -> NDArray[np.str_]:
        """Return (n, k) names that are unique to a picture, whoever else has one of the same name."""
        return np.char.add(np.char.add(self.characters, "\n"), self.pictures)

    @property
    def picture_count(self) -> int:
        """Count the pictures; a template is none."""
        return len(np.unique(self.picture_keys[self.pictures != TEMPLATE]))


def as_scores(given: "Scores | Sequence[float] | NDArray[np.floating]", character: str) -> Scores:
    """Return scores as they are, and plain numbers as scores of one picture of `character` each.

    Raises InvalidValueError.

    >>> as_scores([0.8, 0.7], "luca").pictures.tolist()
    [['0'], ['1']]
    """
    if isinstance(given, Scores):
        return given
    try:
        values = np.asarray(given, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InvalidValueError("scores", given, f"numbers; {_FIX}") from error
    names = np.arange(values.size).astype(np.str_).reshape(-1, 1)
    return Scores(values=values, pictures=names, characters=np.full_like(names, character, dtype=f"<U{len(character)}"))
