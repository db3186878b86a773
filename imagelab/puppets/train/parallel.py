"""Data-parallel training on the cores of one machine: forked processes that average their gradients.

Splitting one small convolution over threads gains nothing, a second process with a batch of its own doubles the speed.
"""

from __future__ import annotations

import os
import signal
import tempfile
import traceback
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import nn


@contextmanager
def split_over_cores(processes: int) -> Iterator[int]:
    """Run the block in `processes` processes, of which only the calling one comes out of it; yield each one's rank.

    A fork shares models, data and closures with its parent, so nothing has to be pickled.
    """
    if processes == 1:
        yield 0
        return
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        rank, forks = _fork(processes)
        status = 1
        try:
            dist.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=processes)
            yield rank
            status = 0
        except BaseException:
            if not rank:
                raise
            traceback.print_exc()
        finally:
            if rank:
                os._exit(status)
            for pid in forks:
                if status:
                    os.kill(pid, signal.SIGTERM)
                os.waitpid(pid, 0)
            dist.destroy_process_group()
            torch.set_num_threads(threads)


def _fork(processes: int) -> tuple[int, list[int]]:
    """Return this process's rank, and in the parent the others' ids."""
    forks: list[int] = []
    for rank in range(1, processes):
        with warnings.catch_warnings():
            # The only other thread is tqdm's monitor, which holds no lock that a fork could wait for.
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if pid == 0:
            return rank, []
        forks.append(pid)
    return 0, forks


def average_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Replace each gradient with its mean over the processes of a split; without one, do nothing."""
    if not dist.is_initialized():
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([g.reshape(-1) for g in gradients])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))
