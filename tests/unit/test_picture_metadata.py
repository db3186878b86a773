"""Whoever made a picture, what it says of its making is read; whatever it says, nothing worse happens than an error."""

import bisect
import json
import random
import struct
import zlib
from dataclasses import replace

import pytest
from foreign_metadata import (
    COMFYUI,
    COMFYUI_IN_PARTS,
    FOOOCUS,
    FOOOCUS_A1111,
    INVOKEAI,
    OLD_A1111,
    SAMPLES,
    SWARMUI,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin
from records import make_records
from test_results import RECORD

from imagelab import ImageFileError, read_picture_metadata
from imagelab.imagefiles import pixels_sha256, read_record, read_texts, save_picture
from imagelab.metadata import (
    LoraMention,
    PictureChunk,
    PictureMetadata,
    format_infotext,
    infotext_of,
    read_metadata,
    write_chunk,
)
from imagelab.metadata.embedding import decode_comment, exif

JPEG_EXIF_BYTES = 65_527  # a segment holds 65,535, its length and its mark among them


@pytest.fixture
def picture():
    return Image.radial_gradient("L").resize((48, 32)).convert("RGB")


def save_with(picture, path, texts):
    chunk = PngImagePlugin.PngInfo()
    for key, text in texts.items():
        chunk.add_text(key, text)
    picture.save(path, pnginfo=chunk)
    return path


# --- what others wrote


@pytest.mark.parametrize("name", SAMPLES)
def test_each_writers_picture_says_who_wrote_it_and_how(picture, tmp_path, name):
    read = read_picture_metadata(save_with(picture, tmp_path / "a.png", SAMPLES[name]))
    assert read.writer == name.partition(",")[0]
    assert read.prompt.startswith("a boy")
    assert None not in (read.seed, read.steps, read.sampler, read.cfg, read.size, read.model)
    assert read.raw == SAMPLES[name]
    assert PictureMetadata.from_json(read.to_json()) == read


def test_a1111_is_read_to_the_letter():
    read = read_metadata(SAMPLES["a1111"])
    assert read.prompt.endswith("<lora:town:0.5:0.25>\nwaving")
    assert read.negative_prompt == "blurry,\nlow quality"
    assert (read.seed, read.steps, read.cfg, read.size) == (1234567890123, 30, 7.0, (832, 1216))
    assert (read.sampler, read.schedule) == ("DPM++ 2M", "Karras")
    assert (read.model, read.model_hash, read.version) == ("sd_xl_base_1.0", "31e35c80fc", "v1.10.1")
    assert read.loras == (
        LoraMention(name="luca", weight=0.8, text_encoder_weight=0.8, hash="0123456789ab"),
        LoraMention(name="town", weight=0.25, text_encoder_weight=0.5, hash="ba9876543210"),
    )
    assert [(unit.module, unit.model, unit.weight, unit.end) for unit in read.controls] == [
        ("canny", "control_canny [a1b2c3d4]", 0.7, 0.9)
    ]
    assert (read.settings["Clip skip"], read.settings["RNG"], read.settings["Hires upscale"]) == ("2", "GPU", "1.5")


def test_what_a1111_leaves_out_is_what_it_stands_for():
    read = read_metadata({"parameters": OLD_A1111})
    assert (read.sampler, read.schedule, read.settings["Clip skip"]) == ("DPM++ SDE", "Karras", "1")
    assert read_metadata({"parameters": OLD_A1111.replace(" Karras", "")}).schedule == "Automatic"
    assert read.negative_prompt == ""


def test_comfyuis_graph_is_walked_from_the_sampler_that_begins():
    read = read_metadata(SAMPLES["comfyui"])
    assert (read.prompt, read.negative_prompt) == ("a boy on the beach", "blurry")
    assert (read.seed, read.steps, read.cfg, read.size) == (42, 25, 6.5, (1024, 768))
    assert (read.sampler, read.schedule, read.model) == ("DPM++ 2M SDE", "Karras", "sd_xl_base_1.0")
    assert [(lora.name, lora.weight, lora.text_encoder_weight) for lora in read.loras] == [
        ("luca", 0.8, 0.6),
        ("town", 0.5, 0.5),
    ]
    assert [(unit.model, unit.weight, unit.start, unit.end) for unit in read.controls] == [
        ("control_canny", 0.7, 0, 0.9)
    ]
    assert [(one.seed, one.sampler, one.denoise) for one in read.samplings] == [
        (42, "DPM++ 2M SDE", 1),
        (43, "Euler a", 0.4),
    ]


def test_the_prompt_of_the_picture_that_a_control_follows_is_another_ones():
    drawn = {
        "40": {"class_type": "KSampler", "inputs": {"seed": 9, "positive": ["41", 0], "model": ["4", 0]}},
        "41": {"class_type": "CLIPTextEncode", "inputs": {"text": "a house", "clip": ["4", 1]}},
        "14": {"class_type": "VAEDecode", "inputs": {"samples": ["40", 0], "vae": ["4", 2]}},
    }
    read = read_metadata({"prompt": json.dumps(COMFYUI | drawn)})
    assert (read.prompt, len(read.controls)) == ("a boy on the beach", 1)


def test_a_sampler_in_parts_is_put_together():
    read = read_metadata({"prompt": json.dumps(COMFYUI_IN_PARTS)})
    assert (read.seed, read.steps, read.cfg, read.size) == (2**64 - 1, 12, 4.5, (640, 640))
    assert (read.prompt, read.negative_prompt) == ("a boy, beach", "")
    assert (read.sampler, read.schedule, read.model) == ("UniPC", "Beta", "model")


def test_comfyuis_webp_keeps_the_graph_in_exif(picture, tmp_path):
    exif = Image.Exif()
    exif[0x0110] = "prompt:" + json.dumps(COMFYUI)
    exif[0x010F] = "workflow:{}"
    picture.save(tmp_path / "a.webp", exif=exif)
    read = read_picture_metadata(tmp_path / "a.webp")
    assert (read.writer, read.seed) == ("comfyui", 42)


def test_invokeai_is_read():
    read = read_metadata(SAMPLES["invokeai"])
    assert (read.seed, read.steps, read.cfg, read.size) == (77, 30, 7.5, (1024, 768))
    assert (read.sampler, read.schedule, read.version) == ("DPM++ 2M", "Karras", "5.6.0")
    assert (read.model, read.model_hash) == ("sd_xl_base_1.0", "blake3:0a1b")
    assert [(lora.name, lora.weight, lora.hash) for lora in read.loras] == [("luca", 0.75, "blake3:2c3d")]
    assert [(unit.model, unit.weight, unit.end) for unit in read.controls] == [("canny", 0.7, 0.9)]
    older = INVOKEAI | {"model": {"model_name": "old"}, "loras": [{"lora": {"model_name": "l"}, "weight": 1}]}
    read = read_metadata({"invokeai_metadata": json.dumps(older)})
    assert (read.model, read.loras[0].name) == ("old", "l")


@pytest.mark.parametrize("name", ["fooocus", "fooocus, scheme a1111"])
def test_fooocus_is_read_in_both_schemes(name):
    read = read_metadata(SAMPLES[name])
    assert (read.prompt, read.negative_prompt) == ("a boy on the beach", "blurry")
    assert (read.seed, read.steps, read.cfg, read.size) == (8246342147951211421, 30, 4.0, (896, 1152))
    assert (read.sampler, read.schedule) == ("DPM++ 2M SDE", "Karras")
    assert (read.model, read.model_hash) == ("juggernautXL_v8Rundiffusion", "aeb7e9e689")
    assert [(lora.name, lora.weight, lora.hash) for lora in read.loras] == [("luca", 0.5, "0123456789")]


@pytest.mark.parametrize(("scheme", "text"), [("fooocus", json.dumps(FOOOCUS)), ("a1111", FOOOCUS_A1111)])
def test_fooocuss_exif_is_read(picture, tmp_path, scheme, text):
    exif = Image.Exif()
    exif[0x9286], exif[0x0131], exif[0x927C] = text, "Fooocus v2.5.5", scheme
    for name in ("a.jpg", "a.webp"):
        picture.save(tmp_path / name, exif=exif)
        read = read_picture_metadata(tmp_path / name)
        assert (read.writer, read.prompt, read.loras[0].weight) == ("fooocus", "a boy on the beach", 0.5)


def test_fooocuss_loras_are_found_in_their_older_place():
    older = {key: value for key, value in FOOOCUS.items() if key != "loras"} | {
        "lora_combined_2": "True : b.safetensors : 2"
    }
    read = read_metadata({"parameters": json.dumps(older)})
    assert [(lora.name, lora.weight) for lora in read.loras] == [("luca", 0.5), ("b", 2.0)]


def test_swarmui_is_read_whose_numbers_may_be_texts():
    read = read_metadata(SAMPLES["swarmui"])
    assert (read.seed, read.steps, read.cfg, read.size) == (123, 20, 7.0, (1152, 896))
    assert (read.sampler, read.schedule, read.version) == ("Euler a", "SGM Uniform", "0.9.8.0")
    assert (read.model, read.model_hash) == ("sd_xl_base_1.0", "1234567890ab")
    assert read.loras == (LoraMention(name="luca", weight=0.8, text_encoder_weight=0.8, hash="feedbeef"),)
    assert [(unit.model, unit.weight) for unit in read.controls] == [("canny", 0.7)]
    params = SWARMUI["sui_image_params"] | {"loras": "a,b", "loraweights": "0.5"}
    read = read_metadata({"parameters": json.dumps({"sui_image_params": params})})
    assert [(lora.name, lora.weight) for lora in read.loras] == [("a", 0.5), ("b", 1.0)]


@pytest.mark.parametrize("order", ["utf-16-be", "utf-16-le"])
def test_a_user_comment_is_read_in_either_order_of_its_bytes(picture, tmp_path, order):
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9286] = b"UNICODE\0" + OLD_A1111.encode(order)
    picture.save(tmp_path / "a.jpg", exif=exif)
    assert read_picture_metadata(tmp_path / "a.jpg").steps == 20
    assert decode_comment(b"ASCII\0\0\0" + b"plain") == decode_comment(b"\0" * 8 + b"plain\0") == "plain"


