"""Prompts: weights as A1111 writes them, phrases once each."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagelab.prompts import build_prompt, join_phrases, parse_weighted

PARSED = {
    "a red hat": [("a red hat", 1)],
    "": [("", 1)],
    "a (red) hat": [("a ", 1), ("red", 1.1), (" hat", 1)],
    "a [red] hat": [("a ", 1), ("red", 1 / 1.1), (" hat", 1)],
    "a (red:1.5) hat": [("a ", 1), ("red", 1.5), (" hat", 1)],
    "(red: 0.5 )": [("red", 0.5)],
    "(red:.5)": [("red", 0.5)],
    "(red:-1)": [("red", -1)],
    "(red:0)": [("red", 0)],
    "((red))": [("red", 1.21)],
    "((red:1.5) hat:2)": [("red", 3), (" hat", 2)],
    "[(red:1.1)]": [("red", 1)],
    r"\(red\) \[hat\] \\": [(r"(red) [hat] \ "[:-1], 1)],
    r"(red \(very\):1.2)": [("red (very)", 1.2)],
    "(red": [("red", 1.1)],
    "a (red, [big hat": [("a ", 1), ("red, ", 1.1), ("big hat", 1)],
    "red) hat": [("red) hat", 1)],
    "red] (hat]": [("red] ", 1), ("hat]", 1.1)],
    "red:1.5": [("red:1.5", 1)],
    "red:1.5)": [("red:1.5)", 1)],
    "(red:big)": [("red:big", 1.1)],
    "(red:1.2.3)": [("red:1.2.3", 1.1)],
    "[red:0.5]": [("red:0.5", 1 / 1.1)],
    "()": [("", 1)],
    "(a [b:1.3) c]": [("a ", 1.3), ("b", 1.3 / 1.1), (" c", 1 / 1.1)],
    "[a (b] c)": [("a ", 1 / 1.1), ("b", 1), (" c", 1.1)],
    "\\": [("", 1)],
    r"re\d (hat)\ ": [("red ", 1), ("hat", 1.1), (" ", 1)],
    "a hat BREAK a (dog BREAK cat:1.2)": [
        ("a hat", 1),
        ("BREAK", 1),
        ("a ", 1),
        ("dog", 1.2),
        ("BREAK", 1.2),
        ("cat", 1.2),
    ],
    "BREAKING, no break": [("BREAKING, no break", 1)],
}


@pytest.mark.parametrize("text", PARSED)
def test_weights_are_read_as_a1111_reads_them(text):
    parsed = parse_weighted(text)
    assert [piece for piece, _ in parsed] == [piece for piece, _ in PARSED[text]]
    assert [weight for _, weight in parsed] == pytest.approx([weight for _, weight in PARSED[text]])


@given(st.text())
def test_any_text_can_be_parsed_and_loses_nothing_but_notation(text):
    pieces = parse_weighted(text)
    assert pieces
    letters = [letter for letter in text if letter.isalpha()]
    assert [letter for piece, _ in pieces for letter in piece if letter.isalpha()] == letters


@given(st.text(st.characters(exclude_characters="()[]\\:"), min_size=1))
def test_text_without_notation_is_one_piece(text):
    assert parse_weighted(text) == ((text, 1.0),)


def test_a_prompt_says_who_what_and_how_in_this_order():
    prompt = build_prompt(
        triggers=["luca", "seaside boy"],
        description="brown eyes",
        scene="on the beach",
        style="pixar style",
        quality_words="detailed",
        negatives=["blurry", "photo"],
    )
    assert prompt.positive == "luca, seaside boy, brown eyes, on the beach, pixar style, detailed"
    assert prompt.negative == "blurry, photo"


def test_a_phrase_is_said_once_where_it_first_stood():
    assert join_phrases("luca, Brown  eyes", "brown eyes, LUCA,, hat ,") == "luca, Brown eyes, hat"


def test_a_weighted_phrase_is_another_phrase_and_is_not_torn():
    assert join_phrases("red, (red, big:1.2)", "(red, big:1.2), big") == "red, (red, big:1.2), big"


def test_an_escaped_bracket_does_not_open_anything():
    assert join_phrases(r"a \(b, c", "c") == r"a \(b, c"


@pytest.mark.parametrize("scene", ["running (fast", "sad :( and wet", "[old [hat", "(a [b) c", "(a], b", "(a \\"])
def test_a_bracket_left_open_in_the_scene_weighs_the_scene_alone(scene):
    prompt = build_prompt(triggers=["luca"], scene=scene, style="pixar style", quality_words="(detailed)")
    assert parse_weighted(prompt.positive)[-2:] == ((", pixar style, ", 1.0), ("detailed", 1.1))
    assert parse_weighted(prompt.positive)[1:-2], "it does weigh something of the scene"


def test_a_phrase_may_come_again_after_a_break():
    assert join_phrases("hat, BREAK, hat, Break, hat, BREAK, hat") == "hat, BREAK, hat, Break, BREAK, hat"
    assert join_phrases("hat BREAK hat, hat", "hat") == "hat BREAK hat, hat"


@given(st.lists(st.text("ab,() []\\:1").flatmap(lambda text: st.sampled_from([text, f"{text}BREAK{text}"]))))
def test_joining_what_is_joined_changes_nothing(texts):
    joined = join_phrases(*texts)
    assert join_phrases(joined) == joined


def test_no_words_make_no_prompt():
    assert build_prompt(scene="").positive == ""
