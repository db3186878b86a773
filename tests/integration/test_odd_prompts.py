"""Prompts of every kind: drawn, written down and read back as they were, or refused by name."""

import json
from dataclasses import replace

import pytest

from imagelab import GenerationRequest, InvalidValueError
from imagelab.batch import BatchImageGenerator, batch_request
from imagelab.encoding import count_chunks
from imagelab.imagefiles import open_image, read_picture_metadata, read_record
from imagelab.runs import read_batch

REQUEST = GenerationRequest(character="luca", quality_preset="draft", width=64, height=64, steps=1, seed=5)
ODD = {
    "empty": "",
    "spaces": "   ",
    "one letter": "a",
    "right to left": "\u05e9\u05dc\u05d5\u05dd, \u0645\u0631\u062d\u0628\u0627 \u200f\u202eabc\u202c",
    "emoji": "\U0001f3d6\ufe0f \U0001f469\u200d\U0001f469\u200d\U0001f466 on the beach",
    "control codes": "on\tthe\nbeach\r\x1b[31m\x07\x7f",
    "combining marks": "e\u0301" * 40,
    "markup": '<script>alert(1)</script> & "quotes" {braces} %s {0}',
    "unbalanced": "((a (b [c :1.2) \\",
    "looks like infotext": "luca\nNegative prompt: none\nSteps: 99, Seed: 1",
    "two-byte newline": "on\u2028the\u2029beach\x85",
}


def draw(generator, folder, scene, negative=None):
    request = batch_request(
        replace(REQUEST, scene_description=scene, negative_prompt=negative), 1, enable_consistency_check=False
    )
    return BatchImageGenerator(generator).run(request, folder, progress=False)


@pytest.mark.parametrize("name", ODD)
def test_an_odd_prompt_is_drawn_and_comes_back_from_every_file_as_it_was(generator, tmp_path, name):
    """Matrix F9: as a scene and as a negative prompt; in the plan, the ledger, the PNG and the page."""
    text = ODD[name]
    result = draw(generator, tmp_path / "run", text, text)
    assert result.total_accepted == 1
    path = tmp_path / "run" / result.items[0].path
    record = read_record(path)
    assert (record.scene_description, record.seed) == (text, 5)
    assert read_picture_metadata(path).seed == 5, "what stands in the prompt isn't read as a setting"
    assert generator.generate(record.to_request()).image.tobytes() == open_image(path).tobytes()
    plan = json.loads((tmp_path / "run" / "plan.json").read_text(encoding="utf-8"))["plan"]
    assert plan["request"]["picture"]["scene_description"] == text
    assert read_batch(tmp_path / "run") == result
    assert "<script>" not in (tmp_path / "run" / "index.html").read_text(encoding="utf-8")
    assert draw(generator, tmp_path / "run", text, text).items == result.items, "the same call is the same run"


def test_the_76th_token_is_drawn_too(generator):
    """Matrix F9: 75 tokens are one chunk of 77; the next one begins another, and nothing is cut off."""
    pipe = generator.pipeline
    words = ["sea"] * 200
    fitting = next(count for count in range(200, 0, -1) if count_chunks(pipe, " ".join(words[:count])) == 1)
    plain = replace(REQUEST, character=None, negative_prompt="")
    base = " ".join(words[:fitting])
    pictures = {
        generator.generate(replace(plain, scene_description=scene)).image.tobytes()
        for scene in (base, f"{base} red", f"{base} boat")
    }
    assert fitting == 75
    assert len(pictures) == 3


BAD = {
    "a million characters": "a " * 500_000,
    "a NUL": "a\0b",
    "half a surrogate pair": "a\ud83d",
    "the other half": "\udc00 b",
    "bytes": b"on the beach",
    "a list": ["on the beach"],
    "a list of another length": ["a", "b", "c"],
    "nothing": None,
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_prompt_is_refused_by_name_and_leaves_nothing(generator, tmp_path, name):
    """Matrix F9."""
    with pytest.raises(InvalidValueError, match="scene_description must be text") as refusal:
        draw(generator, tmp_path / "run", BAD[name])
    assert len(str(refusal.value)) < 300
    if BAD[name] is not None:  # None is the configured one
        with pytest.raises(InvalidValueError, match="negative_prompt must be text"):
            draw(generator, tmp_path / "run", "on the beach", BAD[name])
    assert list(tmp_path.iterdir()) == []