# --- what we write


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.jpeg", "a.webp", "A.WEBP"])
def test_our_own_comes_back_from_every_kind_of_file(picture, tmp_path, name):
    for record in (RECORD, *make_records(["海"], random.Random(1))):
        path = save_picture(picture, tmp_path / name, record)
        read = read_picture_metadata(path)
        assert (read.writer, read.record, read.seed) == ("imagelab", record, record.seed)
        assert (read.prompt, read.pixels_sha256) == (record.prompt, pixels_sha256(picture))
        assert read_record(path) == record
        texts = read_texts(path)
        assert format_infotext(infotext_of(record)) in (texts.get("parameters"), texts.get("UserComment"))


def test_a_program_that_knows_a1111_only_reads_our_pictures(picture, tmp_path):
    texts = read_texts(save_picture(picture, tmp_path / "a.png", RECORD))
    read = read_metadata({"parameters": texts["parameters"]})
    assert (read.writer, read.version) == ("a1111", "imagelab-0+unknown")
    assert [lora.name for lora in read.loras] == [lora.name for lora in RECORD.loras]


def test_text_that_latin_1_can_say_is_text_for_the_oldest_reader(picture, tmp_path):
    plain = save_picture(picture, tmp_path / "a.png", make_record(prompt="é"))
    other = save_picture(picture, tmp_path / "b.png", make_record(prompt="海"))
    assert b"tEXtparameters\0" in plain.read_bytes()
    assert b"iTXtparameters\0" in other.read_bytes()
    assert b"tEXtimagelab\0" in other.read_bytes()


