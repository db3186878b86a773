"""A run's folder: killed, resumed, raced for, tampered with. The numbers are those of the project's fault matrix."""

import errno
import json
import os
import shutil
import time
from contextlib import suppress
from dataclasses import replace
from io import BufferedWriter, FileIO
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from forks import fork, wait_for
from handmade_runs import check, content, handmade_plan, paint, run
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from imagelab.errors import InvalidValueError, RunFolderError, RunStoppedError
from imagelab.runs import Ledger, RunFolder, claimed_folder, free_folder, pending_jobs, read_batch, read_ledger

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")  # it forks
STORAGE_CALLS = ("open", "write", "fsync", "replace", "rename", "unlink", "mkdir", "ftruncate")


@pytest.fixture
def tmp_path():
    """A folder in memory where there is one: these tests sync thousands of times."""
    memory = Path("/dev/shm")  # noqa: S108  below it a folder of our own
    with TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """What a run leaves that nothing has disturbed."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    check(folder, run(folder, handmade_plan()))
    return content(folder)


def at_call(number, do, monkeypatch):
    """Let `do` happen in place of the n-th storage call, or amid it; return a list whose length is how many there were.

    Files are written through Python's own streams, which don't call `os`: of what is written to one, half is on the
    disk when the call comes. Short writes, a number or a checksum, are as good as the end of those before.
    """
    calls = []

    def called(name):
        calls.append(name)
        if len(calls) == number:
            do()

    def wrapped(name, original):
        def call(*given, **options):
            called(name)
            return original(*given, **options)

        return call

    class Halving(BufferedWriter):
        def write(self, data):
            if len(data) < 64:
                return super().write(data)
            half = super().write(data[: len(data) // 2])
            self.flush()
            called("stream.write")
            return half + super().write(data[half:])

    open_path = Path.open

    def opened(path, mode="r", *given, **options):
        return Halving(FileIO(path, "x")) if mode == "xb" else open_path(path, mode, *given, **options)

    for name in STORAGE_CALLS:
        monkeypatch.setattr(os, name, wrapped(name, getattr(os, name)))
    monkeypatch.setattr(Path, "open", wrapped("Path.open", opened))
    return calls


def count_calls(folder, plan):
    with pytest.MonkeyPatch.context() as patch:
        calls = at_call(0, None, patch)
        run(folder, plan)
    # Within the text and the pixels of each of four pictures, and within the plan, the list and the page.
    assert calls.count("stream.write") >= 4 * 2 + 3
    return len(calls)


def test_a_crash_at_any_storage_call_loses_nothing(tmp_path, uninterrupted, record_property):
    """A2, A4, A5: the process ends in place of the n-th call, for every n; then the same run goes on."""
    points = count_calls(tmp_path / "counted", handmade_plan())

    def crash(number, folder):
        with pytest.MonkeyPatch.context() as patch:
            at_call(number, lambda: os._exit(9), patch)
            run(folder, handmade_plan())

    for number in range(1, points + 1):
        folder = tmp_path / str(number)
        assert wait_for(fork(lambda number=number, folder=folder: crash(number, folder))) == 9
        check(folder, run(folder, handmade_plan()))
        assert content(folder) == uninterrupted
        assert not list(folder.rglob("*.tmp"))
        shutil.rmtree(folder)
    record_property("counted", f"0 of {points} crash points lost, doubled, broke or changed a picture")


def test_a_crash_while_going_on_after_a_crash_loses_nothing(tmp_path, uninterrupted, record_property):
    """A6: two crashes, the second while the run goes on."""
    rng = np.random.default_rng(0)
    points = count_calls(tmp_path / "counted", handmade_plan())
    pairs = [tuple(rng.integers(1, points, 2)) for _ in range(40)]

    def crash(number, folder):
        with pytest.MonkeyPatch.context() as patch:
            at_call(number, lambda: os._exit(9), patch)
            run(folder, handmade_plan())

    for index, pair in enumerate(pairs):
        folder = tmp_path / str(index)
        for number in pair:
            wait_for(fork(lambda number=number, folder=folder: crash(number, folder)))
        check(folder, run(folder, handmade_plan()))
        assert content(folder) == uninterrupted
    record_property("counted", f"0 of {len(pairs)} pairs of crashes lost, doubled, broke or changed a picture")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
def test_a_refusal_at_any_storage_call_is_our_error_and_loses_nothing(tmp_path, uninterrupted, record_property, number):
    """B1, B2, B4: the system refuses the n-th call, for every n; the error is ours, and the same run goes on."""
    points = count_calls(tmp_path / "counted", handmade_plan())

    def refuse():
        raise OSError(number, os.strerror(number))

    for point in range(1, points + 1):
        folder = tmp_path / str(point)
        with pytest.MonkeyPatch.context() as patch:
            at_call(point, refuse, patch)
            try:
                run(folder, handmade_plan())
            except (RunFolderError, InvalidValueError) as error:
                assert os.strerror(number) in str(error)  # noqa: PT017  some calls may fail without harm
        check(folder, run(folder, handmade_plan()))
        assert content(folder) == uninterrupted
    record_property("counted", f"0 of {points} refusals ({errno.errorcode[number]}) lost or changed a picture")


def test_an_interrupt_at_any_storage_call_loses_nothing(tmp_path, uninterrupted, record_property):
    """A8: Ctrl-C in place of the n-th call, for every n, while a picture or a line is written included."""
    points = count_calls(tmp_path / "counted", handmade_plan())

    def interrupt():
        raise KeyboardInterrupt

    for point in range(1, points + 1):
        folder = tmp_path / str(point)
        with pytest.MonkeyPatch.context() as patch:
            at_call(point, interrupt, patch)
            with pytest.raises(KeyboardInterrupt):
                run(folder, handmade_plan())
        check(folder, run(folder, handmade_plan()))
        assert content(folder) == uninterrupted
    record_property("counted", f"0 of {points} interrupts lost or changed a picture")


def test_a_power_cut_that_takes_whatever_was_not_synced_loses_nothing(tmp_path, uninterrupted, record_property):
    """A9: after each sync, the disk as it is at worst: file contents and names as of their last sync."""
    root = tmp_path / "disk"
    root.mkdir()
    contents, names, disks = {}, {}, []
    sync = os.fsync

    def synced(descriptor):
        sync(descriptor)
        place = Path(f"/proc/self/fd/{descriptor}").readlink()
        inode = os.fstat(descriptor).st_ino
        if place.is_dir():
            names[inode] = {path.name: (path.stat().st_ino, path.is_dir()) for path in place.iterdir()}
        else:
            contents[inode] = place.read_bytes()
        disks.append((dict(contents), dict(names)))

    def restore(inode, target, disk):
        target.mkdir()
        for name, (child, is_folder) in disk[1].get(inode, {}).items():
            if is_folder:
                restore(child, target / name, disk)
            else:
                (target / name).write_bytes(disk[0].get(child, b""))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", synced)
        run(root / "run", handmade_plan())
    told = 0
    for number, disk in enumerate(disks):
        after = tmp_path / str(number)
        restore(root.stat().st_ino, after, disk)
        there = read_batch(after / "run").items if (after / "run" / "plan.json").exists() else ()
        assert len(there) >= told, "what the ledger told of is still there"
        told = len(there)
        check(after / "run", run(after / "run", handmade_plan()))
        assert content(after / "run") == uninterrupted
    assert told == 5
    record_property("counted", f"0 of {len(disks)} power cuts lost a picture that was told of")


@given(stops=st.lists(st.integers(0, 3), max_size=6), order=st.permutations(range(5)))
@settings(max_examples=25, deadline=None)
def test_any_stops_and_any_order_end_as_an_uninterrupted_run(tmp_path_factory, uninterrupted, stops, order):
    """J4 and F10: some jobs are done, the run stops, and so on; the last ones come in any order."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    for at_most in stops:
        result = run(folder, handmade_plan(), at_most=at_most)
        assert sum(result.counts.values()) == result.requested == 5
    with RunFolder(folder, handmade_plan()) as opened:
        pending = {job.index: job for job in opened.pending_jobs()}
        for index in order:
            if index in pending:
                opened.commit(pending[index], *paint(pending[index]), 0.1)
    assert content(folder) == uninterrupted


