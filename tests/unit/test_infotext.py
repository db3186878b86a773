"""Infotext says what the record says, to whoever reads it by A1111's or Civitai's rules."""

import json
import random
import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from records import make_records, texts, words

from imagelab.metadata import (
    Infotext,
    PictureChunk,
    format_infotext,
    infotext_of,
    parse_infotext,
    read_chunk,
    read_infotext,
    write_chunk,
)
from imagelab.metadata.infotext import quote, tidy_prompt, unquote
from imagelab.metadata.lenient import plain_number, to_whole

# --- what A1111 and Civitai do, written down again from their own code


def a1111(text):
    """Read infotext as AUTOMATIC1111 does; returns (prompt, negative prompt, {key: value})."""
    pattern = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')
    *lines, last = text.strip().split("\n")
    if len(pattern.findall(last)) < 3:
        lines, last = [*lines, last], ""
    found = {"prompt": "", "negative": ""}
    part = "prompt"
    for line in map(str.strip, lines):
        if line.startswith("Negative prompt:"):
            part, line = "negative", line[16:].strip()  # noqa: PLW2901  as there
        found[part] += ("\n" if found[part] else "") + line
    values = {}
    for key, value in pattern.findall(last):
        quoted = len(value) > 1 and value[0] == value[-1] == '"'
        values[key] = json.loads(value) if quoted else value
    return found["prompt"], found["negative"], values


def civitai(text):
    """Read infotext as Civitai does; returns (prompt, {LoRA: weight}, hashes, {key: value or {key: value}})."""
    assert "Steps: " in text
    lines = [line for line in text.split("\n") if line.strip()]
    details = next(line for line in lines if line.startswith("Steps: "))
    lines.remove(details)
    hashes = re.search(r", Hashes:\s*({[^}]+})", details)
    details = re.sub(r", Hashes:\s*({[^}]+})", "", details, count=1)
    prompt = "\n".join(lines).split("Negative prompt:")[0].strip()
    loras = re.findall(r"<(?:lora|hypernet):([a-zA-Z0-9_.\-]+):([0-9.]+)>", prompt)
    weights = {name: float(weight) for name, weight in loras}
    return prompt, weights, json.loads(hashes[1]) if hashes else {}, civitai_details(details)


def civitai_details(line):
    """Read the line of details as Civitai does; a quoted value is a line of details itself, and has no escapes."""
    found, key, value, is_quoted = {}, "", "", False
    for letter in line:
        if letter == '"':
            if is_quoted:
                found[key], key = civitai_details(value.strip()), ""
                value = ""
            is_quoted = not is_quoted
        elif letter == ":" and not is_quoted:
            key, value = value.strip(), ""
        elif letter == "," and not is_quoted:
            if key:
                found[key] = value.strip()
            key = value = ""
        else:
            value += letter
    return found | ({key: value.strip()} if key else {})


@pytest.mark.slow
@settings(max_examples=2000, deadline=None)
@given(words=words, own=st.randoms(use_true_random=False), seed=st.integers(0, 2**32))
def test_ten_thousand_records_come_back_from_the_chunk_and_from_infotext(words, own, seed):
    (first,) = make_records(words, own, 1)  # each of its throws is hypothesis's, which makes a failing record small
    check_the_round_trip(first)
    for record in make_records(words, random.Random(seed), 4):  # four times as quickly thrown
        check_the_round_trip(record)


def check_the_round_trip(record):
    chunk = PictureChunk(record=record, pixels_sha256="0" * 64)
    assert read_chunk(write_chunk(chunk)) == chunk

    written = infotext_of(record)
    text = format_infotext(written)
    read = read_infotext(text)
    assert (read.prompt, read.negative_prompt) == (tidy_prompt(written.prompt), tidy_prompt(record.negative_prompt))
    assert (read.seed, read.steps, read.size) == (record.seed, record.steps, (record.width, record.height))
    assert (read.cfg, read.schedule) == (record.guidance_scale, record.schedule_type)
    tags = read.loras[-len(record.loras) :] if record.loras else ()
    assert [(tag.name, tag.weight) for tag in tags] == [(lora.name, lora.weight) for lora in record.loras]
    assert [tag.hash for tag in tags] == [lora.tensors_sha256[:12] for lora in record.loras]
    assert [control.weight for control in read.controls] == [control.scale for control in record.controls]

    prompt, negative, values = a1111(text)
    assert (prompt, negative) == (read.prompt, read.negative_prompt)
    assert (values["Seed"], values["Steps"]) == (str(record.seed), str(record.steps))
    assert values["Size"] == f"{record.width}x{record.height}"
    assert float(values["CFG scale"]) == record.guidance_scale
    interval = (float(values.get("Guidance start", 0)), float(values.get("Guidance stop", 1)))
    assert interval == (record.guidance_start, record.guidance_stop)
    assert len([key for key in values if key.startswith("ControlNet ")]) == len(record.controls)

    _, weights, hashes, details = civitai(text)
    assert details.get("Lora hashes", {}) == {lora.name: lora.tensors_sha256[:12] for lora in record.loras}
    shown = {"Seed": record.seed, "Steps": record.steps, "Size": f"{record.width}x{record.height}"}
    assert {key: details[key] for key in shown} == {key: str(value) for key, value in shown.items()}
    units = [value for key, value in details.items() if key.startswith("ControlNet ")]
    assert [float(unit["Weight"]) for unit in units] == [control.scale for control in record.controls]
    named = {name: value for name, value in hashes.items() if name.startswith("lora:")}
    assert named == {f"lora:{lora.name}": lora.sha256[:10] for lora in record.loras}
    plain = [lora for lora in record.loras if is_plain(lora)]
    assert all(weights[lora.name] == lora.weight for lora in plain if lora.name != "x")