def test_exif_is_what_piexif_writes(picture, tmp_path):
    content = save_picture(picture, tmp_path / "a.jpg", make_record(prompt="海")).read_bytes()
    assert b"Exif\0\0MM\0*" in content
    assert b"UNICODE\0" + "海".encode("utf-16-be") in content


@pytest.mark.parametrize("kib", [63, 64, 300])
def test_long_prompts_come_back_or_are_refused_before_a_file_is_there(picture, tmp_path, kib):
    record = make_record(prompt="a" * kib * 1024)
    for name in ("a.png", "a.webp"):
        assert read_record(save_picture(picture, tmp_path / name, record)) == record
    with pytest.raises(ImageFileError, match=r"a JPEG holds 65527. Write a PNG"):
        save_picture(picture, tmp_path / "a.jpg", record)
    assert not (tmp_path / "a.jpg").exists()


def test_a_jpeg_is_written_up_to_the_byte_that_its_metadata_may_have(picture, tmp_path):
    def takes(letters):
        record = make_record(prompt="a" * letters)
        chunk = write_chunk(PictureChunk(record=record, pixels_sha256=pixels_sha256(picture)))
        return len(exif(chunk, format_infotext(infotext_of(record))).tobytes())

    fits = bisect.bisect_right(range(65_536), JPEG_EXIF_BYTES, key=takes) - 1  # letters in the prompt
    record = make_record(prompt="a" * fits)
    assert takes(fits) <= JPEG_EXIF_BYTES < takes(fits + 1)
    assert read_record(save_picture(picture, tmp_path / "a.jpg", record)) == record
    with pytest.raises(ImageFileError, match=rf"takes {takes(fits + 1)} bytes, and a JPEG holds 65527\. Write a PNG"):
        save_picture(picture, tmp_path / "b.jpg", make_record(prompt="a" * (fits + 1)))
    assert [path.name for path in tmp_path.iterdir()] == ["a.jpg"]


