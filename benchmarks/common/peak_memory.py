"""Peak memory of this process: of torch on a CUDA device, else the resident memory of the process."""

import sys
from contextlib import suppress
from pathlib import Path

import psutil
import torch

try:
    import resource
except ImportError:  # Windows
    resource = None

_STATUS, _FORGET_PEAK = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def resident_bytes() -> int:
    """What it has now; where the system does not tell, its peak so far."""
    if torch.cuda.is_available():
        return torch.cuda.memory_allocated()
    return _status("VmRSS") if _STATUS.exists() else peak_bytes()


def peak_bytes() -> int:
    """The most that it had since the peak was forgotten, on a CUDA device or on Linux; elsewhere since its start."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    if _STATUS.exists():
        return _status("VmHWM")
    if resource is None:
        return psutil.Process().memory_info().peak_wset  # pyright: ignore[reportAttributeAccessIssue] - on Windows
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def forget_peak() -> None:
    """Lets the peak begin anew, on a CUDA device or on Linux. Elsewhere it holds what loading took, too."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    elif _FORGET_PEAK.exists():
        # Some containers forbid it.
        with suppress(OSError):
            _FORGET_PEAK.write_text("5")


def _status(key: str) -> int:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) * 1024
