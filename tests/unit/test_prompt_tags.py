"""LoRA tags: taken out of a prompt, read as A1111 and its extension write them, refused where they make no sense."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagelab import InvalidValueError, UnknownNameError
from imagelab.config.blocks import BLOCKS, block_weights
from imagelab.prompt_tags import refuse_lora_tags, take_lora_tags
from imagelab.results import LoraUse

TWELVE = "1,0,0,0,0,1,1,1,0.5,0,0,0"
READ = {
    "<lora:luca>": LoraUse(name="luca"),
    "<lora:luca:0.8>": LoraUse(name="luca", weight=0.8),
    "<lora:luca:-.5>": LoraUse(name="luca", weight=-0.5),
    "<lora:luca:0.3:0.8>": LoraUse(name="luca", weight=0.8, text_encoder_weight=0.3),
    "<lora:luca:te=0.3:unet=0.8>": LoraUse(name="luca", weight=0.8, text_encoder_weight=0.3),
    "<lora:luca:unet=0.8>": LoraUse(name="luca", weight=0.8),
    "<lora:luca:te=0.3>": LoraUse(name="luca", weight=0.3, text_encoder_weight=0.3),
    "<lora:luca:1:te=0>": LoraUse(name="luca", weight=1.0, text_encoder_weight=0.0),
    "<lora:luca:1:lbw=OUTD>": LoraUse(name="luca", weight=1.0, blocks="OUTD"),
    f"<lora:luca:lbw={TWELVE}>": LoraUse(name="luca", blocks=block_weights([1, 0, 0, 0, 0, 1, 1, 1, 0.5, 0, 0, 0])),
    "<lora:luca:1:1:start=0.2:stop=0.75>": LoraUse(
        name="luca", weight=1.0, text_encoder_weight=1.0, start=0.2, stop=0.75
    ),
    "<lora: luca : 0.8 >": LoraUse(name="luca", weight=0.8),
}


@pytest.mark.parametrize("tag", READ)
def test_a_tag_is_read_as_a1111_writes_it(tag):
    assert take_lora_tags(f"on the beach {tag}") == ("on the beach", (READ[tag],))


@pytest.mark.parametrize(
    ("text", "rest"),
    [
        ("<lora:a>", ""),
        ("<lora:a>, on the beach", "on the beach"),
        ("on the beach, <lora:a:1>, waving", "on the beach, waving"),
        ("on the <lora:a:1> beach", "on the beach"),
        ("on the beach,<lora:a><lora:b:0.5>waving", "on the beach, waving"),
        ("a (red, <lora:a> hat:1.2)", "a (red, hat:1.2)"),
        ("beach_run <lora:a>", "beach_run"),
    ],
)
def test_tags_leave_no_trace_in_the_prompt(text, rest):
    assert take_lora_tags(text)[0] == rest


def test_every_tag_of_a_prompt_is_found_in_its_order():
    _, uses = take_lora_tags("<lora:b:0.5> on the beach <lora:a> <lora:c:1:1>")
    assert [use.name for use in uses] == ["b", "a", "c"]


@given(st.text(st.characters(exclude_characters="<")))
def test_text_without_tags_is_left_as_it_is(text):
    assert take_lora_tags(text) == (text, ())


@pytest.mark.parametrize("text", ["a < b", "<3", "<b>bold</b>", "<lorax:1>", "<loras>"])
def test_other_angle_brackets_are_text(text):
    assert take_lora_tags(text) == (text, ())


@pytest.mark.parametrize(
    "tag",
    [
        "<lora>",
        "<lora:>",
        "<lora::1>",
        "<lora:luca:>",
        "<lora:luca:strong>",
        "<lora:luca:0,8>",
        "<lora:luca:nan>",
        "<lora:luca:7>",
        "<lora:luca:1:1:1>",
        "<lora:luca:te=0.5:1>",
        "<lora:luca:te=0.5:te=0.6>",
        "<lora:luca:0.5:unet=0.6>",
        "<lora:luca:start=5>",
        "<lora:luca:stop=-1>",
        "<lora:luca:lbw=1,2>",
        "<lora:luca:lbw=1,a,0,0,0,0,0,0,0,0,0,0>",
        "<lora=luca>",
        "<LORA:luca:1>",
        "<lyco:luca:1>",
        "<hypernet:luca:1>",
        "<lora:luca:0.8",
    ],
)
def test_a_malformed_tag_is_refused_with_its_text(tag):
    with pytest.raises(InvalidValueError) as refusal:
        take_lora_tags(f"on the beach {tag}")
    assert refusal.value.value == tag


@pytest.mark.parametrize(
    ("tag", "says"),
    [
        ("<lora:luca:ubet=1>", "'ubet'; did you mean 'unet'?"),
        ("<lora:luca:dyn=4>", "unknown key of <lora:luca:dyn=4> 'dyn'"),
        ("<lora:luca:lbw=OUTX>", "'OUTX'; did you mean 'OUT"),
    ],
)
def test_a_misspelt_key_or_preset_is_refused_with_the_nearest(tag, says):
    with pytest.raises(UnknownNameError) as refusal:
        take_lora_tags(tag)
    assert says in str(refusal.value)


def test_a_count_of_steps_is_refused_with_the_unit_that_is_meant():
    with pytest.raises(InvalidValueError, match="with start, a fraction of the steps, a number between 0 and 1"):
        take_lora_tags("<lora:luca:1:start=10>")


def test_a_tag_where_none_is_looked_for_is_refused_with_the_place():
    with pytest.raises(InvalidValueError, match=r"negative_prompt must be without LoRA tags.*<lora:luca:1>"):
        refuse_lora_tags("blurry <lora:luca:1>", "negative_prompt")
    refuse_lora_tags("blurry, a < b", "negative_prompt")


# --- block weights


def test_twelve_weights_are_of_the_blocks_with_attention_and_the_others_are_zero():
    weights = dict(zip(BLOCKS, block_weights(range_of(12)), strict=True))
    assert weights["BASE"] == 0.1
    assert [weights[name] for name in ("IN04", "IN05", "IN07", "IN08", "MID")] == [0.2, 0.3, 0.4, 0.5, 0.6]
    assert [weights[f"OUT{n:02}"] for n in range(9)] == [0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 0, 0, 0]
    assert [weights[f"IN{n:02}"] for n in (0, 1, 2, 3, 6)] == [0] * 5


def test_twenty_weights_are_of_all_blocks_in_their_order():
    assert block_weights(range_of(20)) == tuple(range_of(20))
    assert BLOCKS[:3] + BLOCKS[9:12] + BLOCKS[-1:] == ("BASE", "IN00", "IN01", "IN08", "MID", "OUT00", "OUT08")


def range_of(count):
    return [round(0.1 * number, 1) for number in range(1, count + 1)]


@pytest.mark.parametrize(
    ("name", "blocks"),
    [
        ("NONE", ""),
        ("INS", "BASE IN00 IN01 IN02 IN03 IN04"),
        ("IND", "BASE IN05 IN06 IN07 IN08"),
        ("MIDD", "BASE IN05 IN06 IN07 IN08 MID OUT00 OUT01 OUT02 OUT03"),
        ("OUTD", "BASE OUT00 OUT01 OUT02 OUT03"),
        ("OUTS", "BASE OUT04 OUT05 OUT06 OUT07 OUT08"),
        ("INALL", f"BASE {' '.join(f'IN0{n}' for n in range(9))}"),
        ("OUTALL", f"BASE {' '.join(f'OUT0{n}' for n in range(9))}"),
        ("ALL", " ".join(BLOCKS)),
    ],
)
def test_a_preset_is_the_extensions_at_sdxls_depth(name, blocks):
    weights = block_weights(name)
    assert [block for block, weight in zip(BLOCKS, weights, strict=True) if weight == 1] == blocks.split()
    assert set(weights) <= {0.0, 1.0}


@pytest.mark.parametrize(
    "given", [[], [1] * 11, [1] * 17, [True] * 12, ["1"] * 12, [float("nan")] * 20, [3] * 12, 1, None, {"MID": 1}]
)
def test_what_are_no_block_weights_is_refused(given):
    with pytest.raises(InvalidValueError, match="12 or 20 numbers between -2 and 2, or one of NONE"):
        block_weights(given)
