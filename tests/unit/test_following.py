"""A thread that ends what was begun: its errors are nobody else's, come in their order, and none is lost."""

import threading
import time
from signal import SIGINT, pthread_kill

import numpy as np
import pytest

from imagelab.batch.following import AbandonedError, Follower

PATIENCE = 30  # seconds; what is waited for comes at once


def fail(error):
    raise error


def begin(call, then=lambda _: None):
    """Begin a call and go on with something, which is given the follower."""
    with Follower() as follower:
        follower.begin(call)
        then(follower)


def in_main_thread():
    return threading.current_thread() is threading.main_thread()


def test_a_call_goes_on_while_its_owner_does_and_is_waited_for_before_the_next_begins():
    seen, goes_on = [], threading.Event()

    def slow(number):
        assert goes_on.wait(PATIENCE)
        seen.append((number, in_main_thread()))

    def begin_another(follower):
        assert seen == []
        goes_on.set()
        follower.begin(lambda: slow(2))
        assert seen[0] == (1, False)

    begin(lambda: slow(1), begin_another)
    assert seen == [(1, False), (2, False)]


def test_what_a_call_raises_is_raised_once_to_whoever_waits_or_leaves():
    def wait_twice(follower):
        with pytest.raises(OSError, match="full"):
            follower.wait()
        follower.wait()

    begin(lambda: fail(OSError("full")), wait_twice)
    with pytest.raises(OSError, match="full"):
        begin(lambda: fail(OSError("full")))


def test_the_error_of_what_was_begun_first_comes_before_that_of_its_owner():
    with pytest.raises(OSError, match="full") as caught:
        begin(lambda: fail(OSError("full")), lambda _: fail(ValueError("later")))
    assert isinstance(caught.value.__context__, ValueError)


def test_an_interrupt_stays_an_interrupt_and_the_call_is_done():
    done = []
    with pytest.raises(KeyboardInterrupt):
        begin(
            lambda: (time.sleep(0.1), done.append(1), fail(OSError("full"))),
            lambda _: fail(KeyboardInterrupt()),
        )
    assert done == [1]


def test_a_second_interrupt_cuts_nothing_in_two():
    done = []

    def interrupted():
        for _ in range(3):
            time.sleep(0.1)  # the owner waits in between
            pthread_kill(threading.main_thread().ident, SIGINT)
        time.sleep(0.1)
        done.append(1)

    with pytest.raises(KeyboardInterrupt):
        begin(interrupted, lambda _: time.sleep(PATIENCE))
    assert done == [1]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("follower")]


def test_work_is_given_up_once_a_call_has_failed_and_not_before():
    may_fail = threading.Event()

    def work(follower):
        follower.check(1, 50, None)
        may_fail.set()
        for _ in range(10 * PATIENCE):
            time.sleep(0.1)
            try:
                follower.check(2, 50, None)
            except AbandonedError:
                return
        pytest.fail("it never learned of the failure")

    with pytest.raises(OSError, match="full"):
        begin(lambda: (may_fail.wait(PATIENCE), fail(OSError("full"))), work)
    assert not issubclass(AbandonedError, Exception), "who handles errors of drawing would take it for one"


def test_a_call_sees_what_its_owner_has_set_for_itself():
    seen = []
    with np.errstate(divide="raise"):
        begin(lambda: seen.append(np.geterr()["divide"]))
    assert seen == ["raise"]
