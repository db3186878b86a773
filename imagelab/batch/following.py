"""A thread that ends what was begun, while its owner begins the next."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from typing import Self


class AbandonedError(BaseException):
    """Work is given up because what was begun before it has failed; no handler of errors is to take it for its own."""


class Follower:
    """Does one call at a time in a thread of its own, while whoever asked for it goes on; a context manager.

    Leaving waits for the call, so that it is done or has failed. What a call raises isn't lost: `wait` raises it, or
    leaving does, in place of an error in the block, which came later, but not of an interrupt.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="follower")
        self._call: Future[None] | None = None

    def begin(self, call: Callable[[], None]) -> None:
        """Begin a call, once the one before has ended."""
        self.wait()
        # In a copy of the caller's context: what NumPy is told by errstate, say, holds for the call as well.
        self._call = self._thread.submit(copy_context().run, call)

    def wait(self) -> None:
        """Wait for the call that was begun, if there is one, and raise what it raised."""
        if self._call is None:
            return
        self._call.exception()  # an interrupt in here leaves it to be waited for
        call, self._call = self._call, None
        call.result()

    def check(self, *_: object) -> None:
        """Raise AbandonedError if the call that was begun has failed; waits for nothing, so work may ask often."""
        if self._call is not None and self._call.done() and self._call.exception() is not None:
            raise AbandonedError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *exc_info: object) -> None:
        self._end()
        if kind is None or issubclass(kind, Exception):
            self.wait()

    def _end(self) -> None:
        try:
            if self._call is not None:
                self._call.exception()  # first: an interrupted join lets Python 3.11 believe that the thread has ended
            self._thread.shutdown()
        except KeyboardInterrupt:  # whoever presses Ctrl-C twice waits, too: what is written then is written whole
            self._end()
            raise
