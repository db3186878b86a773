"""A picture file is read once, and what can't be read says so."""

import hashlib
import os

import numpy as np
import pytest
from PIL import Image

from imagelab.errors import ImageFileError
from imagelab.picture_files import PictureReading, list_pictures
from imagelab.rgb import to_rgb


def reading(path, **given):
    (file,) = list_pictures([path]).files
    return PictureReading(file, **given)


@pytest.fixture
def turned(tmp_path):
    """A JPEG that its EXIF turns."""
    path = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.linear_gradient("L").crop((0, 0, 60, 90)).save(path, exif=exif)
    return path


def test_what_is_decoded_and_hashed_is_the_file(turned):
    one = reading(turned)
    assert np.array_equal(one.decode(), to_rgb(turned))
    assert one.sha256 == hashlib.sha256(turned.read_bytes()).hexdigest()
    assert one.pixels is None


def test_pixels_are_kept_on_request(turned):
    one = reading(turned, keep_pixels=True)
    assert one.decode() is one.pixels


@pytest.mark.parametrize("content", [b"", b"not a picture", b"\x89PNG\r\n\x1a\n"])
def test_a_file_that_is_no_picture_has_a_hash_all_the_same(tmp_path, content):
    path = tmp_path / "a.png"
    path.write_bytes(content)
    one = reading(path)
    with pytest.raises(ImageFileError, match=r"a\.png"):
        one.decode()
    assert one.sha256 == hashlib.sha256(content).hexdigest()


def test_what_cannot_be_read_is_not_waited_for_and_has_no_hash(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "huge.png").touch()
    os.truncate(tmp_path / "huge.png", 2**30 + 1)  # a hole: it takes no space
    for name, said in (
        ("pipe.png", "isn't a file"),
        ("folder.png", "isn't a file"),
        ("gone.png", "doesn't exist"),
        ("huge.png", "is larger than 1024 MiB"),
    ):
        one = reading(tmp_path / name)
        with pytest.raises(ImageFileError, match=said):
            one.decode()
        assert one.sha256 is None
