"""Work in a fork of the test's process, which has everything imported and loaded already, and which may die of it."""

import os
import threading

from tqdm.auto import tqdm


def fork(work):
    """Begin something in a fork; return its process id. It ends with 0, or with 1 if something is raised."""
    child = os.fork()
    if not child:
        code = 1
        tqdm.set_lock(threading.RLock())  # tqdm's own is one for all forks: who is killed with it would keep it
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return child


def wait_for(child):
    """Return the exit code of a fork, or minus the signal that has ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
