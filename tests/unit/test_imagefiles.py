"""Picture files: whole or not there, with their record; never trusted."""

import io
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin
from test_results import RECORD

from imagelab import ImageFileError, InvalidValueError
from imagelab.imagefiles import (
    check_png_path,
    checked_path,
    open_image,
    perceptual_hash,
    read_record,
    save_png,
    upright_rgb,
)


@pytest.fixture
def picture():
    return Image.radial_gradient("L").crop((10, 40, 170, 160)).resize((64, 48)).rotate(20).convert("RGB")


def test_a_picture_and_its_record_come_back_equal(picture, tmp_path):
    path = save_png(picture, tmp_path / "new" / "a.png", RECORD)
    assert open_image(path).tobytes() == picture.tobytes()
    assert read_record(path) == RECORD
    assert read_record(path).seconds == RECORD.seconds
    assert [entry.name for entry in path.parent.iterdir()] == ["a.png"]


def test_the_record_is_plain_ascii_text_for_every_reader(picture, tmp_path):
    path = save_png(picture, tmp_path / "a.png", RECORD)
    assert b"tEXtimagelab\0{" in path.read_bytes()
    with Image.open(path) as image:
        assert image.text["imagelab"].isascii()


class Interrupted(Image.Image):
    """A picture whose saving ends half-way."""

    def __init__(self, error):
        super().__init__()
        self.error = error

    def save(self, stream, **_):
        stream.write(b"\x89PNG half a picture")
        raise self.error


@pytest.mark.parametrize(
    ("error", "seen"),
    [(OSError(28, "No space left on device"), ImageFileError), (KeyboardInterrupt(), KeyboardInterrupt)],
)
def test_a_write_that_fails_leaves_what_was_there_and_nothing_else(picture, tmp_path, error, seen):
    path = save_png(picture, tmp_path / "a.png", RECORD)
    before = path.read_bytes()
    with pytest.raises(seen):
        save_png(Interrupted(error), path, RECORD)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.png"]


def test_a_write_that_fails_says_where_and_why(tmp_path):
    with pytest.raises(ImageFileError, match="No space left") as failure:
        save_png(Interrupted(OSError(28, "No space left on device")), tmp_path / "a.png")
    assert str(tmp_path / "a.png") in str(failure.value)


def test_only_a_full_disk_is_to_be_given_space(tmp_path):
    for error, fix in (
        (OSError(28, "No space left on device"), "Free some space"),
        (OSError(5, "I/O"), "another path"),
    ):
        with pytest.raises(ImageFileError, match=fix):
            save_png(Interrupted(error), tmp_path / "a.png")


@pytest.mark.parametrize("name", ["a.jpg", "a", "a.png.txt", "."])
def test_only_png_names_are_written(picture, tmp_path, name):
    with pytest.raises(InvalidValueError, match="output_path"):
        save_png(picture, tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_path_below_a_file_or_of_a_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.png").mkdir()
    for path in (tmp_path / "file" / "a.png", tmp_path / "folder.png"):
        with pytest.raises(InvalidValueError, match="output_path"):
            check_png_path(path)
    assert check_png_path(str(tmp_path / "not" / "yet" / "a.png")) == tmp_path / "not" / "yet" / "a.png"
    assert not (tmp_path / "not").exists()


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (5, "a path, got 5"),
        (None, "a path, got None"),
        (b"a.png", "a path, got b'a.png'"),
        ("a\0b.png", "NUL"),
        ("a\ud800.png", "characters"),
        ("x" * 300 + ".png", "255 in each part"),
        ("é" * 126 + ".png", "255 in each part"),
        ("not_yet/" + "x" * 300 + "/a.png", "255 in each part"),
        ("d/" * 2100 + "a.png", "at most 4095 bytes"),
    ],
)
def test_a_path_that_no_file_can_have_is_refused_by_its_arguments_name(bad, words):
    for check in (check_png_path, checked_path):
        with pytest.raises(InvalidValueError, match=f"where must be .*{words}"):
            check(bad, "where")


def test_a_path_with_the_longest_name_there_is_can_be_written(picture, tmp_path):
    assert save_png(picture, tmp_path / ("é" * 125 + "x.png")).is_file()


def test_a_name_in_another_encoding_is_a_path():
    name = os.fsdecode(b"caf\xe9.png")
    assert checked_path(name, "where").name == name


def refused(path, words):
    with pytest.raises(ImageFileError, match=words) as refusal:
        open_image(path)
    assert str(path) in str(refusal.value)


def test_a_text_file_named_png_is_refused(tmp_path):
    path = tmp_path / "a.png"
    path.write_text("hello")
    refused(path, "isn't a PNG, JPEG or WebP")


def test_another_format_named_png_is_refused(picture, tmp_path):
    picture.save(tmp_path / "a.png", format="TIFF")
    refused(tmp_path / "a.png", "isn't a PNG, JPEG or WebP")


def test_a_missing_picture_and_a_folder_are_refused(tmp_path):
    refused(tmp_path / "a.png", "doesn't exist")
    refused(tmp_path, "isn't a file")
    refused(tmp_path / ("x" * 300), "can't be read: File name too long")
    refused(tmp_path / "a\0.png", "doesn't exist")


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
def test_a_truncated_picture_is_refused(picture, tmp_path, form):
    path = tmp_path / "a.png"
    picture.save(path, format=form)
    content = path.read_bytes()
    for share in (0.3, 0.6, 0.9):
        path.write_bytes(content[: int(len(content) * share)])
        refused(path, "damaged|isn't a PNG")