@pytest.mark.parametrize(
    ("now", "said"),
    [
        ({"scene": "at home"}, "prompt was 'luca on the beach', is 'luca at home'"),
        ({"count": 6}, "num_images was 5, is 6"),
        ({"until": 3}, "until_accepted was None, is 3"),
        ({"at_once": 4}, "determinism was 'strict', is 'fast, 4 at once'"),
        ({"loras": {"luca": {"weight": 0.5}}}, r"loras\.luca\.weight was None, is 0\.5"),
    ],
)
def test_changed_parameters_are_refused_with_what_has_changed(tmp_path, uninterrupted, now, said):
    """A10."""
    run(tmp_path / "run", handmade_plan(), at_most=2)
    with pytest.raises(InvalidValueError, match=said):
        run(tmp_path / "run", handmade_plan(**now))
    run(tmp_path / "run", handmade_plan())
    assert content(tmp_path / "run") == uninterrupted


def test_another_environment_is_refused_with_what_is_another_there(tmp_path):
    """A12: other versions or another number of threads may give other bits."""
    run(tmp_path / "run", handmade_plan(), at_most=2)
    elsewhere = handmade_plan()
    elsewhere.environment.update(threads=8, versions={"torch": "2.15"})
    with pytest.raises(InvalidValueError, match=r"with OMP_NUM_THREADS=1, since other machines") as caught:
        run(tmp_path / "run", elsewhere)
    assert caught.value.changes == (
        "environment.threads was 1, is 8",
        "environment.versions.torch was '2.13', is '2.15'",
    )


def test_of_many_changes_five_are_shown_a_line_each_with_short_hashes(tmp_path):
    """The weights of SDXL alone are dozens of files."""

    def plan(digit):
        return handmade_plan(model_sha256={f"unet/{number}.safetensors": digit * 64 for number in range(60)})

    run(tmp_path / "run", plan("a"), at_most=1)
    with pytest.raises(InvalidValueError) as caught:
        run(tmp_path / "run", plan("b"))
    first, *lines, last = str(caught.value).splitlines()
    assert first.endswith("its run and this call differ:")
    assert lines[0] == "  model_sha256.unet/0.safetensors was 'aaaaaaaa…', is 'bbbbbbbb…'"
    assert lines[5:] == ["  and 55 more"]
    assert last == "The call that began it goes on with it; choose another folder for this one"
    assert len(caught.value.changes) == 60


