"""Read a file once, and again only when it has changed."""

from collections.abc import Callable
from functools import lru_cache, wraps
from pathlib import Path
from typing import TypeVar

Found = TypeVar("Found")


def read_once(read: Callable[[Path], Found]) -> Callable[[Path], Found]:
    """Make `read` keep what it found in a file until that is another one, or has been written to.

    Nobody may write into what it returns. What it raises isn't kept; a file that isn't there is left to it.
    """

    @lru_cache(maxsize=256)
    def kept(path: Path, *_file_as_it_was: int) -> Found:
        return read(path)

    @wraps(read)
    def once(path: Path) -> Found:
        if not path.is_file():
            return read(path)  # which says what is wrong
        stat = path.stat()
        return kept(path, stat.st_dev, stat.st_ino, stat.st_mtime_ns, stat.st_size)

    return once
