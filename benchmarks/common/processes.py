"""Runs work in other processes: shared out among several, or alone in one.

What runs there is handed over by name, so that it must stand in another module than a `__main__`.
"""

import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from multiprocessing import active_children, get_context
from typing import Any

import torch


def share_out(work: Callable[[slice], None], workers: int) -> None:
    """Runs `work(every n-th clip)` in each of n processes: for small models faster than threads; here if n is 1."""
    if workers == 1:
        work(slice(None))
        return
    os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    with _processes(workers, partial(torch.set_num_threads, 1)) as pool:
        try:
            for share in as_completed([pool.submit(work, slice(first, None, workers)) for first in range(workers)]):
                share.result()
        except BaseException:
            # What the others do would be lost with this command, hours later.
            for process in active_children():
                process.terminate()
            raise


def in_own_process(work: Callable, *arguments: Any) -> Any:
    """What `work(*arguments)` returns, from a new process; its exceptions are raised here."""
    with _processes(1) as pool:
        return pool.submit(work, *arguments).result()


def _processes(count: int, initializer: Callable[[], None] | None = None) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(count, get_context("spawn"), initializer)
