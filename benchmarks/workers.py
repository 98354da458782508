"""A benchmark's clips shared out among single-threaded processes, which is faster than threads for small models."""

import os
import subprocess
import sys
from pathlib import Path


def run_workers(script: Path, workers: int) -> bool:
    """This command once a worker, side by side, each with `--worker NUMBER`; whether all of them came to their end."""
    single = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    command = [sys.executable, str(script.resolve()), *sys.argv[1:], "--workers", str(workers)]
    running = [subprocess.Popen([*command, "--worker", str(number)], env=single) for number in range(workers)]
    try:
        return all([worker.wait() == 0 for worker in running])
    finally:
        for worker in running:
            worker.terminate()
