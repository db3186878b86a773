"""The audit's figures show what it found."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from imagelab.errors import InvalidValueError
from imagelab.face_light import FaceLight
from imagelab.faces import FaceEncoderId, FaceQuality
from imagelab.reference_audit import audit_references, template_table
from imagelab.reference_plots import audit_sheet, confusion_matrix, pose_coverage
from imagelab.reference_store import CharacterReferences, Provenance, ReferencePicture

ENCODER = FaceEncoderId(
    pack="handmade",
    detector_sha256="0" * 64,
    recogniser_sha256="1" * 64,
    detector_size_px=(128, 128),
    detection_threshold=0.5,
    insightface="2",
)
LIGHT = FaceLight(brightness=0.5, from_right=0.0, from_above=0.0)


def references(name, rows, yaws):
    pictures = tuple(
        ReferencePicture(
            name=f"{name}_{index}.png",
            sha256=f"{index:064x}",
            pixels_sha256=f"{name}{index}",
            perceptual_hash=f"{np.random.default_rng(index).integers(2**63):016x}",
            mirrored_hash=f"{np.random.default_rng(100 + index).integers(2**63):016x}",
            face=FaceQuality(
                detector_score=0.9,
                face_px=64.0,
                visible_fraction=1.0,
                sharpness=0.5,
                yaw_degrees=yaw,
                pitch_degrees=-20.0,
                roll_degrees=0.0,
            ),
            light=LIGHT,
        )
        for index, yaw in enumerate(yaws)
    )
    return CharacterReferences.of(
        Provenance(character_name=name, encoder=ENCODER, pictures=pictures), np.array(rows, np.float32)
    )


NEAR = [[1, 0, 0], [0.96, 0.28, 0], [0.96, 0, 0.28], [0.96, -0.28, 0], [0, 0, -1]]
ANA = references("ana", NEAR, [-80.0, 0.0, 5.0, 30.0, 0.0])
BEN = references("ben", [[0, 1, 0], [0, 0.96, 0.28]], [0.0, 0.0])


def texts(figure):
    return "\n".join(text.get_text() for axis in figure.axes for text in axis.texts)


def test_the_sheet_names_outliers_and_copies_and_frames_them_alone():
    audit = audit_references(ANA, [BEN])
    copy = replace(ANA.provenance.pictures[1], name="copy.png")
    twice = replace(ANA.provenance, pictures=(*ANA.provenance.pictures[:4], copy))
    copied = audit_references(CharacterReferences.of(twice, ANA.embeddings[[0, 1, 2, 3, 1]]))
    for one, said in ((audit, "somebody else?"), (copied, "same picture of 2")):
        figure = audit_sheet([Image.new("RGB", (8, 8))] * 5, one)
        assert texts(figure).count(said) == 1
        assert [len(axis.patches) for axis in figure.axes[:5]] == [0, 0, 0, 0, 1]


def test_a_sheet_wants_one_picture_for_each_reference():
    with pytest.raises(InvalidValueError, match="5 references"):
        audit_sheet([Image.new("RGB", (8, 8))], audit_references(ANA))


def test_poses_lie_over_the_bins_that_have_references():
    axis = pose_coverage(ANA).axes[0]
    (points,) = axis.collections
    assert points.get_offsets()[:, 0].tolist() == [-80, 0, 5, 30, 0]
    bins = [patch for patch in axis.patches if not patch.get_hatch()]
    assert [(patch.get_x(), patch.get_y() + patch.get_height()) for patch in bins] == [
        (-85, -12),
        (-15, -12),
        (15, -12),
    ]


def test_the_matrix_names_the_most_confused_pair():
    figure = confusion_matrix(audit_references(ANA, [BEN]).confusion)
    assert "ana and ben" in figure.axes[0].get_xlabel()
    assert confusion_matrix(audit_references(ANA).confusion).axes[0].texts[0].get_text().startswith("no other")


def test_template_table_marks_the_chosen_one_and_ends_with_what_auto_chose_by():
    choice = replace(ANA.provenance.template, kind="max", eer={"mean": 0.2, "medoid": 0.4, "max": 0.0})
    table = template_table(CharacterReferences.of(replace(ANA.provenance, template=choice), ANA.embeddings))

    assert list(table.columns) == ["mean", "medoid", "max, chosen"]
    assert list(table.iloc[-1]) == [0.2, 0.4, 0.0]
    assert table.loc["ana_4.png"].max() < 0.1, "the stranger"


def test_template_table_of_a_single_reference_knows_no_scores():
    one = replace(ANA.provenance, pictures=ANA.provenance.pictures[:1])

    assert template_table(CharacterReferences.of(one, ANA.embeddings[:1])).isna().all(axis=None)
