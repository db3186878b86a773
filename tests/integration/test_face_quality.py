"""Faces that are hard to judge, on renders: two of them, tiny, blurred, turned away, cut by the border; who is who."""

import numpy as np
import pytest
from PIL import Image, ImageFilter

from imagelab.assignment import assign_characters, leakage_matrix
from imagelab.consistency import CharacterConsistencyChecker
from imagelab.faces import FaceLimits, read_faces
from imagelab.puppets.render import render
from imagelab.puppets.world import CHARACTERS, Figure, Scene
from imagelab.references import CharacterReferenceManager

LUCA, ALBERTO = (CHARACTERS[name].identity for name in ("luca", "alberto"))


@pytest.fixture(scope="module")
def checker(configs):
    with CharacterConsistencyChecker("cpu", "puppet", configs) as checker:
        yield checker


@pytest.fixture(scope="module")
def references(checker, tmp_path_factory):
    manager = CharacterReferenceManager(checker, store=tmp_path_factory.mktemp("store"))
    return {name: manager.references(name) for name in ("luca", "alberto")}


def draw(*identities, yaw=0.0, width=128, shift_px=(0.0, 0.0), **figure):
    apart, zoom = ((0.0,), 1.0) if len(identities) == 1 else ((-0.875, 0.875), 0.72)
    figures = tuple(
        Figure(identity=who, yaw=yaw, offset=(x, 0.0), **figure) for who, x in zip(identities, apart, strict=True)
    )
    height = 128 if len(identities) == 1 else 96
    scene = Scene(figures=figures, zoom=zoom)
    return Image.fromarray(render(scene, width=width, height=height, shift_px=shift_px).image)


def test_two_faces_of_one_size_are_several_and_a_tiny_second_one_is_none(checker):
    assert checker.read(draw(LUCA, ALBERTO, width=160)).status == "several_faces"
    picture = draw(LUCA)
    picture.paste(draw(ALBERTO).resize((28, 28)), (0, 0))
    reading = checker.read(picture)
    assert reading.status == "ok"
    assert reading.face.size_px > 30


def test_a_tiny_face_says_that_it_is_too_small_where_it_is_found(checker):
    small = Image.new("RGB", (128, 128), (120, 140, 160))
    small.paste(draw(LUCA).resize((64, 64)), (32, 32))
    faces = checker.faces(small)
    assert len(faces) == 1
    reading = read_faces(faces, FaceLimits(min_face_px=40))
    assert reading.status == "low_quality"
    assert reading.reason.startswith("min_face_px 40")


def test_a_blurred_face_is_less_sharp_and_refused_on_request(checker):
    clear = draw(LUCA)
    (own,) = checker.faces(clear)
    (blurred,) = checker.faces(clear.filter(ImageFilter.GaussianBlur(2)))
    assert blurred.sharpness < 0.5 * own.sharpness
    limits = FaceLimits(min_sharpness=0.7 * own.sharpness)
    assert limits.admit(own)
    assert read_faces([blurred], limits).reason.startswith("min_sharpness")


@pytest.mark.parametrize("yaw", [-0.5, 0.5])
def test_a_face_turned_away_is_refused_on_request(checker, yaw):
    limits = FaceLimits(max_yaw_degrees=18)
    (ahead,) = checker.faces(draw(LUCA))
    (turned,) = checker.faces(draw(LUCA, yaw=yaw))
    assert limits.admit(ahead)
    assert read_faces([turned], limits).reason.startswith("max_yaw_degrees")


def test_a_face_cut_by_the_border_knows_how_much_is_visible(checker):
    (whole,) = checker.faces(draw(LUCA))
    found = checker.faces(draw(LUCA, shift_px=(52.0, 0.0)))
    assert whole.visible_fraction == pytest.approx(1)
    assert len(found) == 1
    assert found[0].visible_fraction < 0.9
    assert read_faces(found, FaceLimits(min_visible_fraction=0.95)).reason.startswith("min_visible_fraction")


def test_two_known_puppets_are_told_apart_and_when_they_swap_places_too(checker, references):
    assignments = []
    for expression in ("happy", "neutral", "surprised"):
        for order in ((LUCA, ALBERTO), (ALBERTO, LUCA)):
            faces = checker.faces(draw(*order, width=160, expression=expression))
            assert len(faces) == 2
            assignment = assign_characters(faces, references)
            left = min(range(2), key=lambda index: faces[index].box[0])
            assert assignment.faces["luca" if order[0] is LUCA else "alberto"] == left
            assignments.append(assignment)
    matrix = leakage_matrix(assignments)
    assert matrix.counts.tolist() == [[6, 6], [6, 6]]
    assert np.diag(matrix.means).min() > matrix.means[~np.eye(2, dtype=bool)].max() + 0.3


def test_a_character_who_is_not_in_the_picture_is_missing(checker, references):
    faces = checker.faces(draw(LUCA))
    assignment = assign_characters(faces, references, dict.fromkeys(references, 0.5))
    assert (assignment.missing, assignment.extra) == (("alberto",), ())