def is_plain(lora):
    """Say whether Civitai's `<lora:name:weight>` can say it all."""
    everywhere = lora.blocks is None and (lora.start, lora.stop) == (0, 1)
    return everywhere and lora.weight == lora.text_encoder_weight and not str(lora.weight).startswith("-")


@settings(max_examples=300, deadline=None)
@given(line=st.text(st.sampled_from('ab_ -/:,"\\\t{}1é'), max_size=40))
def test_settings_are_found_where_a1111s_own_pattern_finds_them(line):
    theirs = re.findall(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)', line.strip())
    ours = parse_infotext("a\n" + line).settings
    assert ours == ({key: unquote(value) for key, value in theirs} if len(theirs) >= 3 else {})


@given(text=texts)
def test_a_tidy_prompt_is_one_that_stays_as_it_is(text):
    tidy = tidy_prompt(text)
    assert tidy_prompt(tidy) == tidy
    assert tidy.lower().split() == text.replace("\0", "").lower().split()


@given(value=st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_a_quoted_value_comes_back(value):
    line = format_infotext(Infotext(settings={"Steps": "1", "Some key": value, "Seed": "2", "Size": "8x8"}))
    assert parse_infotext(line).settings["Some key"] == value
    assert a1111(line)[2]["Some key"] == value
    assert unquote(quote(value)) == value


def test_only_what_a1111_quotes_is_quoted():
    assert [quote(value) for value in ("a b", "a, b", "a: b", "a\nb", "é, ü")] == [
        "a b", '"a, b"', '"a: b"', '"a\\nb"', '"é, ü"',
    ]  # fmt: skip


def test_the_negative_line_is_left_out_when_it_is_empty():
    written = format_infotext(Infotext(prompt="a", settings={"Steps": "1", "Sampler": "Euler", "Seed": "3"}))
    assert written == "a\nSteps: 1, Sampler: Euler, Seed: 3"


def test_a_last_line_with_two_settings_is_prompt():
    assert parse_infotext("a boy\nwith hat: red, shoes: blue").prompt == "a boy\nwith hat: red, shoes: blue"


def test_prompts_of_several_lines_are_kept():
    text = "a\nb\nNegative prompt: c\nd\nSteps: 1, Sampler: Euler, Seed: 3"
    read = parse_infotext(text)
    assert (read.prompt, read.negative_prompt) == ("a\nb", "c\nd")


def test_numbers_are_written_without_an_exponent():
    assert [plain_number(value) for value in (7, 7.5, 1e-05, -0.5)] == ["7", "7.5", "0.00001", "-0.5"]


@pytest.mark.parametrize("seed", [2**63 - 1, "9223372036854775807", 12.0, "12.0"])
def test_seeds_of_64_bits_stay_whole(seed):
    assert to_whole(seed) in (2**63 - 1, 12)
    assert to_whole("1e999") is to_whole(True) is to_whole([1]) is None


NONSENSE = {"letters": "a" * 10**6, "quotes": 'ab:"' * 10**5, "dashes": "a b-" * 10**5, "tags": "<lora:" * 10**5}


@pytest.mark.parametrize("text", [*NONSENSE.values(), ', Hashes: {"' * 10**5], ids=[*NONSENSE, "hashes"])
def test_a_megabyte_of_nonsense_is_read_at_once(text):
    begin = time.perf_counter()
    read_infotext(f"a, b: c\n{text}, Steps: 1, Seed: 2, Size: 8x8")
    assert time.perf_counter() - begin < 5  # seconds; A1111's own pattern takes the square of the length
