"""A file is read once, until it is another one."""

import os

import pytest

from imagelab.read_once import read_once


@pytest.fixture
def reads():
    return []


@pytest.fixture
def text(reads):
    @read_once
    def text(path):
        reads.append(path)
        return path.read_text(encoding="utf-8")

    return text


def test_file_is_read_again_once_it_was_written_to_or_replaced(text, reads, tmp_path):
    path = tmp_path / "a"
    path.write_text("one")
    assert [text(path), text(path)] == ["one", "one"]
    stat = path.stat()
    path.write_text("longer")
    assert text(path) == "longer"
    (tmp_path / "b").write_text("two")
    os.utime(tmp_path / "b", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    path.write_text("one")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    text(path)
    (tmp_path / "b").replace(path)  # of the same size and time, and yet another file

    assert text(path) == "two"
    assert reads == [path] * 3


def test_what_reading_raises_is_raised_each_time(text, reads, tmp_path):
    for _ in range(2):
        with pytest.raises(FileNotFoundError):
            text(tmp_path / "none")

    assert len(reads) == 2
