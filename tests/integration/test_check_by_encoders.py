"""Other encoders score the face that ArcFace chose, and change nothing else."""

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from imagelab import cli
from imagelab.acceptance import configured_limits
from imagelab.check_table import read_check_table
from imagelab.consistency import CharacterConsistencyChecker
from imagelab.encoders import open_encoder
from imagelab.encoders.face import crop_face
from imagelab.errors import InvalidValueError, ReferenceStoreError, UnknownNameError
from imagelab.folder_check import check_folder
from imagelab.references import CharacterReferenceManager
from imagelab.rgb import to_rgb
from imagelab.similarity import centroid

WEIGHTS = Path(__file__).parents[2] / "imagelab/puppets/weights/references"
LUCA, ALBERTO = (sorted((WEIGHTS / name).glob("*.png")) for name in ("luca", "alberto"))


@pytest.fixture
def folder(tmp_path):
    """A picture of luca, one of alberto, both side by side, nobody, and none at all."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    shutil.copy(LUCA[0], folder / "a.png")
    shutil.copy(ALBERTO[0], folder / "b.png")
    both = np.hstack([to_rgb(LUCA[0]), to_rgb(ALBERTO[0])])
    Image.fromarray(both).save(folder / "both.png")
    Image.new("RGB", (64, 64), "green").save(folder / "nobody.png")
    (folder / "text.png").write_text("not a picture")
    return folder


def template(encoder, files):
    return centroid([reading.embedding for reading in encoder.embed(files)])


def test_scores_are_those_of_the_encoders_themselves(checker, configs, luca, alberto, folder, tmp_path):
    output = tmp_path / "check.parquet"
    result = check_folder(folder, [luca, alberto], output, checker=checker, encoders=("clip", "clip_face"))
    table = result.table.set_index("file")
    limits = configured_limits(configs, "luca")
    for name in ("clip", "clip_face"):
        with open_encoder(name, "puppet", device="cpu", limits=limits) as encoder:
            for character, files in (("luca", LUCA), ("alberto", ALBERTO)):
                own = template(encoder, files)
                for file in ("a.png", "b.png"):
                    (reading,) = encoder.embed([folder / file])
                    score = table.loc[file, f"score_{name}_{character}"]
                    assert score == pytest.approx(float(reading.embedding @ own), abs=1e-5)
    assert "clip_face" in result.to_text()
    _, parameters = read_check_table(output)
    with open_encoder("clip", "puppet", device="cpu") as clip, open_encoder("clip_face", "puppet") as clip_face:
        assert parameters.encoders == {"clip": clip.id, "clip_face": clip_face.id}


def test_other_encoders_add_scores_where_the_status_is_ok_and_change_nothing_else(checker, luca, folder, tmp_path):
    plain = check_folder(folder, luca, tmp_path / "plain.parquet", checker=checker).table
    given = {"checker": checker, "encoders": ["clip", "clip_face"]}
    scored = check_folder(folder, luca, tmp_path / "more.parquet", **given).table
    added = ["score_clip_luca", "score_clip_face_luca"]
    assert list(scored.columns) == [*plain.columns, *added]
    pd.testing.assert_frame_equal(scored.drop(columns=added), plain)
    assert list(scored["status"]) == ["ok", "ok", "several_faces", "no_face", "decode_error"]
    for name in added:
        assert list(scored[name].notna()) == [True, True, False, False, False]


def test_an_encoder_of_faces_is_shown_the_face_that_arcface_chose(configs, luca, alberto, folder, tmp_path):
    picture, profile = to_rgb(folder / "both.png"), configs.profile("puppet")
    cut = profile.encoder("clip_face")
    with (
        CharacterConsistencyChecker("cpu", "puppet", configs, several="best_match") as checker,
        open_encoder("clip_face", profile, device="cpu") as encoder,
        open_encoder("clip", profile, device="cpu") as network,
    ):
        faces = checker.faces(picture)
        crops = network.embed([crop_face(picture, face, cut.side_px, cut.margin) for face in faces])
        own = {}
        for references, files in ((luca, LUCA), (alberto, ALBERTO)):
            name = references.character_name
            given = {"checker": checker, "encoders": ["clip_face"]}
            table = check_folder([folder / "both.png"], references, tmp_path / f"{name}.parquet", **given).table
            chosen = int(np.argmax([references.similarity(face.embedding) for face in faces]))
            scores = [float(crop.embedding @ template(encoder, files)) for crop in crops]
            assert table[f"score_clip_face_{name}"][0] == pytest.approx(scores[chosen], abs=1e-5)
            assert abs(scores[chosen] - scores[1 - chosen]) > 0.01
            own[f"score_clip_face_{name}"] = table[f"score_clip_face_{name}"][0]
        given = {"checker": checker, "encoders": ["clip_face"]}
        both = check_folder([folder / "both.png"], [luca, alberto], tmp_path / "both.parquet", **given).table
        assert both[list(own)].iloc[0].to_dict() == pytest.approx(own, abs=1e-6)  # each the face of its character


def test_the_nearest_reference_counts_to_every_encoder_where_it_counts_to_arcface(checker, luca, folder, tmp_path):
    nearest = replace(luca, provenance=replace(luca.provenance, template=replace(luca.provenance.template, kind="max")))
    given = {"checker": checker, "encoders": ["clip"]}
    table = check_folder([folder / "a.png"], nearest, tmp_path / "check.parquet", **given).table
    assert table["score_clip_luca"][0] == pytest.approx(1, abs=1e-5)  # it is a reference itself


def test_a_check_goes_on_with_the_encoders_that_it_began_with_only(checker, luca, folder, tmp_path):
    output = tmp_path / "check.parquet"
    check_folder(folder, luca, output, checker=checker, encoders=["clip"])
    assert check_folder(folder, luca, output, checker=checker, encoders=["clip"]).checked == 0
    before = output.read_bytes()
    with pytest.raises(InvalidValueError, match=r"\(the table was made with clip\)"):
        check_folder(folder, luca, output, checker=checker)
    with pytest.raises(InvalidValueError, match=r"\(the table was made without clip_face\)"):
        check_folder(folder, luca, output, checker=checker, encoders=["clip", "clip_face"])
    assert output.read_bytes() == before


def test_reference_pictures_that_are_gone_or_changed_are_named_with_what_to_do(checker, folder, tmp_path):
    given = [shutil.copy(file, tmp_path / file.name) for file in LUCA[:3]]
    with CharacterReferenceManager(checker, store=tmp_path / "store") as manager:
        references = manager.create_character_embedding("luca", [*given, Image.open(LUCA[3])])
    Path(given[0]).unlink()
    shutil.copy(ALBERTO[0], given[1])
    output = tmp_path / "check.parquet"
    with pytest.raises(ReferenceStoreError) as caught:
        check_folder(folder, references, output, checker=checker, encoders=["clip"])
    said = str(caught.value)
    assert "3 of 4 reference pictures of luca" in said
    assert f"{given[0]}: doesn't exist" in said
    assert f"{given[1]}: has changed" in said
    assert "picture 3" in said
    assert "create_character_embedding again" in said
    assert not list(tmp_path.glob("*check.parquet*"))
    assert len(check_folder(folder, references, output, checker=checker).table) == 5  # ArcFace doesn't need them


@pytest.mark.parametrize(
    ("encoders", "error", "said"),
    [
        (["clpi"], UnknownNameError, "did you mean 'clip'"),
        (["arcface"], InvalidValueError, "judges already"),
        ("clip", InvalidValueError, "a list of names"),
    ],
)
def test_what_is_no_other_encoder_is_refused(checker, luca, folder, tmp_path, encoders, error, said):
    with pytest.raises(error, match=said):
        check_folder(folder, luca, tmp_path / "check.parquet", checker=checker, encoders=encoders)


def test_names_that_make_one_column_of_two_are_refused(checker, luca, folder, tmp_path):
    namesake = replace(luca, provenance=replace(luca.provenance, character_name="clip_luca"))
    with pytest.raises(InvalidValueError, match="score_clip_luca"):
        check_folder(folder, [luca, namesake], tmp_path / "check.parquet", checker=checker, encoders=["clip"])


def test_the_command_takes_encoders(folder, tmp_path, monkeypatch, capsys):
    output = tmp_path / "check.parquet"
    command = ["imagelab", "check", str(folder), "--character", "luca", "--output", str(output)]
    monkeypatch.setattr(sys, "argv", [*command, "--encoder", "clip", "--encoder", "clip_face"])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 0
    assert "mean over 1 ok, no verdict" in capsys.readouterr().out
    assert {"score_clip_luca", "score_clip_face_luca"} < set(pd.read_parquet(output).columns)
