"""A run's folder with the files of somebody else: refused with the file's name, or drawn into by both."""

import os
import stat
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from forks import fork, wait_for
from handmade_runs import content, handmade_plan, run

from imagelab.errors import ImageLabError, InvalidValueError, RunFolderError
from imagelab.runs import free_folder, read_batch

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="becoming somebody else needs root"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),  # it forks
]
OWNER, COLLEAGUE, GROUP = 64_001, 64_002, 64_000


@pytest.fixture
def shared():
    """A folder that anybody may enter, unlike pytest's own."""
    with TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)  # so that the colleague gets in
        yield Path(folder)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    run(folder, handmade_plan())
    return content(folder)


def as_user(user, work, umask=0o022):
    """Do something as another user, whom the system refuses what it doesn't refuse root."""

    def become():
        os.setgroups([])
        os.setgid(GROUP)
        os.setuid(user)
        os.umask(umask)
        work()

    assert wait_for(fork(become)) == 0


def snapshot(folder):
    """Return what lies in a folder, with owners, modes and times; not the lock, which is touched in passing."""
    found = {path.relative_to(folder).as_posix(): path.lstat() for path in folder.rglob("*") if path.name != ".lock"}
    return {name: (one.st_uid, one.st_mode, one.st_mtime_ns, one.st_size) for name, one in found.items()}


LOCKED = {  # what is closed to the colleague: who is told what
    ".": (0o700, InvalidValueError, "output_dir"),
    "plan.json": (0o600, RunFolderError, r"plan\.json: can't be read: Permission denied\. Make it readable"),
    "ledger.jsonl": (0o600, InvalidValueError, r"Permission denied: .*ledger\.jsonl"),
    ".lock": (0o600, InvalidValueError, r"Permission denied: .*\.lock"),
    "accepted": (0o700, InvalidValueError, r"Permission denied: .*accepted"),
    "accepted/0000_seed7.png": (0o600, InvalidValueError, r"Permission denied: .*0000_seed7\.png"),
}


@pytest.mark.parametrize("name", LOCKED)
def test_what_belongs_to_somebody_else_is_named_and_nothing_of_it_changes(shared, uninterrupted, name):
    """Matrix B9: one file or folder that the colleague may not open, in a folder that is otherwise open to all."""
    mode, error, words = LOCKED[name]
    folder = shared / "run"
    run(folder, handmade_plan(), at_most=2)
    if name.endswith(".png"):
        os.utime(folder / name, (0, 0))  # touched since: it has to be read
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o777 if path.is_dir() else 0o666)
        os.chown(path, OWNER, GROUP + 1)
    (folder / name).chmod(mode)
    before = snapshot(folder)

    def go_on():
        with pytest.raises(error, match=words):
            run(free_folder(folder, "luca"), handmade_plan())

    as_user(COLLEAGUE, go_on)
    after = snapshot(folder)
    assert {key: value for key, value in after.items() if stat.S_ISREG(value[1])} == {
        key: value for key, value in before.items() if stat.S_ISREG(value[1])
    }
    as_user(OWNER, lambda: run(folder, handmade_plan()))
    assert content(folder) == uninterrupted


@pytest.mark.parametrize("name", [".", "accepted", "plan.json", "ledger.jsonl"])
def test_reading_somebody_elses_run_is_refused_with_the_place(shared, name):
    """Matrix B9."""
    folder = shared / "run"
    run(folder, handmade_plan())
    (folder / name).chmod(0o700 if (folder / name).is_dir() else 0o600)

    def read():
        with pytest.raises(ImageLabError, match="Permission denied"):
            read_batch(folder)

    as_user(COLLEAGUE, read)


def test_a_folder_that_is_read_only_can_be_read_and_is_not_drawn_into(shared):
    """Matrix B5 and B9: no temporary file, and no lock, is needed to look at a run."""
    folder = shared / "run"
    run(folder, handmade_plan(), at_most=2)
    run(shared / "ended", handmade_plan())
    before = snapshot(shared)

    def look():
        assert len(read_batch(folder).items) == 2
        with pytest.raises(InvalidValueError, match=r"output_dir.*Permission denied"):
            run(free_folder(folder, "luca"), handmade_plan())
        assert run(free_folder(shared / "ended", "luca"), handmade_plan(), draw=None).pending == 0

    as_user(COLLEAGUE, look)
    assert snapshot(shared) == before


def test_a_group_may_share_a_run_where_its_umask_says_so(shared, uninterrupted):
    """Matrix B9: with umask 002 a colleague goes on with what another one has begun."""
    shared.chmod(0o2775)
    os.chown(shared, OWNER, GROUP)
    as_user(OWNER, lambda: run(shared / "run", handmade_plan(), at_most=3), umask=0o002)
    as_user(COLLEAGUE, lambda: run(shared / "run", handmade_plan()), umask=0o002)
    assert content(shared / "run") == uninterrupted
    owners = {path.stat().st_uid for path in (shared / "run").glob("*/*.png")}
    assert owners == {OWNER, COLLEAGUE}


def test_with_a_closed_umask_nobody_else_sees_anything(shared):
    """Matrix B9: umask 077 holds for all that is written, temporary files included."""
    shared.chmod(0o1777)
    as_user(OWNER, lambda: run(shared / "run", handmade_plan()), umask=0o077)
    written = list((shared / "run").rglob("*"))
    assert written
    assert not any(path.stat().st_mode & 0o077 for path in (shared / "run", *written))
