"""Scores of pictures against the templates of characters, by any encoder."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imagelab.calibration import Scores
from imagelab.calibration.scores import TEMPLATE
from imagelab.encoders.base import IdentityEncoder, Reading, check_pictures
from imagelab.errors import InvalidValueError
from imagelab.rgb import Picture

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Read:
    """What one encoder saw of the pictures of several characters."""

    readings: tuple[Reading, ...]
    characters: tuple[str, ...]  # whose picture each is

    @property
    def ok(self) -> NDArray[np.bool_]:
        """Say of each picture whether it can be compared."""
        return np.array([reading.embedding is not None for reading in self.readings])

    def counts(self) -> dict[str, int]:
        """Return {status: how many pictures have it}."""
        statuses = [reading.status for reading in self.readings]
        return {status: statuses.count(status) for status in dict.fromkeys(statuses)}

    def score(self, chosen: NDArray[np.bool_]) -> tuple[Scores, Scores]:
        """Return the genuine and the impostor scores of some pictures whose status is ok."""
        places = np.flatnonzero(chosen)
        rows = [self.readings[place].embedding for place in places]
        if not rows:
            return _scores(np.empty(0), [], []), _scores(np.empty(0), [], [])
        whose = np.array(self.characters)[places]
        return score_embeddings(np.array(rows, np.float64), whose, places)


def read_pictures(encoder: IdentityEncoder, pictures_by_character: Mapping[str, Sequence[Picture]]) -> Read:
    """Embed each picture once."""
    given = [(name, picture) for name, pictures in pictures_by_character.items() for picture in pictures]
    readings = encoder.embed([picture for _, picture in given])
    return Read(readings=tuple(readings), characters=tuple(name for name, _ in given))


def score_embeddings(
    embeddings: Floats, characters: NDArray[np.str_], names: NDArray[np.int_]
) -> tuple[Scores, Scores]:
    """Compare unit embeddings (n, d) with the templates of characters, and return genuine and impostor scores.

    A template is the direction of the mean of a character's pictures (`similarity.centroid`). Genuine: a picture and
    the template of the others of its character, where there are any. Impostor: a picture and the template of each
    other character. A template whose pictures cancel out has no direction, and no scores.
    """
    own, other = [], []
    for name in dict.fromkeys(characters.tolist()):
        mine = characters == name
        total = embeddings[mine].sum(axis=0)
        own += list(zip(names[mine], _cosines(embeddings[mine], total - embeddings[mine]), strict=True))
        foreign = _cosines(embeddings[~mine], total[None])
        other += [(*item, name) for item in zip(names[~mine], characters[~mine], foreign, strict=True)]
    whose = dict(zip(names.tolist(), characters.tolist(), strict=True))
    own = [item for item in own if np.isfinite(item[1])]
    other = [item for item in other if np.isfinite(item[2])]
    genuine = _scores([score for _, score in own], [[place] for place, _ in own], [[whose[at]] for at, _ in own])
    pictures = [[str(place), TEMPLATE] for place, *_ in other]
    people = [[of, against] for _, of, _, against in other]
    return genuine, _scores([score for *_, score, _ in other], pictures, people)


def _cosines(rows: Floats, directions: Floats) -> Floats:
    lengths = np.linalg.norm(directions, axis=1)
    lengths = np.where(lengths < 1e-6, np.nan, lengths)  # float32 vectors that cancel, or none at all
    cosines: Floats = np.clip(np.sum(rows * directions, axis=1) / lengths, -1, 1)
    return cosines


def _scores(values: object, pictures: Sequence[Sequence[object]], characters: list[list[str]]) -> Scores:
    sides = len(pictures[0]) if pictures else 1
    return Scores(
        values=np.asarray(values, np.float64),
        pictures=np.array(pictures, np.str_).reshape(-1, sides),
        characters=np.array(characters, np.str_).reshape(-1, sides),
    )


def check_characters(pictures_by_character: object) -> dict[str, list[Picture]]:
    """Return {character: pictures}; raises InvalidValueError for fewer than two characters, or pictures of one."""
    if not isinstance(pictures_by_character, Mapping) or len(pictures_by_character) < 2:
        expected = "{character: pictures} of at least two characters: one's pictures are the other's impostors"
        raise InvalidValueError("pictures_by_character", pictures_by_character, expected)
    checked = {str(name): check_pictures(pictures) for name, pictures in pictures_by_character.items()}
    for name, pictures in checked.items():
        if len(pictures) < 2:
            expected = "at least two: each is compared with the others"
            raise InvalidValueError(f"pictures of {name!r}", len(pictures), expected)
    return checked
