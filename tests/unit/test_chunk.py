"""The chunk that a picture can be drawn again from: versioned, described by a schema, and read with suspicion."""

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator
from records import make_records
from test_results import RECORD

from imagelab import InvalidValueError
from imagelab.metadata import PictureChunk, read_chunk, write_chunk
from imagelab.metadata.schema import SCHEMA_FILE, render_chunk_schema

ROOT = Path(__file__).parents[2]
CHUNK = PictureChunk(record=RECORD, pixels_sha256="5" * 64)


def test_the_published_schema_is_current():
    assert (ROOT / SCHEMA_FILE).read_text(encoding="utf-8") == render_chunk_schema(), "run `imagelab schema`"


def test_every_chunk_is_what_the_schema_says():
    schema = json.loads((ROOT / SCHEMA_FILE).read_text(encoding="utf-8"))
    Draft202012Validator.check_schema(schema)
    validator = Draft202012Validator(schema)
    for record in (RECORD, *make_records(["a"], random.Random(0))):
        validator.validate(json.loads(write_chunk(PictureChunk(record=record))))
    assert not validator.is_valid(json.loads(write_chunk(CHUNK)) | {"more": 1})


def test_the_chunk_is_ascii_whatever_is_in_it():
    text = write_chunk(replace(CHUNK, record=replace(RECORD, prompt="海 😀")))
    assert text.isascii()
    assert read_chunk(text).record.prompt == "海 😀"


def test_the_bare_record_of_the_first_version_is_read():
    old = {key: value for key, value in RECORD.to_dict().items() if key not in ("environment", "sampler")}
    chunk = read_chunk(json.dumps(old))
    assert (chunk.chunk_version, chunk.pixels_sha256) == (1, None)
    assert chunk.record == replace(RECORD, environment=None, sampler="")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "JSON"),
        ("[]", "a mapping"),
        ("[" * 100_000, "JSON"),
        ("9" * 10_000, "JSON"),
        ('{"chunk_version": 2, "record": ' + "[" * 900 + "]" * 900 + "}", "JSON"),
        (json.dumps(CHUNK.to_dict()).replace('"seed": 9223372036854775807', '"seed": NaN'), "seed"),
        (json.dumps(CHUNK.to_dict()).replace('"scale": 0.7', '"scale": 1e999'), "numbers"),
        ('{"chunk_version": 3, "record": {}}', "chunk_version must be 2"),
        ('{"chunk_version": 2}', "complete"),
        ('{"chunk_version": 2, "record": null}', "mapping"),
        ('{"chunk_version": 2, "record": {}, "path": "/etc"}', "without fields other"),
        (json.dumps(CHUNK.to_dict() | {"pixels_sha256": 5}), "pixels_sha256"),
    ],
)
def test_a_damaged_chunk_is_one_clear_error(text, words):
    with pytest.raises(InvalidValueError, match=words):
        read_chunk(text)


def test_a_number_beyond_all_numbers_is_refused():
    data = json.dumps(CHUNK.to_dict()).replace('"guidance_scale": 4.0', f'"guidance_scale": 1{"0" * 400}')
    with pytest.raises(InvalidValueError, match="imagelab chunk"):
        read_chunk(data)
