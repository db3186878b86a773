"""The chunk that a picture can be drawn again from: versioned, described by a schema, and read with suspicion."""

import hashlib
import json
import random
import re
from dataclasses import replace
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator
from records import make_records
from test_results import RECORD

from imagelab import InvalidValueError
from imagelab.differences import leaves
from imagelab.metadata import PictureChunk, read_chunk, write_chunk
from imagelab.metadata.schema import SCHEMA_FILE, render_chunk_schema

ROOT = Path(__file__).parents[2]
SCHEMAS = ROOT / "docs/schemas"
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


def published_schemas():
    """Return {name of a released schema's file: its sha256}."""
    lines = (SCHEMAS / "published.sha256").read_text(encoding="utf-8").splitlines()
    return {name: sha256 for sha256, name in (line.split() for line in lines if not line.startswith("#"))}


def test_the_schema_of_a_release_is_listed_and_what_is_listed_never_changes():
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    is_released = re.search(r"^## \[\d", changelog, re.MULTILINE) is not None
    published = published_schemas()
    assert (Path(SCHEMA_FILE).name in published) == is_released, f"list {SCHEMA_FILE} in published.sha256 at a release"
    for name, sha256 in published.items():
        assert hashlib.sha256((SCHEMAS / name).read_bytes()).hexdigest() == sha256, f"{name}: write a new version"


@pytest.mark.parametrize("version", [1, 2])
def test_a_chunk_that_was_written_before_fields_were_added_is_read_whole(version):
    written = json.loads((ROOT / f"tests/data/chunks/{version}.json").read_text(encoding="utf-8"))
    chunk = read_chunk(json.dumps(written))
    assert chunk.chunk_version == version
    record = written if version == 1 else written["record"]
    said, now = leaves(record, lists=True), leaves(chunk.record.to_dict(), lists=True)
    assert {name: now.get(name) for name in said} == said
    assert "guidance_start" not in record  # it was added later, as were some more
    assert (chunk.record.guidance_start, chunk.record.guidance_stop, chunk.record.predicted_vram_gib) == (0, 1, 0)


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
    with pytest.raises(InvalidValueError, match=r"guidance_scale must be a number, got 10000.*…0000"):
        read_chunk(data)
