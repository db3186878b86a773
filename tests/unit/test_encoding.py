"""A BREAK in a prompt begins a new chunk."""

import pytest
import torch

from imagelab.encoding import count_chunks, encode_prompt
from imagelab.loading import load_pipeline
from imagelab.prompts import Prompt


@pytest.fixture(scope="module")
def pipe(configs):
    return load_pipeline(configs.profile("puppet"), "cpu").pipe


def embeddings_of(pipe, text):
    return encode_prompt(pipe, Prompt(positive=text, negative="")).positive


def test_what_a_break_parts_is_encoded_as_if_the_other_were_not_there(pipe):
    both = embeddings_of(pipe, "a red hat BREAK on the beach")
    assert torch.equal(both[:, :77], embeddings_of(pipe, "a red hat"))
    assert torch.equal(both[:, 77:], embeddings_of(pipe, "on the beach"))


@pytest.mark.parametrize(
    ("text", "chunks"), [("a BREAK b BREAK c", 3), ("(a BREAK b:1.2)", 2), (" BREAK a BREAK BREAK ", 1), ("BREAK", 1)]
)
def test_each_break_begins_a_chunk_unless_that_would_be_empty(pipe, text, chunks):
    assert count_chunks(pipe, text) == chunks
    assert embeddings_of(pipe, text).shape[1] == 77 * chunks
