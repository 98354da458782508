"""A benchmark's clips shared out among single-threaded processes, which is faster than threads for small models."""

import argparse
import os
import subprocess
import sys
from collections.abc import Callable

import torch


def add_worker_options(parser: argparse.ArgumentParser) -> None:
    """`--workers`, and the number by which a worker knows its share."""
    parser.add_argument(
        "--workers",
        type=int,
        default=1 if torch.cuda.is_available() else max(1, min(os.cpu_count() or 1, 8)),
        help="single-threaded processes, each with its share of the clips (default: one a core, 1 with a GPU)",
    )
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)


def share_out(module: str, options: argparse.Namespace, work: Callable[[slice], None]) -> bool:
    """Runs `work(every n-th clip)` here, or this command once a worker; whether all came to their end."""
    if options.worker is None and options.workers > 1:
        return _run_workers(module, options.workers)
    if options.workers > 1:
        torch.set_num_threads(1)
    work(slice(options.worker or 0, None, options.workers))
    return True


def _run_workers(module: str, workers: int) -> bool:
    single = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    command = [sys.executable, "-m", module, *sys.argv[1:], "--workers", str(workers)]
    running = [subprocess.Popen([*command, "--worker", str(number)], env=single) for number in range(workers)]
    try:
        return all(worker.wait() == 0 for worker in running)
    finally:
        for worker in running:
            worker.terminate()