def test_a_decompression_bomb_is_refused(tmp_path):
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunks = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in ((b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b""))
    )
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)
    refused(tmp_path / "a.png", "pixels")


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "RGB"])
def test_every_mode_is_read_as_rgb_and_looks_the_same(picture, tmp_path, mode):
    form = {"format": "JPEG", "quality": 100} if mode == "CMYK" else {"format": "PNG"}
    (picture.quantize() if mode == "P" else picture.convert(mode)).save(tmp_path / "a", **form)
    image = open_image(tmp_path / "a")
    assert (image.mode, image.size) == ("RGB", picture.size)
    assert np.abs(np.asarray(image, int) - np.asarray(picture, int)).max() <= 6  # JPEG's rounding


def test_black_and_white_stay_black_and_white(tmp_path):
    stripes = np.tile([[0, 255]], (4, 2)).astype(np.uint8)
    Image.fromarray(stripes).convert("1").save(tmp_path / "a.png")
    assert np.array_equal(np.asarray(open_image(tmp_path / "a.png")), np.stack([stripes] * 3, axis=-1))


def test_16_bits_of_grey_become_8(tmp_path):
    levels = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    Image.fromarray(levels).save(tmp_path / "a.png")
    expected = np.stack([np.round(levels / 257)] * 3, axis=-1)
    assert np.array_equal(np.asarray(open_image(tmp_path / "a.png")), expected)
    assert np.array_equal(np.asarray(upright_rgb(Image.fromarray(levels))), expected)


def test_a_transparent_level_of_16_bits_is_white(tmp_path):
    Image.fromarray(np.array([[30 * 257, 40 * 257]], np.uint16)).save(tmp_path / "a.png", transparency=30 * 257)
    assert [open_image(tmp_path / "a.png").getpixel((x, 0)) for x in (0, 1)] == [(255,) * 3, (40,) * 3]


@pytest.mark.parametrize("mode", ["F", "I", "I;16B"])
def test_a_mode_without_black_and_white_is_refused_by_name(mode):
    with pytest.raises(InvalidValueError, match=f"RGB.*got 'mode {mode}'"):
        upright_rgb(Image.new(mode, (4, 4)))


def test_transparent_parts_are_white(tmp_path):
    Image.new("RGBA", (4, 4), (200, 0, 0, 0)).save(tmp_path / "a.png")
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 200, 0, 0])
    palette.save(tmp_path / "b.png", transparency=b"\xff\x00")
    for name in ("a.png", "b.png"):
        assert open_image(tmp_path / name).getpixel((1, 1)) == (255, 255, 255)


def test_a_turned_photograph_is_read_upright(picture, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by 90 degrees
    picture.save(tmp_path / "a.jpg", exif=exif)
    upright = open_image(tmp_path / "a.jpg")
    assert upright.size == picture.size[::-1]
    assert upright_rgb(upright).size == upright.size  # turned once


def exif_with_a_broken_tag():
    """Return EXIF of two tags: a turn by 90 degrees, and a description that lies behind its end."""
    turned, description = struct.pack("<HHII", 0x0112, 3, 1, 6), struct.pack("<HHII", 0x010E, 2, 255, 255)
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + turned + description + bytes(4)


def test_exif_that_is_broken_in_part_still_turns_a_photograph(picture, tmp_path):
    picture.save(tmp_path / "a.jpg", exif=exif_with_a_broken_tag())
    assert open_image(tmp_path / "a.jpg").size == picture.size[::-1]


def test_exif_that_is_no_exif_is_damage(picture, tmp_path):
    picture.save(tmp_path / "a.png", exif=b"Exif\0\0no such thing")
    refused(tmp_path / "a.png", "damaged")
    with Image.open(tmp_path / "a.png") as opened, pytest.raises(ImageFileError, match=r"a\.png: is damaged"):
        upright_rgb(opened)


def test_a_picture_that_pil_opened_and_cannot_read_on_is_damaged(picture):
    stream = io.BytesIO()
    picture.save(stream, format="PNG")
    with Image.open(io.BytesIO(stream.getvalue()[:200])) as opened, pytest.raises(ImageFileError, match="in memory"):
        upright_rgb(opened)


@pytest.mark.parametrize("text", [None, "", "{}", "[1]", '{"seed": NaN}', "not json"])
def test_a_picture_without_a_sound_record_says_so(picture, tmp_path, text):
    chunk = PngImagePlugin.PngInfo()
    if text is not None:
        chunk.add_text("imagelab", text)
    picture.save(tmp_path / "a.png", pnginfo=chunk)
    with pytest.raises(ImageFileError, match="record"):
        read_record(tmp_path / "a.png")


def test_a_jpeg_carries_no_record(picture, tmp_path):
    picture.save(tmp_path / "a.jpg")
    with pytest.raises(ImageFileError, match="no imagelab record"):
        read_record(tmp_path / "a.jpg")


def test_perceptual_hashes_are_near_for_what_looks_alike(picture):
    def distance(one, other):
        return (int(perceptual_hash(one), 16) ^ int(perceptual_hash(other), 16)).bit_count()

    assert len(perceptual_hash(picture)) == 16
    assert distance(picture, picture.resize((128, 96))) <= 4
    assert distance(picture, Image.linear_gradient("L").convert("RGB")) > 12
