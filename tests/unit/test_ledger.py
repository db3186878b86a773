"""The ledger: what was appended is there, whatever happened next."""

import errno
import json
import os
import shutil
import zlib
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imagelab.errors import RunFolderError
from imagelab.runs import Ledger, read_ledger

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
RECORDS = st.lists(st.dictionaries(st.text(), JSON, max_size=4), max_size=5)


def write(path, records):
    with Ledger(path) as ledger:
        for record in records:
            ledger.append(record)


@settings(max_examples=30, deadline=None)  # each record is synced
@given(records=RECORDS)
def test_any_records_come_back_as_they_were_appended(tmp_path_factory, records):
    path = tmp_path_factory.mktemp("run") / "ledger.jsonl"
    write(path, records)
    with Ledger(path) as ledger:
        assert ledger.records == records
    assert [json.loads(line)["record"] for line in path.read_text().splitlines()] == records


def test_a_ledger_cut_at_any_byte_is_a_prefix_and_goes_on(tmp_path, record_property):
    """A3 and J5: a torn tail, at every byte."""
    path = tmp_path / "ledger.jsonl"
    records = [{"n": number, "scene": "Ünïcode \n\r{}"} for number in range(4)]
    write(path, records)
    whole = path.read_bytes()
    ends = [index + 1 for index, byte in enumerate(whole) if byte == ord("\n")]
    for size in range(len(whole) + 1):
        path.write_bytes(whole[:size])
        expected = records[: sum(end <= size for end in ends)]
        assert read_ledger(path) == expected
        write(path, [{"n": "next"}])
        torn = whole[max((end for end in ends if end <= size), default=0) : size]
        assert [kept.read_bytes() for kept in tmp_path.glob("set_aside/*-ledger.jsonl")] == [torn] * bool(torn)
        shutil.rmtree(tmp_path / "set_aside", ignore_errors=True)
        assert read_ledger(path) == [*expected, {"n": "next"}]
    record_property("counted", f"0 of {len(whole) + 1} cuts lost a whole line or broke the file")


@pytest.mark.parametrize("harm", ["all but one", "the last one", "a blank line", "Windows' ends of lines"])
def test_whole_lines_that_are_damaged_are_an_error_and_stay_where_they_are(tmp_path, harm):
    """No crash leaves a line with its end that is damaged: whoever did can have it undone."""
    path = tmp_path / "ledger.jsonl"
    write(path, [{"n": 1}, {"n": 2}, {"n": 3}])
    first, second, third = path.read_bytes().splitlines(keepends=True)
    texts = {
        "all but one": (2, first + second.replace(b"n", b"m") + third.replace(b"n", b"m")),
        "the last one": (3, first + second + third.replace(b"n", b"m")),
        "a blank line": (4, first + second + third + b"\n"),
        "Windows' ends of lines": (1, b"".join((first, second, third)).replace(b"\n", b"\r\n")),
    }
    line, text = texts[harm]
    path.write_bytes(text)
    for opened in (Ledger, read_ledger):
        with pytest.raises(RunFolderError, match=rf"ledger\.jsonl: line {line} is damaged"):
            opened(path)
    assert path.read_bytes() == text


def test_a_flipped_bit_before_the_last_line_is_an_error_that_names_the_line(tmp_path, record_property):
    path = tmp_path / "ledger.jsonl"
    write(path, [{"n": 1}, {"n": 2}, {"n": 3}])
    whole = path.read_bytes()
    second = range(whole.index(b"\n") + 1, whole.index(b"\n", whole.index(b"\n") + 1))
    for place in second:
        for bit in range(8):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :])
            for opened in (Ledger, read_ledger):
                with pytest.raises(RunFolderError, match=r"ledger\.jsonl: line 2 is damaged"):
                    opened(path)
    record_property("counted", f"0 of {8 * len(second)} flipped bits went unnoticed")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
@pytest.mark.parametrize("call", ["write", "fsync"])
def test_a_record_that_cannot_be_written_leaves_nothing_of_it(tmp_path, monkeypatch, call, number):
    """B2 and B4: the system refuses to write or to sync a line."""
    path = tmp_path / "ledger.jsonl"
    with Ledger(path) as ledger:
        ledger.append({"n": 1})
        whole = path.read_bytes()

        def refuse(*_):
            raise OSError(number, os.strerror(number))

        with monkeypatch.context() as broken:
            broken.setattr(os, call, refuse)
            with pytest.raises(OSError, match=os.strerror(number)):
                ledger.append({"n": 2})
        assert path.read_bytes() == whole
        ledger.append({"n": 3})
    assert read_ledger(path) == [{"n": 1}, {"n": 3}]