def test_no_picture_is_written_that_could_not_be_read(picture, tmp_path):
    with pytest.raises(ImageFileError, match="Shorten the prompts"):
        save_picture(picture, tmp_path / "a.png", make_record(prompt="a" * 2**20))


def make_record(**change):
    return replace(RECORD, **change)


# --- what is no metadata, or means harm


def test_a_picture_that_says_nothing_is_an_empty_reading(picture, tmp_path):
    for name in ("a.png", "a.jpg", "a.webp"):
        picture.save(tmp_path / name)
        assert read_picture_metadata(tmp_path / name) == PictureMetadata()


HOSTILE = (
    "{", "[]", "{}", "null", '"x"', "[" * 200_000, '{"a":' * 100_000, "9" * 100_000, '{"seed": 1e999}', "\ud800", "é\0",
)  # fmt: skip
KEYS = (
    "parameters", "prompt", "fooocus_scheme", "UserComment", "MakerNote", "Model", "Make", "Software", "sd-metadata",
    "Dream",
)  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_nonsense_under_every_name_is_an_empty_reading(text):
    for key in KEYS:
        assert read_metadata({key: text}).writer is None
        assert read_metadata({key: text, "fooocus_scheme": "fooocus"}).writer is None


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
INVOKEAI_2 = {"image": {"prompt": [{"prompt": "a boy [blurry]"}], "seed": 1, "sampler": "k_lms", "width": 8}}
SHAPES = {
    "invokeai_metadata": INVOKEAI,
    "sd-metadata": INVOKEAI_2,
    "parameters": SWARMUI,
    "prompt": COMFYUI | COMFYUI_IN_PARTS,
}


@settings(max_examples=300, deadline=None)
@given(
    key=st.sampled_from([*SHAPES, "fooocus"]),
    seed=st.integers(0, 2**32),
    junk=st.lists(json_values, min_size=1, max_size=3),
)
def test_values_of_any_type_in_any_place_do_no_harm(key, seed, junk):
    data = json.loads(json.dumps(SHAPES.get(key, FOOOCUS)))
    spoil(data, random.Random(seed), junk)
    read = read_metadata({"parameters" if key == "fooocus" else key: json.dumps(data)})
    assert PictureMetadata.from_json(read.to_json()) == read


def spoil(data, dice, junk):
    """Put junk in some places of plain JSON."""
    for key in data if isinstance(data, dict) else range(len(data)):
        if dice.random() < 0.15:
            data[key] = dice.choice(junk)
        elif isinstance(data[key], dict | list):
            spoil(data[key], dice, junk)


def test_a_graph_without_an_end_is_walked_once():
    graph = {
        str(index): {
            "class_type": "KSampler",
            "inputs": {"seed": 1, "steps": 1, "latent_image": [str((index + 1) % 150), 0], "positive": [str(index), 0]}
            | {f"more {other}": [str(other), 5] for other in range(150)},
        }
        for index in range(150)
    }
    graph["0"]["inputs"]["text"] = ["0", 0]
    assert read_metadata({"prompt": json.dumps(graph)}).seed == 1


def png_chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@pytest.mark.parametrize(
    "chunk",
    [
        png_chunk(b"zTXt", b"parameters\0\0" + zlib.compress(b"a" * 2**28)),
        png_chunk(b"iTXt", b"parameters\0\1\0\0\0" + zlib.compress(b"a" * 2**28)),
        png_chunk(b"tEXt", b"parameters\0" + b"a" * (9 * 2**20)),
        png_chunk(b"tEXt", b'imagelab\0{"chunk_version": 2}'),
        png_chunk(b"tEXt", b"imagelab\0" + b"[" * 100_000),
    ],
    ids=["zTXt bomb", "iTXt bomb", "huge tEXt", "incomplete chunk", "deep chunk"],
)
def test_a_text_chunk_that_means_harm_is_one_clear_error(picture, tmp_path, chunk):
    picture.save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(content[:33] + chunk + content[33:])  # behind the header
    with pytest.raises(ImageFileError, match=r"a\.png: (is damaged|carries)"):
        read_picture_metadata(tmp_path / "a.png")


def test_text_behind_the_pixels_and_in_moving_pictures_is_read(picture, tmp_path):
    picture.save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(
        content[:-12] + png_chunk(b"tEXt", b"parameters\0" + OLD_A1111.encode()) + content[-12:]
    )
    assert read_picture_metadata(tmp_path / "a.png").steps == 20
    info = PngImagePlugin.PngInfo()
    info.add_text("parameters", OLD_A1111)
    picture.save(tmp_path / "b.png", save_all=True, append_images=[picture.rotate(90)], pnginfo=info)
    assert read_picture_metadata(tmp_path / "b.png").steps == 20
