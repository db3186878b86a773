"""Results: frozen, comparable, and the same after a trip through JSON."""

import dataclasses
import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagelab import InvalidValueError
from imagelab.results import (
    BatchItem,
    BatchResult,
    ControlRecord,
    ControlUse,
    Environment,
    GenerationRecord,
    GenerationRequest,
    LoraRecord,
    LoraUse,
    Verdict,
)

VERDICT = Verdict(
    character_name="luca", status="ok", similarity_score=0.7, threshold=0.65, metric="cosine", encoder="puppet_face"
)
RECORD = GenerationRecord(
    profile="puppet",
    base_model="puppets/weights/base",
    model_sha256={"unet/a.safetensors": "0" * 64},
    character="luca",
    scene_description="on the “beach”",
    style=None,
    quality_preset="draft",
    prompt="luca, on the “beach”",
    negative_prompt="",
    seed=2**63 - 1,
    width=128,
    height=96,
    steps=12,
    guidance_scale=4.0,
    scheduler="euler",
    loras=(
        LoraRecord(name="luca", weight=1.0, text_encoder_weight=0.5, sha256="1" * 64),
        LoraRecord(
            name="alberto",
            weight=0.5,
            text_encoder_weight=0.5,
            text_encoder_2_weight=0.25,
            blocks=(0.5,) * 20,
            start=0.25,
            stop=0.75,
            sha256="2" * 64,
        ),
    ),
    controls=(
        ControlRecord(
            type="canny",
            model="dedicated",
            model_sha256={"diffusion_pytorch_model.safetensors": "2" * 64},
            scale=0.7,
            start=0.0,
            end=0.9,
            resize="crop",
            is_map=False,
            image=Path("a/b.png"),
            image_sha256="3" * 64,
            map_sha256="4" * 64,
            preprocessor="canny",
            params={"low_threshold": 100, "flip_x": True},
        ),
    ),
    device="cpu",
    dtype="float32",
    memory_policy="resident",
    versions={"torch": "2.15.0"},
    environment=Environment(
        python="3.13.1",
        system="Linux x86_64",
        processor="AMD EPYC (AVX2)",
        threads=1,
        attention="scaled_dot_product_attention (cpu)",
        precision="highest",
    ),
    scheduler_settings={"class_name": "EulerDiscreteScheduler"},
    sampler="Euler",
    seconds={"draw": 0.5},
)


def item(index, status, score=None):
    return BatchItem(index=index, seed=index, status=status, similarity_score=score, verdict=VERDICT)


RESULT = BatchResult(
    items=(item(0, "accepted", 0.75), item(1, "rejected", 0.25), item(2, "unscorable"), item(3, "failed")),
    requested=4,
    character="luca",
    scene_description="on the beach",
    threshold=0.7,
    output_dir=Path("outputs/a"),
)
REQUEST = GenerationRequest(
    character="luca",
    additional_loras=(
        LoraUse(name="luca", weight=0.5),
        LoraUse(name="alberto", text_encoder_2_weight=0.1, blocks="OUTD", start=0.2, stop=0.8),
        LoraUse(name="beach", blocks=(1.0,) * 12),
    ),
    controls=(ControlUse(type="pose", image=Path("a/b.png"), scale=0.9, is_map=True, resize="fill", model="union"),),
)


@pytest.mark.parametrize("value", [VERDICT, RECORD, RESULT, REQUEST, item(0, "failed")])
def test_a_value_comes_back_equal_from_its_json(value):
    assert type(value).from_json(value.to_json()) == value
    assert type(value).from_json(value.to_json(indent=2)) == value


@given(
    text=st.text(),
    seed=st.integers(0, 2**63 - 1),
    number=st.floats(allow_nan=False, allow_infinity=False),
    mapping=st.dictionaries(st.text(), st.text()),
)
def test_any_text_and_number_survives_json(text, seed, number, mapping):
    changed = dataclasses.replace(
        RECORD, prompt=text, seed=seed, guidance_scale=number, versions=mapping, degraded=(text,)
    )
    assert GenerationRecord.from_json(changed.to_json()) == changed


@pytest.mark.parametrize("value", [VERDICT, RECORD, RESULT, REQUEST])
def test_values_are_frozen(value):
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(value, dataclasses.fields(value)[0].name, None)


def test_what_time_and_memory_it_took_makes_no_other_picture():
    assert dataclasses.replace(RECORD, seconds={"draw": 9.0}, peak_vram_gib=3.0) == RECORD
    assert dataclasses.replace(RECORD, steps=13) != RECORD


