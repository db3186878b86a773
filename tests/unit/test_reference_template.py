"""The template that stands for several references is the one that tells the character best."""

import numpy as np
import pytest

from imagelab.errors import UnknownNameError
from imagelab.reference_template import choose_template, leave_one_out_scores, medoid, template_scores
from imagelab.similarity import centroid, unit


def rows(*vectors):
    return np.stack([unit(vector) for vector in vectors])


NEAR = rows([1, 0.1, 0], [1, -0.1, 0], [1, 0, 0.1])


def test_the_mean_is_the_mean_of_unit_vectors_at_norm_1():
    assert template_scores("mean", NEAR, rows([1, 0, 0]))[0] == pytest.approx(centroid(NEAR)[0])


def test_the_medoid_is_the_reference_nearest_to_the_others():
    references = rows([1, 0, 0], [1, 1, 0], [0, 1, 0])
    assert medoid(references) == 1
    assert template_scores("medoid", references, rows([0, 1, 0]))[0] == pytest.approx(0.5**0.5)


def test_the_maximum_is_the_nearest_reference():
    assert template_scores("max", rows([1, 0, 0], [0, 1, 0]), rows([0, 2, 0]))[0] == pytest.approx(1)


def test_a_reference_left_out_is_scored_by_the_others():
    genuine, impostor = leave_one_out_scores("max", rows([1, 0, 0], [1, 0, 0], [0, 1, 0]), rows([0, 1, 0]))
    assert genuine == pytest.approx([1, 1, 0])
    assert impostor == pytest.approx([1, 1, 0])


def test_auto_takes_the_nearest_where_a_character_has_two_looks():
    looks = rows([1, 0, 0.1], [1, 0, -0.1], [0, 1, 0.1], [0, 1, -0.1])
    between = rows([1, 1, 0], [1, 0.9, 0])
    choice = choose_template("auto", looks, between)
    assert choice.kind == "max"
    assert choice.eer["max"] < choice.eer["mean"]
    assert "2 references of others" in choice.why


def test_auto_takes_the_mean_where_others_do_no_better():
    choice = choose_template("auto", NEAR, rows([0, 0, 1], [-1, 0, 0]))
    assert choice.kind == "mean"
    assert set(choice.eer.values()) == {0}


@pytest.mark.parametrize(("references", "impostors"), [(NEAR, None), (NEAR, NEAR[:0]), (NEAR[:1], rows([0, 1, 0]))])
def test_auto_takes_the_mean_and_says_so_when_it_cannot_tell(references, impostors):
    choice = choose_template("auto", references, impostors)
    assert (choice.requested, choice.kind, choice.eer) == ("auto", "mean", {})
    assert choice.why != "asked for"


def test_an_unknown_template_is_refused_with_the_nearest_name():
    with pytest.raises(UnknownNameError, match="did you mean 'medoid'"):
        choose_template("mediod", NEAR)
