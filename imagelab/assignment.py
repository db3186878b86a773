"""Who is who in a picture of several characters, and how much of one character has leaked into another."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imagelab.config import pick
from imagelab.errors import InvalidValueError
from imagelab.faces import Face, FaceLimits, FaceReading, FacesFound, SeveralFaces, read_found
from imagelab.reference_store import CharacterReferences
from imagelab.similarity import Embedding, check_threshold


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Assignment:
    """Which face of a picture is which character's: each face at most one, each character at most once."""

    characters: tuple[str, ...]  # by name
    similarities: NDArray[np.float64]  # (faces, characters), cosines; a row of NaN for a face without an embedding
    faces: Mapping[str, int]  # {character: index of its face}, those that are there
    missing: tuple[str, ...]  # characters without a face
    extra: tuple[int, ...]  # indices of faces that are nobody's

    def similarity(self, character_name: str) -> float:
        """Return the cosine of a character's face to its references; raises UnknownNameError if it is missing."""
        face = pick("character in the picture", self.faces, character_name)
        return float(self.similarities[face, self.characters.index(character_name)])


def assign_characters(
    faces: Sequence[Face],
    references: Mapping[str, CharacterReferences],
    thresholds: Mapping[str, float] | None = None,
) -> Assignment:
    """Give each character one of the faces so that what is above the thresholds adds up to the most.

    By the Hungarian method. A character of `thresholds` takes no face below its cosine, one without takes any. Faces
    that aren't good enough (FaceLimits) are better left out. The pairs don't depend on the order of `references`.
    Raises InvalidValueError without references or for a threshold; UnknownNameError for the threshold of a character
    that has no references.
    """
    from scipy.optimize import linear_sum_assignment  # slow to import

    if not references:
        raise InvalidValueError("references", references, "those of at least one character")
    names = tuple(sorted(references))
    least = np.full(len(names), -1.0)
    for name, threshold in (thresholds or {}).items():
        least[names.index(pick("character", {key: key for key in names}, name))] = check_threshold(threshold)
    cosines = np.array([_similarities(face, [references[name] for name in names]) for face in faces], np.float64)
    cosines = cosines.reshape(len(faces), len(names))
    allowed = cosines >= least  # a NaN is none
    gains = np.where(allowed, cosines - least + 1e-9, 0.0)  # no pair is worth less than a pair that isn't made
    rows, columns = linear_sum_assignment(gains, maximize=True)
    found = {names[column]: int(row) for row, column in zip(rows, columns, strict=True) if allowed[row, column]}
    return Assignment(
        characters=names,
        similarities=cosines,
        faces=dict(sorted(found.items())),
        missing=tuple(name for name in names if name not in found),
        extra=tuple(index for index in range(len(faces)) if index not in found.values()),
    )


def read_characters(
    found: FacesFound, limits: FaceLimits, several: SeveralFaces, references: Mapping[str, CharacterReferences]
) -> dict[str, FaceReading]:
    """Return the face by which a picture is judged for each character: one for all of them, as `read_found` chooses.

    But best_match gives each of several characters a face of its own, as `assign_characters` without thresholds;
    whoever gets none has the status no_face.
    """
    if several == "best_match" and len(references) > 1:
        return _assigned(found, limits, references)

    def similarity(embedding: Embedding) -> float:
        return max(own.similarity(embedding) for own in references.values())

    return dict.fromkeys(references, read_found(found, limits, several, similarity))


def _assigned(
    found: FacesFound, limits: FaceLimits, references: Mapping[str, CharacterReferences]
) -> dict[str, FaceReading]:
    any_face = read_found(found, limits, "largest")
    if any_face.status != "ok":
        return dict.fromkeys(references, any_face)
    good = [face for face in found.faces if limits.admit(face)]
    assignment = assign_characters(good, references)
    own = {name: good[index] for name, index in assignment.faces.items()}
    readings = {name: FaceReading(status="ok", embedding=face.embedding, face=face) for name, face in own.items()}
    nobody = FaceReading(status="no_face", reason="no face is left for this character")
    return {name: readings.get(name, nobody) for name in references}


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LeakageMatrix:
    """How near the face that is one character's is to another's references, on average over a set of pictures.

    The diagonal is identity. Beside it, compare with how near the references of the two are to each other: some
    characters look alike without any leakage.
    """

    characters: tuple[str, ...]
    means: NDArray[np.float64]  # (k, k): row whose face, column whose references; NaN where n is 0
    counts: NDArray[np.int64]  # (k, k): the n of each mean


def leakage_matrix(assignments: Iterable[Assignment]) -> LeakageMatrix:
    """Average the cosines of assigned faces over pictures; a missing character's picture counts for none of its row.

    Raises InvalidValueError without any assignment.
    """
    given = list(assignments)
    if not given:
        raise InvalidValueError("assignments", 0, "at least one")
    names = tuple(sorted({name for assignment in given for name in assignment.characters}))
    sums, counts = np.zeros((len(names), len(names))), np.zeros((len(names), len(names)), np.int64)
    for assignment in given:
        columns = [names.index(name) for name in assignment.characters]
        for name, face in assignment.faces.items():
            sums[names.index(name), columns] += assignment.similarities[face]
            counts[names.index(name), columns] += 1
    with np.errstate(invalid="ignore"):
        means = np.where(counts > 0, sums / counts, np.nan)
    return LeakageMatrix(characters=names, means=means, counts=counts)


def _similarities(face: Face, references: Sequence[CharacterReferences]) -> list[float]:
    if face.embedding is None:
        return [float("nan")] * len(references)
    return [own.similarity(face.embedding) for own in references]
