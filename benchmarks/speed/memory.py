"""Peak memory of an evaluation, measured: each contestant computes one in a process of its own.

What counts is the peak of the process's resident memory, or of torch's on a CUDA device, in that evaluation above what
it had before the model was made: weights and activations, neither libraries nor what loading takes for a while. Beside
it the same is counted tensor by tensor, which leaves out what kernels take for themselves.
"""

import ctypes
import gc
import sys
from collections.abc import Iterator

import torch

from ...common.live_bytes import LiveBytes
from ..common.peak_memory import forget_peak, peak_bytes, resident_bytes
from ..common.processes import in_own_process
from .contestants import CONTESTANTS, middle_size_unet


def measured_memory(frames: int, size: int) -> dict:
    """Bytes of each contestant, and the ratios of ours to the two UNets."""
    peaks = {name: in_own_process(memory_here, name, frames, size) for name in CONTESTANTS}
    result = {"memory_bytes": peaks}
    for key, other in (("peak_memory", "peak"), ("peak_tensors", "tensors")):
        for way in ("ours", "ours_one_video"):
            ratio = peaks[way][other] / peaks["two_unets"][other]
            result[f"{key}_over_two_unets" + way.removeprefix("ours")] = ratio
    return result


def memory_here(name: str, frames: int, size: int) -> dict[str, int]:
    """Bytes in this process: the peak of the process, and of all tensors, of which weights."""
    before, others = resident_bytes(), sum(storages().values())
    unet = middle_size_unet()
    evaluate = CONTESTANTS[name](unet, frames, size)
    del unet
    give_back_memory()
    weights = sum(storages().values()) - others
    forget_peak()
    evaluate()
    peak = peak_bytes() - before
    with LiveBytes(tensors()) as live:
        evaluate()
    return {"peak": peak, "tensors": weights + live.peak, "weights": weights}


def tensors() -> Iterator[torch.Tensor]:
    """All that this process holds."""
    return (each for each in gc.get_objects() if issubclass(type(each), torch.Tensor))


def storages() -> dict[int, int]:
    """{address: bytes} of the memory behind all tensors."""
    return {each.untyped_storage().data_ptr(): each.untyped_storage().nbytes() for each in tensors()}


def give_back_memory() -> None:
    """What was freed, to the system; glibc keeps some of it otherwise."""
    gc.collect()
    if sys.platform == "linux":
        getattr(ctypes.CDLL(None), "malloc_trim", lambda _: None)(0)
