"""Scores of pictures against the templates of characters, by any encoder."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from imagelab.calibration import Scores
from imagelab.calibration.scores import TEMPLATE
from imagelab.encoders.base import IdentityEncoder, Reading, check_pictures
from imagelab.errors import ImageFileError, InvalidValueError
from imagelab.imagefiles import pixels_sha256
from imagelab.rgb import Picture, to_rgb

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

    def rows(self, chosen: NDArray[np.bool_]) -> tuple[Floats, NDArray[np.str_]]:
        """Return the embeddings (n, d) of some pictures whose status is ok, and whose they are."""
        places = np.flatnonzero(chosen)
        rows = [self.readings[place].embedding for place in places]
        return np.array(rows, np.float64).reshape(len(rows), -1), np.array(self.characters, np.str_)[places]

    def score(self, chosen: NDArray[np.bool_]) -> tuple[Scores, Scores] | None:
        """Return the genuine and the impostor scores of some pictures whose status is ok; None without a picture."""
        return score_embeddings(*self.rows(chosen), np.flatnonzero(chosen)) if chosen.any() else None


def read_pictures(encoder: IdentityEncoder, pictures_by_character: Mapping[str, Sequence[Picture]]) -> Read:
    """Embed each picture once."""
    given = [(name, picture) for name, pictures in pictures_by_character.items() for picture in pictures]
    readings = encoder.embed([picture for _, picture in given])
    return Read(readings=tuple(readings), characters=tuple(name for name, _ in given))


def score_embeddings(
    embeddings: Floats, characters: NDArray[np.str_], names: NDArray[np.int_]
) -> tuple[Scores, Scores]:
    """Compare unit embeddings (n, d) with the templates of characters, and return genuine and impostor scores.

    As `compare_with_templates`, with the names of the pictures.
    """
    found = compare_with_templates(embeddings, characters)
    pictures, whose = names.astype(np.str_), np.asarray(characters, np.str_)
    templates = np.full(len(found.impostor), TEMPLATE, pictures.dtype)
    genuine = Scores(
        values=found.genuine,
        pictures=pictures[found.genuine_rows, None],
        characters=whose[found.genuine_rows, None],
    )
    impostor = Scores(
        values=found.impostor,
        pictures=np.stack([pictures[found.impostor_rows], templates], axis=1),
        characters=np.stack([whose[found.impostor_rows], found.against], axis=1),
    )
    return genuine, impostor


class Cosines(NamedTuple):
    """Cosines of rows to the templates of characters."""

    genuine: Floats  # (g,)
    genuine_rows: NDArray[np.intp]  # whose row each is
    impostor: Floats  # (i,)
    impostor_rows: NDArray[np.intp]
    against: NDArray[np.str_]  # whose template each impostor was compared with


def compare_with_templates(embeddings: Floats, characters: NDArray[np.str_]) -> Cosines:
    """Compare unit embeddings (n, d) with the templates of characters (n,).

    A template is the direction of the mean of a character's pictures (`similarity.centroid`). Genuine: a picture and
    the template of the others of its character, where there are any. Impostor: a picture and the template of each
    other character. A template whose pictures cancel out has no direction, and no scores.
    """
    own, own_rows, other, other_rows, against = [], [], [], [], []
    for name in dict.fromkeys(characters.tolist()):
        mine = characters == name
        total = embeddings[mine].sum(axis=0)
        own.append(_cosines(embeddings[mine], total - embeddings[mine]))
        own_rows.append(np.flatnonzero(mine))
        other.append(_cosines(embeddings[~mine], total[None]))
        other_rows.append(np.flatnonzero(~mine))
        against.append(np.full(len(other[-1]), name))
    genuine, impostor = np.concatenate(own), np.concatenate(other)
    kept, others = np.isfinite(genuine), np.isfinite(impostor)
    return Cosines(
        genuine=genuine[kept],
        genuine_rows=np.concatenate(own_rows)[kept],
        impostor=impostor[others],
        impostor_rows=np.concatenate(other_rows)[others],
        against=np.concatenate(against)[others],
    )


def _cosines(rows: Floats, directions: Floats) -> Floats:
    lengths = np.linalg.norm(directions, axis=1)
    lengths = np.where(lengths < 1e-6, np.nan, lengths)  # float32 vectors that cancel, or none at all
    cosines: Floats = np.clip(np.sum(rows * directions, axis=1) / lengths, -1, 1)
    return cosines


def check_characters(pictures_by_character: object) -> dict[str, list[Picture]]:
    """Return {character: pictures}.

    Raises InvalidValueError for fewer than two characters, fewer than two pictures of one, and the same pixels twice.
    """
    if not isinstance(pictures_by_character, Mapping) or len(pictures_by_character) < 2:
        expected = "{character: pictures} of at least two characters: one's pictures are the other's impostors"
        raise InvalidValueError("pictures_by_character", pictures_by_character, expected)
    checked = {str(name): check_pictures(pictures) for name, pictures in pictures_by_character.items()}
    for name, pictures in checked.items():
        if len(pictures) < 2:
            expected = "at least two: each is compared with the others"
            raise InvalidValueError(f"pictures of {name!r}", len(pictures), expected)
    _refuse_copies(checked)
    return checked


def _refuse_copies(pictures_by_character: Mapping[str, Sequence[Picture]]) -> None:
    """Raise InvalidValueError for the same pixels twice: each would be compared with a template of itself."""
    seen: dict[str, str] = {}
    for name, pictures in pictures_by_character.items():
        for index, picture in enumerate(pictures):
            place = f"picture {index} of {name}"
            try:
                pixels = pixels_sha256(Image.fromarray(to_rgb(picture)))
            except ImageFileError:
                continue  # each encoder counts it as one that can't be read
            if pixels in seen:
                raise InvalidValueError("pictures", f"{place}, the same pixels as {seen[pixels]}", "each given once")
            seen[pixels] = place
