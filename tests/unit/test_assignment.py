import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imagelab.assignment import assign_characters, leakage_matrix
from imagelab.errors import InvalidValueError, UnknownNameError
from imagelab.faces import Face, FaceEncoderId
from imagelab.reference_store import CharacterReferences, Provenance
from imagelab.similarity import unit

LANDMARKS = np.zeros((5, 2), np.float32)
ENCODER = FaceEncoderId(
    pack="p",
    detector_sha256="0",
    recogniser_sha256="0",
    detector_size_px=(128, 128),
    detection_threshold=0.5,
    insightface="2",
)
EAST, NORTH, UP = np.eye(3)


def face(embedding):
    vector = None if embedding is None else unit(embedding)
    return Face(box=(0, 0, 9, 9), landmarks=LANDMARKS, score=1.0, visible_fraction=1.0, embedding=vector)


def references(**directions):
    return {
        name: CharacterReferences(
            provenance=Provenance(character_name=name, encoder=ENCODER, pictures=()),
            embeddings=unit(direction)[None],
            template=unit(direction),
        )
        for name, direction in directions.items()
    }


BOTH = references(luca=EAST, alberto=NORTH)


def test_each_character_gets_its_own_face_in_whatever_order_they_stand():
    for faces in ([EAST, NORTH], [NORTH, EAST]):
        assignment = assign_characters([face(direction) for direction in faces], BOTH)
        assert {name: faces[index] is EAST for name, index in assignment.faces.items()} == {
            "luca": True,
            "alberto": False,
        }
        assert (assignment.missing, assignment.extra) == ((), ())
        assert assignment.similarity("luca") == pytest.approx(1)


def test_a_face_that_suits_two_goes_where_the_sum_is_largest():
    # Greedily luca would take the first face, which alberto needs more.
    first, second = face([0.8, 0.6, 0]), face([0.7, 0, 0.71])
    assert assign_characters([first, second], BOTH).faces == {"alberto": 0, "luca": 1}


def test_who_has_no_face_is_missing_and_a_face_of_nobody_is_extra():
    few = assign_characters([face(NORTH)], BOTH)
    assert (dict(few.faces), few.missing, few.extra) == ({"alberto": 0}, ("luca",), ())
    many = assign_characters([face(UP), face(EAST), face(None), face(NORTH)], BOTH)
    assert (dict(many.faces), many.missing, many.extra) == ({"alberto": 3, "luca": 1}, (), (0, 2))
    none = assign_characters([], BOTH)
    assert (none.missing, none.extra, none.similarities.shape) == (("alberto", "luca"), (), (0, 2))
    with pytest.raises(UnknownNameError, match="alberto"):
        few.similarity("luca")


def test_below_its_threshold_a_character_is_missing_and_at_it_is_not():
    faces = [face([0.6, 0, 0.8]), face(NORTH)]
    at = float(assign_characters(faces, BOTH).similarity("luca"))
    assert assign_characters(faces, BOTH, {"luca": at}).faces == {"alberto": 1, "luca": 0}
    strict = assign_characters(faces, BOTH, {"luca": at + 1e-6})
    assert (strict.missing, strict.extra) == (("luca",), (0,))


def test_faces_without_an_embedding_are_nobodys():
    assignment = assign_characters([face(None)], references(luca=EAST))
    assert (assignment.missing, assignment.extra) == (("luca",), (0,))


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 4), st.integers(1, 4), st.integers(0, 2**32 - 1), st.floats(-1, 0.5))
def test_no_other_way_to_pair_them_adds_up_to_more(faces, characters, seed, threshold):
    rng = np.random.default_rng(seed)
    people = references(**{f"c{k}": rng.normal(size=3) for k in range(characters)})
    found = assign_characters(
        [face(rng.normal(size=3)) for _ in range(faces)], people, dict.fromkeys(people, threshold)
    )

    def worth(pairs):
        return sum(found.similarities[row, column] - threshold for row, column in pairs
                   if found.similarities[row, column] >= threshold)  # fmt: skip

    own = worth((row, found.characters.index(name)) for name, row in found.faces.items())
    size = max(faces, characters)
    every = (
        [(row, column) for row, column in enumerate(order) if row < faces and column < characters]
        for order in itertools.permutations(range(size))
    )
    assert own == pytest.approx(max(worth(pairs) for pairs in every), abs=1e-6)
    assert len(set(found.faces.values())) == len(found.faces) == characters - len(found.missing)
    assert sorted([*found.faces.values(), *found.extra]) == list(range(faces))


def test_a_sure_pair_is_not_given_up_for_two_poor_ones():
    people = references(luca=EAST, alberto=NORTH)
    sure, poor = [0.9, 0.35, 0.26], [0.35, 0.1, 0.93]
    assert assign_characters([face(sure), face(poor)], people, {"luca": 0.3, "alberto": 0.3}).faces == {"luca": 0}


def test_bad_references_and_thresholds_are_refused():
    with pytest.raises(InvalidValueError, match="references"):
        assign_characters([face(EAST)], {})
    with pytest.raises(InvalidValueError, match="threshold"):
        assign_characters([face(EAST)], BOTH, {"luca": 2})
    with pytest.raises(UnknownNameError, match="luca"):
        assign_characters([face(EAST)], BOTH, {"lucca": 0.5})


def test_the_leakage_matrix_averages_each_assigned_face_over_the_pictures_that_have_it():
    leaking = [0.8, 0.6, 0]  # of luca, with much of alberto in it
    pictures = [[face(EAST), face(NORTH)], [face(leaking)], [face(leaking), face(UP), face(NORTH)]]
    matrix = leakage_matrix(assign_characters(faces, BOTH, {"luca": 0.7, "alberto": 0.7}) for faces in pictures)
    assert matrix.characters == ("alberto", "luca")
    assert matrix.counts.tolist() == [[2, 2], [3, 3]]
    assert matrix.means == pytest.approx(np.array([[1, 0], [1.2 / 3, 2.6 / 3]]), abs=1e-6)


def test_leakage_of_a_character_that_is_never_there_is_unknown():
    matrix = leakage_matrix([assign_characters([face(EAST)], BOTH)])
    assert matrix.counts.tolist() == [[0, 0], [1, 1]]
    assert np.isnan(matrix.means[0]).all()
    with pytest.raises(InvalidValueError, match="assignments"):
        leakage_matrix([])