def test_half_a_line_is_undone(tmp_path, monkeypatch):
    """B4: a short write."""
    path = tmp_path / "ledger.jsonl"
    whole_write = os.write
    with Ledger(path) as ledger:
        ledger.append({"n": 1})
        with monkeypatch.context() as broken:
            broken.setattr(os, "write", lambda descriptor, data: whole_write(descriptor, data[: len(data) // 2]))
            with pytest.raises(OSError, match="No space left"):
                ledger.append({"n": 2})
        ledger.append({"n": 3})
    assert read_ledger(path) == [{"n": 1}, {"n": 3}]


def test_an_interrupt_while_a_line_is_written_leaves_a_ledger_that_goes_on(tmp_path, monkeypatch):
    """A8: Ctrl-C during an append."""
    path = tmp_path / "ledger.jsonl"
    write(path, [{"n": 1}])

    def interrupt(_):
        raise KeyboardInterrupt

    with Ledger(path) as ledger, monkeypatch.context() as stopped:
        stopped.setattr(os, "fsync", interrupt)
        with pytest.raises(KeyboardInterrupt):
            ledger.append({"n": 2})
    write(path, [{"n": 3}])
    assert read_ledger(path) == [{"n": 1}, {"n": 3}]


def test_a_ledger_that_was_moved_away_takes_no_more_records(tmp_path):
    """B6: the folder is renamed, or another file takes its place."""
    folder = tmp_path / "run"
    folder.mkdir()
    with Ledger(folder / "ledger.jsonl") as ledger:
        ledger.append({"n": 1})
        folder.rename(tmp_path / "elsewhere")
        with pytest.raises(FileNotFoundError):
            ledger.append({"n": 2})
        folder.mkdir()
        (folder / "ledger.jsonl").touch()
        with pytest.raises(FileNotFoundError, match="moved or removed"):
            ledger.append({"n": 2})
    assert read_ledger(tmp_path / "elsewhere" / "ledger.jsonl") == [{"n": 1}]


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_what_is_no_file_is_refused_and_never_waited_for(tmp_path, kind):
    """B7: a link, a FIFO or a folder where the ledger should be."""
    path = tmp_path / "ledger.jsonl"
    (tmp_path / "precious").write_text("precious")
    make = {
        "link": lambda: path.symlink_to(tmp_path / "precious"),
        "pipe": lambda: os.mkfifo(path),
        "folder": path.mkdir,
    }
    make[kind]()
    with pytest.raises((OSError, RunFolderError)):
        Ledger(path)
    assert (tmp_path / "precious").read_text() == "precious"


def test_a_reader_never_sees_a_torn_record(tmp_path, record_property):
    """C4: reads while a writer appends."""
    path = tmp_path / "ledger.jsonl"
    count = 500
    with ThreadPoolExecutor(1) as writer, Ledger(path) as ledger:
        job = writer.submit(lambda: [ledger.append({"n": number, "text": "x" * 300}) for number in range(count)])
        reads = []
        while not job.done():
            reads.append(len(read_ledger(path)))
            assert [record["n"] for record in read_ledger(path)[: reads[-1]]] == list(range(reads[-1]))
        job.result()
    assert reads == sorted(reads)
    record_property("counted", f"0 of {len(reads)} reads saw a torn record")


def test_ten_thousand_records_open_in_less_than_two_seconds(tmp_path, record_property):
    path = tmp_path / "ledger.jsonl"
    write(path, [{"job": "0" * 64, "item": {"index": 0, "reason": "below the threshold", "score": 0.123456789}}])
    path.write_bytes(path.read_bytes() * 10_000)
    clock = perf_counter()
    with Ledger(path) as ledger:
        assert len(ledger.records) == 10_000
    seconds = perf_counter() - clock
    record_property("counted", f"10,000 records open in {seconds:.3f} s")
    assert seconds < 2


@pytest.mark.parametrize("body", [b'{"a":' * 90_000 + b"}" * 90_000, b"{NaN}", b'{"a":1e999}', b'{"\xff":1}'])
def test_a_line_that_is_no_json_is_damaged_though_its_checksum_is_right(tmp_path, body):
    path = tmp_path / "ledger.jsonl"
    path.write_bytes(b'{"crc32":"%08x","record":%b}\n' % (zlib.crc32(body), body))
    for opened in (Ledger, read_ledger):
        with pytest.raises(RunFolderError, match=r"ledger\.jsonl: line 1 is damaged"):
            opened(path)