def test_more_pictures_at_most_are_named_as_the_option_is(tmp_path):
    run(tmp_path / "run", handmade_plan(count=6, until=5), at_most=1)
    with pytest.raises(InvalidValueError, match="max_images was 6, is 12"):
        run(tmp_path / "run", handmade_plan(count=12, until=5))


@pytest.mark.parametrize(
    "harm", ["removed", "truncated", "flipped", "linked", "linked hard", "replaced by a folder", "replaced by a pipe"]
)
def test_a_picture_that_was_harmed_is_drawn_again_and_the_harmed_one_kept(tmp_path, uninterrupted, harm):
    """A11, B7."""
    folder = tmp_path / "run"
    result = run(folder, handmade_plan())
    path = folder / result.items[0].path
    others = {
        other: (other.stat().st_mtime_ns, other.read_bytes()) for other in folder.glob("*/*.png") if other != path
    }
    data = path.read_bytes()
    path.unlink()
    if harm == "truncated":
        path.write_bytes(data[:100])
    elif harm == "flipped":
        path.write_bytes(data[:200] + bytes([data[200] ^ 1]) + data[201:])
    elif harm == "linked":
        (tmp_path / "canary").write_text("precious")
        path.symlink_to(tmp_path / "canary")
    elif harm == "linked hard":
        (tmp_path / "canary").write_text("precious")
        os.link(tmp_path / "canary", path)
    elif harm == "replaced by a folder":
        path.mkdir()
    elif harm == "replaced by a pipe":
        os.mkfifo(path)
    assert run(folder, handmade_plan(), at_most=0).pending == 1
    run(folder, handmade_plan())
    kept = list((folder / "set_aside").iterdir()) if harm != "removed" else []
    assert len(kept) == (harm != "removed")
    for one in kept:
        one.rmdir() if one.is_dir() and not one.is_symlink() else one.unlink()
    assert content(folder) == uninterrupted
    assert {other: (other.stat().st_mtime_ns, other.read_bytes()) for other in others} == others, "finished work stays"
    if "linked" in harm:
        assert (tmp_path / "canary").read_text() == "precious"


def test_a_bit_that_flips_under_the_old_time_is_found_when_every_picture_is_read(tmp_path, uninterrupted):
    """As a disk harms a file, or `touch -r` hides it: the size and the time of change are as they were."""
    folder = tmp_path / "run"
    path = folder / run(folder, handmade_plan()).items[0].path
    data, found = path.read_bytes(), path.stat()
    harmed = data[:200] + bytes([data[200] ^ 1]) + data[201:]
    path.write_bytes(harmed)
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
    run(folder, handmade_plan())
    assert path.read_bytes() == harmed, "pictures aren't read unless that is asked for: there may be ten thousand"
    run(folder, handmade_plan(), verify=True)
    (kept,) = (folder / "set_aside").iterdir()
    assert kept.read_bytes() == harmed
    kept.unlink()
    assert content(folder) == uninterrupted
    run(folder, handmade_plan(), verify=True, draw=None)  # all are as they were drawn, and none is drawn


def test_the_metadata_has_a_line_for_each_picture(tmp_path):
    result = run(tmp_path / "run", handmade_plan())
    lines = (tmp_path / "run" / "metadata.json").read_text().splitlines()
    told = [json.loads(line.strip().rstrip(",")) for line in lines if '"index": ' in line]

    assert told == [item.to_dict() for item in result.items]


def test_a_folder_that_was_copied_goes_on_as_it_is(tmp_path, uninterrupted):
    """A copy's pictures have other times of change; they are read, and found to be the same."""
    run(tmp_path / "run", handmade_plan())
    shutil.copytree(tmp_path / "run", tmp_path / "copy", copy_function=shutil.copyfile)
    assert run(tmp_path / "copy", handmade_plan(), draw=None).pending == 0
    assert content(tmp_path / "copy") == uninterrupted


def test_failed_pictures_stay_failed_until_they_are_asked_for_again(tmp_path, uninterrupted):
    assert run(tmp_path / "run", handmade_plan()).counts["failed"] == 1
    drawn = []

    def draw(job):
        drawn.append(job.seed)
        return paint(job)

    run(tmp_path / "run", handmade_plan(), draw=draw)
    assert drawn == []
    run(tmp_path / "run", handmade_plan(), draw=draw, retry_failed=True)
    assert len(drawn) == 1
    assert content(tmp_path / "run") == uninterrupted


def test_a_picture_that_came_out_otherwise_when_it_was_drawn_again_is_not_drawn_a_third_time(tmp_path):
    """Of a picture that is gone another one is drawn, with other last bits as in fast mode: that one counts now."""
    folder, drawn = tmp_path / "run", []

    def draw_otherwise(job):
        drawn.append(job.index)
        item, generation = paint(job)
        pixels = np.asarray(generation.image).copy()
        pixels[0, 0, 0] ^= 1
        return item, replace(generation, image=Image.fromarray(pixels))

    (folder / run(folder, handmade_plan()).items[0].path).unlink()
    for _ in range(3):
        check(folder, run(folder, handmade_plan(), draw=draw_otherwise))
    assert drawn == [0]
    assert not (folder / "set_aside").exists()
    assert len(read_ledger(folder / "ledger.jsonl")) == 6