def test_a_record_asks_for_its_picture_again():
    request = RECORD.to_request()
    assert (request.seed, request.steps, request.width, request.scheduler) == (2**63 - 1, 12, 128, "euler")
    assert request.additional_loras == (
        LoraUse(name="luca", weight=1.0, text_encoder_weight=0.5, blocks="ALL", start=0.0, stop=1.0),
        LoraUse(
            name="alberto",
            weight=0.5,
            text_encoder_weight=0.5,
            text_encoder_2_weight=0.25,
            blocks=(0.5,) * 20,
            start=0.25,
            stop=0.75,
        ),
    )
    assert not request.use_character_loras
    (control,) = request.controls
    assert (control.type, control.image, control.scale, control.end, control.model) == (
        "canny", Path("a/b.png"), 0.7, 0.9, "dedicated",
    )  # fmt: skip


def test_a_picture_in_memory_is_no_part_of_a_requests_json():
    use = ControlUse(type="pose", image=Path("memory/1"), picture=object())
    assert "picture" not in use.to_dict()
    assert ControlUse.from_json(use.to_json()) == use


def test_a_record_from_before_blocks_and_steps_is_read():
    new = RECORD.to_dict()
    old = [{key: lora[key] for key in ("name", "weight", "text_encoder_weight", "sha256")} for lora in new["loras"]]
    assert GenerationRecord.from_dict(new | {"loras": old}).loras[0] == RECORD.loras[0]


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"loras": [RECORD.loras[0].to_dict() | {"blocks": ["a"]}]}, "GenerationRecord.loras[0].blocks[0]"),
        ({"loras": [RECORD.loras[0].to_dict() | {"blocks": "OUTD"}]}, "GenerationRecord.loras[0].blocks"),
        ({"seed": "42"}, "GenerationRecord.seed"),
        ({"seed": True}, "GenerationRecord.seed"),
        ({"guidance_scale": None}, "GenerationRecord.guidance_scale"),
        ({"guidance_scale": "4"}, "GenerationRecord.guidance_scale"),
        ({"loras": [{"name": 5}]}, "GenerationRecord.loras[0].name"),
        ({"loras": {}}, "GenerationRecord.loras"),
        ({"versions": {"torch": 2}}, "GenerationRecord.versions.torch"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_damaged_json_is_refused_with_the_place(change, place):
    with pytest.raises(InvalidValueError) as refusal:
        GenerationRecord.from_dict(RECORD.to_dict() | change)
    assert place in str(refusal.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "1", '{"seed": NaN}', "null", "{}", "[" * 100_000])
def test_what_is_no_record_is_refused(text):
    with pytest.raises(InvalidValueError):
        GenerationRecord.from_json(text)


def test_an_unknown_status_is_refused():
    with pytest.raises(InvalidValueError, match="status"):
        Verdict.from_dict(VERDICT.to_dict() | {"status": "fine"})


def test_nan_is_never_written_as_json():
    with pytest.raises(ValueError, match="JSON"):
        dataclasses.replace(VERDICT, similarity_score=math.nan).to_json()


@pytest.mark.parametrize(
    ("change", "consistent"),
    [
        ({}, True),
        ({"similarity_score": 0.65}, True),
        ({"similarity_score": 0.6499}, False),
        ({"similarity_score": math.nan}, False),
        ({"similarity_score": None}, False),
        ({"similarity_score": None, "status": "no_face", "threshold": -1.0}, False),
        ({"status": "several_faces"}, False),
        ({"metric": "euclidean", "similarity_score": 0.6}, True),
        ({"metric": "euclidean", "similarity_score": 0.7}, False),
    ],
)
def test_a_face_is_consistent_only_if_it_was_compared_and_is_near(change, consistent):
    assert dataclasses.replace(VERDICT, **change).is_consistent is consistent


def test_a_picture_without_a_score_enters_no_mean():
    assert RESULT.consistency_scores == (0.75, 0.25)
    assert RESULT.mean_similarity == 0.5
    assert (RESULT.total_generated, RESULT.total_accepted, RESULT.acceptance_rate) == (3, 1, 0.25)


def test_no_scores_are_no_error():
    nothing = dataclasses.replace(RESULT, items=(), requested=0)
    assert nothing.consistency_scores == ()
    assert math.isnan(nothing.mean_similarity)
    assert math.isnan(nothing.acceptance_rate)
    assert list(nothing.to_frame().columns) == list(RESULT.to_frame().columns)


def test_a_table_has_a_row_per_picture():
    frame = RESULT.to_frame()
    assert list(frame["status"]) == ["accepted", "rejected", "unscorable", "failed"]
    assert frame["similarity_score"].isna().sum() == 2


def test_json_is_ordered_as_declared():
    names = [column.name for column in dataclasses.fields(GenerationRecord)]
    assert list(json.loads(RECORD.to_json())) == names
