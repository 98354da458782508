"""Whether an error says that the device ran out of memory, on every device and version of the host."""

import comfy.model_management
import torch

_NO_MEMORY = 2  # cudaErrorMemoryAllocation
_SAID_BY_MPS = "MPS backend out of memory"


def is_out_of_memory(error: BaseException) -> bool:
    """As the host's `is_oom`, which older hosts lack, and Apple's plain RuntimeError, which no host knows."""
    if getattr(comfy.model_management, "is_oom", _is_oom)(error):
        return True
    return isinstance(error, RuntimeError) and _SAID_BY_MPS in str(error)


def _is_oom(error: BaseException) -> bool:
    if isinstance(error, comfy.model_management.OOM_EXCEPTION):
        return True
    # Older torch raises plain RuntimeErrors instead.
    if not isinstance(error, getattr(torch, "AcceleratorError", RuntimeError)):
        return False
    return getattr(error, "error_code", None) == _NO_MEMORY or "out of memory" in str(error).lower()