def test_a_run_that_has_enough_draws_again_what_is_missing_of_it_and_nothing_else(tmp_path):
    """A picture that was rejected before the third accepted one has a score, which counts as well."""
    folder, plan = tmp_path / "run", handmade_plan(count=10, until=3)
    before = run(folder, plan)
    whole = content(folder)
    counts = {"accepted": 3, "rejected": 1, "unscorable": 1, "failed": 1, "pending": 0}
    assert before.counts == counts
    rejected = next(item for item in before.items if item.status == "rejected")
    (folder / rejected.path).unlink()
    for result in (read_batch(folder), run(folder, plan, at_most=0)):
        assert result.counts == counts | {"rejected": 0, "pending": 1}
    check(folder, run(folder, plan))
    assert content(folder) == whole


def test_failed_pictures_of_a_run_that_has_enough_are_drawn_again_if_that_is_asked_for(tmp_path):
    folder, plan = tmp_path / "run", handmade_plan(count=10, until=3)
    before, drawn = run(folder, plan), []

    def draw(job):
        drawn.append(job.index)
        return paint(job)

    again = run(folder, plan, retry_failed=True, draw=draw)
    assert drawn == [item.index for item in before.items if item.status == "failed"]
    assert again.counts == before.counts == read_batch(folder).counts


@pytest.mark.parametrize("state", ["none", "begun", "ended", "harmed", "failed"])
def test_what_is_left_is_known_without_writing_anything(tmp_path, state):
    folder, plan, options = tmp_path / "run", handmade_plan(), {"retry_failed": state == "failed"}
    if state != "none":
        items = run(folder, plan, at_most=2 if state == "begun" else None).items
    if state == "harmed":
        (folder / items[0].path).write_bytes(b"not that picture")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    left = pending_jobs(folder, plan, **options)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    assert len(left) == {"none": 5, "begun": 3, "ended": 0, "harmed": 1, "failed": 1}[state]
    with RunFolder(folder, plan, **options) as opened:
        assert opened.pending_jobs() == left


def test_what_is_left_of_another_run_or_a_folder_of_somebody_else_is_refused(tmp_path):
    run(tmp_path / "run", handmade_plan())
    with pytest.raises(InvalidValueError, match="num_images was 5, is 6"):
        pending_jobs(tmp_path / "run", handmade_plan(count=6))
    (tmp_path / "index.html").write_text("mine")
    with pytest.raises(InvalidValueError, match=r"there is index\.html"):
        pending_jobs(tmp_path, handmade_plan())


