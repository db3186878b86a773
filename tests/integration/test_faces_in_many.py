"""The faces of many pictures are insightface's own, whatever they are read with and beside."""

import numpy as np
import pytest
from insightface.app.face_analysis import FaceAnalysis
from PIL import Image

from imagelab.arcface import FaceEncoder
from imagelab.consistency import CharacterConsistencyChecker
from imagelab.models import resolve_source
from imagelab.puppets.render import render
from imagelab.puppets.world import CHARACTERS, HELD_OUT_SEED, sample_scene
from imagelab.similarity import unit

LUCA = CHARACTERS["luca"].identity


@pytest.fixture(scope="module")
def encoder(configs):
    with FaceEncoder(configs.profile("puppet"), "cpu") as encoder:
        yield encoder


@pytest.fixture(scope="module")
def insightface_itself(configs):
    pack = configs.profile("puppet").face
    folder = resolve_source(pack.source, "face pack")
    analysis = FaceAnalysis(
        name=str(folder), allowed_modules=["detection", "recognition"], providers=["CPUExecutionProvider"]
    )
    analysis.prepare(ctx_id=0, det_thresh=pack.detection_threshold, det_size=pack.detector_size_px)
    return analysis


def draw(number, *, figures=1, width=128, height=128, identity=None):
    rng = np.random.default_rng(HELD_OUT_SEED + 70_000 + number)
    return render(sample_scene(rng, figures=figures, identity=identity), width=width, height=height).image


@pytest.fixture(scope="module")
def pictures():
    return [
        *(draw(number) for number in range(6)),
        *(draw(number, figures=2, width=160, height=96) for number in range(6, 9)),
        draw(9, figures=0),
        *(draw(number, width=96, height=160) for number in range(10, 13)),
    ]


@pytest.mark.parametrize("chunk", [1, 4, 32])
def test_each_face_of_many_pictures_is_insightfaces_own(encoder, insightface_itself, pictures, chunk):
    compared = 0
    for rgb, found in zip(pictures, encoder.faces_in(pictures, chunk=chunk), strict=True):
        expected = sorted(insightface_itself.get(rgb[:, :, ::-1].copy()), key=lambda face: -face.det_score)
        assert len(found.faces) == len(expected)
        for own, theirs in zip(found.faces, expected, strict=True):
            assert np.abs(own.embedding - unit(theirs.embedding)).max() <= 1e-6
            assert np.array_equal(own.landmarks, theirs.kps)
            assert np.array_equal(np.float32(own.box), theirs.bbox)
            compared += 1
    assert compared >= 15


def test_a_swapped_picture_is_another_one_to_the_recogniser(encoder):
    picture = draw(20, identity=LUCA)
    (own,), (swapped,) = (encoder.faces(np.ascontiguousarray(rgb)) for rgb in (picture, picture[:, :, ::-1]))
    assert own.embedding @ swapped.embedding < 0.9


def test_files_pil_pictures_and_arrays_are_one_in_a_batch_too(encoder, tmp_path):
    picture = draw(21, identity=LUCA)
    Image.fromarray(picture).save(tmp_path / "luca.png")
    forms = [picture, Image.fromarray(picture), tmp_path / "luca.png", str(tmp_path / "luca.png")]
    embeddings = [found.faces[0].embedding for found in encoder.faces_in(forms)]
    assert all(np.array_equal(embedding, embeddings[0]) for embedding in embeddings)


def test_best_match_finds_the_character_among_two(configs):
    with CharacterConsistencyChecker("cpu", "puppet", configs, several="best_match") as checker:
        alone = checker.embed(draw(30, identity=LUCA))
        couples = [draw(number, figures=2, width=160, height=96, identity=LUCA) for number in range(31, 37)]
        verdicts = checker.check_batch(couples, alone, threshold=0.5)
        assert [verdict.status for verdict in verdicts].count("ok") >= 5
        assert [verdict.is_consistent for verdict in verdicts].count(True) >= 4
