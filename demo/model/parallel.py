"""Training in several processes that share the cores and average their gradients once a step.

For small networks on a CPU this is faster than threads inside each operation, as long as the arithmetic of a step
outweighs the averaging.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from ...training.log import append_line

logger = logging.getLogger(__name__)


def launch(worker: Callable[..., None], processes: int, *arguments: object) -> None:
    """Runs `worker(*arguments)` in so many processes that form one group; returns when all have finished.

    Raises torch.multiprocessing.ProcessRaisedException with the error of the process that failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_enter, (worker, processes, str(Path(folder) / "meeting"), arguments), nprocs=processes)


def _enter(rank: int, worker: Callable[..., None], processes: int, meeting: str, arguments: tuple) -> None:
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // processes))
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=processes)
    try:
        worker(*arguments)
    finally:
        dist.destroy_process_group()


def rank() -> int:
    """This process's number in its group; 0 outside a group."""
    return dist.get_rank() if dist.is_initialized() else 0


def size() -> int:
    """How many processes train together; 1 outside a group."""
    return dist.get_world_size() if dist.is_initialized() else 1


def barrier() -> None:
    """Waits for all processes of the group."""
    if dist.is_initialized():
        dist.barrier()


def average_gradients(parameters: list[torch.nn.Parameter], *numbers: float) -> list[float]:
    """Averages the gradients over the group, in place, and returns the averages of `numbers`.

    Decisions that all processes must take alike (is the time over?) are taken on averaged numbers.
    """
    if size() == 1:
        return list(numbers)
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([*(g.flatten() for g in gradients), torch.tensor(numbers, dtype=torch.float32)])
    dist.all_reduce(flat)
    flat /= size()
    start = 0
    for gradient in gradients:
        gradient.copy_(flat[start : start + gradient.numel()].view_as(gradient))
        start += gradient.numel()
    return flat[start:].tolist()


def report(record: dict[str, object], path: Path | None) -> None:
    """Says how far a stage is, and adds a line to its log."""
    logger.info("%s", json.dumps(record))
    if path:
        append_line(path, record)