@given(until=st.integers(1, 8), count=st.integers(8, 30), stop=st.integers(0, 30))
@settings(max_examples=25, deadline=None)
def test_every_picture_is_accounted_for_wherever_a_run_stops(tmp_path_factory, until, count, stop):
    """I3: requested = accepted + rejected + unscorable + failed + pending, until enough are accepted or all drawn."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    plan = handmade_plan(count=count, until=until)
    for result in (run(folder, plan, at_most=stop), run(folder, plan)):
        assert sum(result.counts.values()) == result.requested <= count
        assert min(result.counts.values()) >= 0
        assert result.total_accepted <= until
        assert set(result.accepted_scores) <= set(result.consistency_scores)
    assert result.pending == 0
    assert result.total_accepted == until or result.requested == count
    if result.total_accepted == until:
        assert result.items[-1].status == "accepted", "it stops with the picture that was enough"


@pytest.fixture
def small(tmp_path):
    """A file system of 64 KiB."""
    small = tmp_path / "small"
    small.mkdir()
    if os.system(f"mount -t tmpfs -o size=64k tmpfs {small} 2>/dev/null"):  # noqa: S605  a path of ours
        pytest.skip("mounting needs root")
    yield small
    os.system(f"umount {small}")  # noqa: S605


def fill(disk):
    """Leave no space on a disk; return the file to be removed for there to be some."""
    ballast = disk / "ballast"
    with suppress(OSError), ballast.open("wb", buffering=0) as stream:
        while True:
            stream.write(b"0" * 4096)
    return ballast


def snapshot(folder):
    return {path: (path.lstat().st_ino, path.lstat().st_mtime_ns) for path in folder.rglob("*")}


def test_a_full_disk_is_our_error_and_the_run_goes_on_when_there_is_space(small, uninterrupted):
    """B1: the pictures fill it."""
    (small / "ballast").write_bytes(b"0" * 32_768)
    with pytest.raises((RunFolderError, InvalidValueError), match="No space left"):
        run(small / "run", handmade_plan())
    (small / "ballast").unlink()
    run(small / "run", handmade_plan())
    assert content(small / "run") == uninterrupted


def test_going_on_with_a_run_on_a_full_disk_stops_it_as_the_disk_did_before(small, uninterrupted):
    """B1: whoever tries again before there is space is told the same, and to try again."""
    run(small / "run", handmade_plan(), at_most=2)
    ballast = fill(small)
    with pytest.raises(RunStoppedError, match=r"No space left.*the same call then goes on"):
        run(small / "run", handmade_plan())
    ballast.unlink()
    run(small / "run", handmade_plan())
    assert content(small / "run") == uninterrupted


def test_a_run_that_has_ended_is_only_read_also_where_nothing_can_be_written(small, uninterrupted):
    """B1, B5: on a full disk, and on one that is read-only."""
    result = run(small / "run", handmade_plan())
    ballast = fill(small)
    before = snapshot(small)
    assert run(free_folder(small / "run", "luca"), handmade_plan(), draw=None) == result
    os.system(f"mount -o remount,ro {small}")  # noqa: S605
    assert run(free_folder(small / "run", "luca"), handmade_plan(), draw=None) == result
    assert pending_jobs(small / "run", handmade_plan()) == ()
    with pytest.raises(InvalidValueError, match="num_images"):
        run(small / "run", handmade_plan(count=6))
    os.system(f"mount -o remount,rw {small}")  # noqa: S605
    assert snapshot(small) == before
    ballast.unlink()
    assert content(small / "run") == uninterrupted


def test_of_a_run_on_a_read_only_disk_it_is_known_what_is_left_and_it_is_not_drawn(small):
    """B5: a dry run writes nothing, and so needs nothing that can be written."""
    run(small / "run", handmade_plan(), at_most=2)
    os.system(f"mount -o remount,ro {small}")  # noqa: S605
    assert len(pending_jobs(small / "run", handmade_plan())) == 3
    assert len(pending_jobs(small / "new", handmade_plan())) == 5
    for folder in ("run", "new"):
        with pytest.raises(InvalidValueError, match=r"output_dir.*can be written \(Read-only file system"):
            run(small / folder, handmade_plan())
    with pytest.raises(InvalidValueError, match=r"output_dir.*can be written"):
        free_folder(small / "new", "luca")


@pytest.mark.parametrize("name", ["metadata.json", "index.html"])
def test_what_a_run_that_has_ended_tells_of_itself_is_written_again_where_it_is_gone_and_else_left(tmp_path, name):
    run(tmp_path / "run", handmade_plan())
    whole, before = content(tmp_path / "run"), snapshot(tmp_path)
    run(tmp_path / "run", handmade_plan(), draw=None)
    assert snapshot(tmp_path) == before
    (tmp_path / "run" / name).unlink()
    run(tmp_path / "run", handmade_plan(), draw=None)
    assert content(tmp_path / "run") == whole


@pytest.mark.parametrize("place", ["a file", "below a file", "a pipe", "/dev/full", "/proc/nowhere"])
def test_what_is_no_folder_is_refused(tmp_path, place):
    """B5, B7."""
    (tmp_path / "file").write_text("precious")
    os.mkfifo(tmp_path / "pipe")
    places = {"a file": tmp_path / "file", "below a file": tmp_path / "file" / "run", "a pipe": tmp_path / "pipe"}
    with pytest.raises(InvalidValueError, match="output_dir"):
        run(places.get(place, Path(place)), handmade_plan())
    assert (tmp_path / "file").read_text() == "precious"


@pytest.mark.parametrize(
    "name", ["index.html", "metadata.json", "sheet.png", "pictures.parquet", "control-0-pose.png", "accepted/a.png"]
)
def test_a_folder_with_files_that_a_run_would_write_over_is_refused(tmp_path, name):
    own = tmp_path / "site" / name
    own.parent.mkdir(parents=True)
    own.write_text("mine")
    for refuse in (lambda: free_folder(tmp_path / "site", "luca"), lambda: run(tmp_path / "site", handmade_plan())):
        with pytest.raises(InvalidValueError, match=f"there is {name.partition('/')[0]}"):
            refuse()
    assert [path for path in (tmp_path / "site").rglob("*") if path.is_file() and path.name != ".lock"] == [own]
    assert own.read_text() == "mine"


def test_other_files_in_a_folder_stay_beside_the_run(tmp_path, uninterrupted):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    run(tmp_path / "run", handmade_plan())
    assert content(tmp_path / "run") == uninterrupted
    assert (tmp_path / "run" / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("name", ["accepted", "rejected", "set_aside"])
def test_a_link_out_of_the_folder_is_refused(tmp_path, name):
    """B7: what is written stays inside."""
    run(tmp_path / "run", handmade_plan(), at_most=0)
    (tmp_path / "elsewhere").mkdir()
    run(tmp_path / "run", handmade_plan(), at_most=1)
    shutil.rmtree(tmp_path / "run" / name, ignore_errors=True)
    (tmp_path / "run" / name).symlink_to(tmp_path / "elsewhere")
    for picture in (tmp_path / "run").glob("accepted/*.png"):
        picture.write_bytes(b"not that picture")  # which would be set aside
    with pytest.raises(InvalidValueError, match=f"{name}/ is no link"):
        run(tmp_path / "run", handmade_plan())
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_link_to_a_folder_is_as_good_as_the_folder(tmp_path, uninterrupted):
    """B7."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "disk")
    run(tmp_path / "run", handmade_plan())
    assert content(tmp_path / "disk") == uninterrupted


