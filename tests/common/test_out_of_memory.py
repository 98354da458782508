"""What counts as out of memory: the host's own class, what newer torch raises, and Apple's plain error."""

import comfy.model_management
import pytest
import torch
from generative_inbetweening.common.out_of_memory import is_out_of_memory

CUDA_SAYS = "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported at some other API call."
MPS_SAYS = "MPS backend out of memory (MPS allocated: 17.01 GB, other allocations: 1.02 GB, max allowed: 18.13 GB)."


def numbered(code: int) -> Exception:
    error = torch.AcceleratorError("CUDA error: something")
    error.error_code = code
    return error


@pytest.mark.parametrize(
    "error",
    [
        comfy.model_management.OOM_EXCEPTION("no room"),
        torch.AcceleratorError(CUDA_SAYS),
        numbered(2),
        RuntimeError(MPS_SAYS),
    ],
    ids=["cuda", "accelerator", "code", "apple"],
)
def test_out_of_memory_is_known(error):
    assert is_out_of_memory(error)


@pytest.mark.parametrize(
    "error",
    [
        numbered(700),
        RuntimeError("shape mismatch"),
        ValueError(MPS_SAYS),
        torch.AcceleratorError("CUDA error: an illegal memory access was encountered"),
        comfy.model_management.InterruptProcessingException(),
    ],
    ids=["other code", "shape", "other class", "illegal access", "interrupt"],
)
def test_other_errors_are_not(error):
    assert not is_out_of_memory(error)