@pytest.mark.parametrize("gone", ["removed", "renamed"])
def test_a_folder_that_goes_while_it_is_drawn_into_is_our_error(tmp_path, uninterrupted, gone):
    """B6."""
    folder = tmp_path / "run"

    def draw(job):
        if job.index == 2:
            shutil.rmtree(folder) if gone == "removed" else folder.rename(tmp_path / "moved")
        return paint(job)

    with pytest.raises(RunFolderError, match=r"moved or removed|No such file"):
        run(folder, handmade_plan(), draw=draw)
    if gone == "renamed":
        shutil.rmtree(folder, ignore_errors=True)
        run(tmp_path / "moved", handmade_plan())
        assert content(tmp_path / "moved") == uninterrupted


def test_a_restrictive_umask_and_unusual_names_do_no_harm(tmp_path, uninterrupted):
    """B8, B9: umask 077; a name in 255 bytes of UTF-8, with a trailing dot."""
    before = os.umask(0o077)
    try:
        for name in ("é" * 127, "cafe\u0301", "caf\u00e9", "trailing.", "Case", "case"):
            run(tmp_path / name, handmade_plan())
            assert content(tmp_path / name) == uninterrupted
    finally:
        os.umask(before)


def test_a_clock_that_goes_backwards_does_no_harm(tmp_path, uninterrupted):
    """B10: every file is older than it was."""
    run(tmp_path / "run", handmade_plan(), at_most=3)
    for path in (tmp_path / "run").rglob("*"):
        os.utime(path, (0, 0), follow_symlinks=False)
    run(tmp_path / "run", handmade_plan())
    assert content(tmp_path / "run") == uninterrupted


def test_a_second_process_is_refused_and_told_who_has_the_folder(tmp_path, uninterrupted):
    """C1; and C2: after the first one is gone, whoever it was, the folder is free."""
    folder = tmp_path / "run"

    def refused():
        with pytest.raises(InvalidValueError, match=rf"process {os.getppid()} on .* draws into it since"):
            run(folder, handmade_plan())

    with RunFolder(folder, handmade_plan()) as opened:
        opened.commit(opened.pending_jobs()[0], *paint(opened.pending_jobs()[0]), 0.1)
        assert wait_for(fork(refused)) == 0
    (folder / ".holder.json").write_text(json.dumps({"pid": os.getpid(), "host": "here", "since": "long ago"}))
    run(folder, handmade_plan())
    assert content(folder) == uninterrupted


def race(folder, gate, answers):
    gate.wait()
    try:
        run(folder, handmade_plan(), draw=lambda job: (time.sleep(0.01), paint(job))[1])
        answers.put("drawn")
    except InvalidValueError as error:
        answers.put("refused" if "a free folder" in str(error) else str(error))


def test_of_processes_that_start_at_once_one_draws_and_the_others_are_refused(tmp_path, uninterrupted, record_property):
    """C1, C3: eight processes at a time, on one new folder."""
    context, rounds, processes = get_context("fork"), 10, 8
    for number in range(rounds):
        gate, answers = context.Barrier(processes), context.Queue()
        racers = [context.Process(target=race, args=(tmp_path / str(number), gate, answers)) for _ in range(processes)]
        for racer in racers:
            racer.start()
        said = sorted(answers.get(timeout=60) for _ in racers)
        for racer in racers:
            racer.join()
        assert set(said) <= {"drawn", "refused"}
        assert "drawn" in said
        ledger = read_ledger(tmp_path / str(number) / "ledger.jsonl")
        assert len({record["job"] for record in ledger}) == len(ledger) == 5
        assert content(tmp_path / str(number)) == uninterrupted
    record_property(
        "counted", f"0 of {rounds} races of {processes} processes lost or doubled a job (n = {5 * rounds} jobs)"
    )


def draw_somewhere(number, gate, answers):
    gate.wait()
    with claimed_folder(None, "luca") as folder:
        run(folder, handmade_plan(scene=f"scene {number}"))
    answers.put((number, folder))


def test_runs_that_begin_in_the_same_second_have_a_folder_each(tmp_path, monkeypatch):
    """B10: four processes that are given no folder, at once."""
    monkeypatch.setenv("IMAGELAB_ROOT", str(tmp_path))
    context = get_context("fork")
    gate, answers = context.Barrier(4), context.Queue()
    racers = [context.Process(target=draw_somewhere, args=(number, gate, answers)) for number in range(4)]
    for racer in racers:
        racer.start()
    folders = dict(answers.get(timeout=60) for _ in racers)
    for racer in racers:
        racer.join()
    assert len(set(folders.values())) == 4
    for number, folder in folders.items():
        assert folder.parent == tmp_path / "reports" / "runs"
        assert read_batch(folder).scene_description == f"scene {number}"
        assert read_batch(folder).pending == 0


def test_a_new_folder_into_which_nothing_came_is_removed_with_those_made_for_it(tmp_path, monkeypatch):
    monkeypatch.setenv("IMAGELAB_ROOT", str(tmp_path / "root"))
    with claimed_folder(None, "luca") as folder:
        assert folder.is_dir()
    assert not (tmp_path / "root").exists()
    (tmp_path / "own").mkdir()
    with claimed_folder(tmp_path / "own", "luca") as folder:
        assert folder == tmp_path / "own"
    assert folder.is_dir()


def take_turns(folder, gate, answers):
    refused, pending = 0, True
    gate.wait()
    while pending:
        try:
            pending = run(folder, handmade_plan(count=500), at_most=25).pending
        except InvalidValueError as error:
            if "a free folder" not in str(error):
                raise
            refused += 1
            time.sleep(0.005)
    answers.put(refused)


def test_processes_that_fight_for_a_folder_all_the_time_do_each_job_once(tmp_path, record_property):
    """C3: eight processes, each of which draws 25 pictures whenever the folder is free."""
    context, folder = get_context("fork"), tmp_path / "run"
    gate, answers = context.Barrier(8), context.Queue()
    racers = [context.Process(target=take_turns, args=(folder, gate, answers)) for _ in range(8)]
    for racer in racers:
        racer.start()
    refused = sum(answers.get(timeout=120) for _ in racers)
    for racer in racers:
        racer.join()
    ledger = read_ledger(folder / "ledger.jsonl")
    assert len({record["job"] for record in ledger}) == len(ledger) == 500
    check(folder, read_batch(folder))
    run(tmp_path / "alone", handmade_plan(count=500))
    assert content(folder) == content(tmp_path / "alone")
    assert refused > 0
    record_property("counted", f"0 of 500 jobs were lost or doubled by 8 processes, which were refused {refused} times")


def test_a_run_is_read_whole_while_it_is_drawn(tmp_path):
    """C4."""
    plan, lengths = handmade_plan(count=20), []

    def draw(job):
        lengths.append(len(read_batch(tmp_path / "run").items))
        return paint(job)

    run(tmp_path / "run", plan, draw=draw)
    assert lengths == list(range(20))


def test_ledger_lines_of_another_run_are_an_error_that_names_the_line(tmp_path):
    run(tmp_path / "one", handmade_plan(), at_most=1)
    run(tmp_path / "two", handmade_plan(scene="at home"), at_most=1)
    shutil.copy(tmp_path / "one" / "ledger.jsonl", tmp_path / "two" / "ledger.jsonl")
    with pytest.raises(RunFolderError, match=r"ledger\.jsonl: line 1 tells of no job"):
        run(tmp_path / "two", handmade_plan(scene="at home"))
    (tmp_path / "two" / "plan.json").write_text("{")
    with pytest.raises(RunFolderError, match=r"plan\.json: is damaged"):
        read_batch(tmp_path / "two")


def rewrite_ledger(folder, change, place=0):
    """Let a stranger change a line of a ledger, its checksum included."""
    ledger = folder / "ledger.jsonl"
    records = read_ledger(ledger)
    change(records[place])
    ledger.unlink()
    with Ledger(ledger) as written:
        for record in records:
            written.append(record)


@pytest.mark.parametrize("target", ["beside", "absolute", "another picture's", "through a link", "of a failed one"])
def test_a_ledger_that_names_a_file_elsewhere_is_refused_and_the_file_stays(tmp_path, target):
    """B7, D11: a run's folder may come from anybody, and what its ledger names was set aside if it was no picture."""
    folder, precious = tmp_path / "run", tmp_path / "canary" / "precious.txt"
    run(folder, handmade_plan())
    precious.parent.mkdir()
    precious.write_text("precious")
    (folder / "link").symlink_to(precious.parent)
    paths = {
        "beside": "../canary/precious.txt",
        "absolute": str(precious),
        "another picture's": "rejected/0001_seed8.png",
        "through a link": "link/precious.txt",
        "of a failed one": "accepted/../../canary/precious.txt",
    }
    place = next(place for place, record in enumerate(read_ledger(folder / "ledger.jsonl"))
                 if (record["item"]["status"] == "failed") == (target == "of a failed one"))  # fmt: skip
    rewrite_ledger(folder, lambda record: record["item"].update(path=paths[target]), place)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for opened in (lambda: run(folder, handmade_plan()), lambda: read_batch(folder)):
        with pytest.raises(RunFolderError, match=rf"line {place + 1} tells of no job.* path must be .*Remove the line"):
            opened()
    assert {path: path.read_bytes() for path in before} == before
    assert not (folder / "set_aside").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda record: record.pop("seconds"), "seconds"),
        (lambda record: record.pop("mtime_ns"), "mtime_ns"),
        (lambda record: record.update(seconds="x"), r"Line\.seconds must be a number, got 'x'"),
        (lambda record: record.update(size_bytes=1.5), r"Line\.size_bytes"),
        (lambda record: record.update(note="hello"), "'note'"),
        (lambda record: record.update(job=7), r"Line\.job"),
        (lambda record: record["item"].update(index=77), "index and seed must be the job's, 0 and 7"),
        (lambda record: record["item"].update(seed=8), "index and seed must be the job's, 0 and 7"),
        (lambda record: record["item"].update(status="lovely"), "lovely"),
    ],
)
def test_a_line_that_no_run_writes_is_an_error_that_names_it_though_its_checksum_is_right(tmp_path, change, said):
    run(tmp_path / "run", handmade_plan())
    rewrite_ledger(tmp_path / "run", change)
    for opened in (lambda: run(tmp_path / "run", handmade_plan()), lambda: read_batch(tmp_path / "run")):
        with pytest.raises(RunFolderError, match=rf"ledger\.jsonl: line 1 tells of no job.*{said}"):
            opened()


def rewrite_plan(folder, change):
    path = folder / "plan.json"
    data = json.loads(path.read_text())
    change(data["plan"])
    path.write_text(json.dumps(data))


def nested(depth):
    value = {}
    for _ in range(depth):
        value = {"a": value}
    return value


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda plan: plan.update(recipes=[]), "recipes must be as many as there are variants: 1, got 0"),
        (lambda plan: plan.update(judgings=plan["judgings"] * 2), "judgings must be as many"),
        (lambda plan: plan.update(schema_version=99), r"schema_version of plan .* must be 2, all that this imagelab"),
        (lambda plan: plan["request"].update(num_images=10**12), "num_images must be a whole number between 1 and"),
        (lambda plan: plan["environment"].update(deep=nested(400)), "nested more than 100 deep"),
        (lambda plan: plan["environment"].update(odd=float("nan")), "NaN is no number"),
        (lambda plan: plan["request"].update(threshold=10**400), "threshold must be a number"),
        (lambda plan: plan.clear(), "must be complete"),
    ],
)
def test_a_plan_that_no_run_writes_is_refused_with_what_is_wrong_with_it(tmp_path, harm, said):
    run(tmp_path / "run", handmade_plan())
    rewrite_plan(tmp_path / "run", harm)
    for opened in (lambda: run(tmp_path / "run", handmade_plan()), lambda: read_batch(tmp_path / "run")):
        with pytest.raises(RunFolderError, match=rf"plan\.json: is damaged, or of another version.*{said}"):
            opened()


@pytest.mark.parametrize("text", ["[" * 100_000, "{", "[]", "7", '{"plan": 7}', "\xff", '{"plan": 1e999}'])
def test_a_plan_that_is_no_plan_is_damaged(tmp_path, text):
    run(tmp_path / "run", handmade_plan())
    (tmp_path / "run" / "plan.json").write_text(text, encoding="latin-1")
    with pytest.raises(RunFolderError, match=r"plan\.json: is damaged"):
        read_batch(tmp_path / "run")


@pytest.mark.parametrize("name", ["plan.json", "ledger.jsonl", "metadata.json"])
def test_a_pipe_in_place_of_a_runs_file_is_refused_and_never_waited_for(tmp_path, name):
    """B7: reading a FIFO that nobody writes to would hang for good."""
    folder = tmp_path / "run"
    run(folder, handmade_plan())
    if name == "metadata.json":
        (folder / "plan.json").unlink()  # as a version wrote it that kept none
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises((RunFolderError, InvalidValueError), match=rf"{name}: isn't a file|with a metadata\.json"):
        read_batch(folder)
    if name != "metadata.json":
        with pytest.raises(RunFolderError, match=rf"{name}: isn't a file"):
            run(folder, handmade_plan())


@pytest.mark.parametrize("text", ["[]", "[" * 100_000, '{"pid": 1}', None])
def test_whatever_the_file_of_the_holder_holds_a_second_process_is_refused(tmp_path, text):
    with RunFolder(tmp_path / "run", handmade_plan()):
        holder = tmp_path / "run" / ".holder.json"
        holder.unlink()
        os.mkfifo(holder) if text is None else holder.write_text(text)
        with pytest.raises(InvalidValueError, match="another process draws into it"):
            run(tmp_path / "run", handmade_plan())


def test_a_run_of_ten_thousand_opens_in_less_than_two_seconds(tmp_path, monkeypatch, record_property):
    """T15."""
    plan = handmade_plan(count=10_000)
    with monkeypatch.context() as unsynced, RunFolder(tmp_path / "run", plan) as opened:
        unsynced.setattr(os, "fsync", lambda _: None)  # making it isn't what is measured
        painted = [paint(job)[0] for job in opened.pending_jobs()[:5]]
        for job in opened.pending_jobs():
            item = replace(painted[job.index % 5], index=job.index, seed=job.seed)
            if item.path:
                item = replace(item, path=item.path.with_name(job.file_name))
                (tmp_path / "run" / item.path).write_bytes(b"a picture")
            opened._append(job, item, 0.1)
            opened._progress.add(item, 0.1)
    took = {}
    for state, missing in {"that has ended": (0, 0), "of which one is pending": (1, 2)}.items():
        seconds = []  # of this process alone, and the less of two: others share the machine, and slow its cores down
        for count in missing:
            clock = time.process_time()
            with RunFolder(tmp_path / "run", plan) as opened:
                pending = opened.pending_jobs()
            seconds.append(time.process_time() - clock)  # metadata.json compared, or it and the page written, included
            assert len(pending) == count
            if count == 1 or len(seconds) == 2:
                next((tmp_path / "run" / "accepted").iterdir()).unlink()
        took[state] = min(seconds)
    told = ", ".join(f"one {state} in {seconds:.2f} s" for state, seconds in took.items())
    record_property("counted", f"a run of 10,000 pictures is opened and left: {told}")
    assert max(took.values()) < 2
