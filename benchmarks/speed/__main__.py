"""Time and memory of sampling, beside the host's plain SVD and beside two UNets with stored maps.

An evaluation is four videos: two directions, each with and without conditioning. Four ways to compute them, on the
same random weights and inputs, interleaved in one run, medians:

    ours             one UNet, two videos a call, shared temporal attention
    ours_one_video   the same, one video a call, as chosen where memory is short
    host             the same four videos through the host's unpatched model
    two_unets        as the released method has it, on diffusers: the forward UNet stores its 16 attention maps, the
                     backward UNet applies them turned by 180°

Further: the peak memory of each (memory.py); the memory of SVD-XT's own size, counted (full_size.py) and, on a CUDA
device, measured as on smaller cards (cuda.py); a whole clip with its previews, its report and its contact sheet, and
the cost over the number of frames (whole_clip.py); what the pack adds to the start of a host that has its own modules
loaded.

    python dev.py benchmark speed [--frames 14] [--size 128] [--repeats 5] [--out DIR]

writes speed.json and speed_frames.png.
"""

import argparse
import statistics
import subprocess
import sys

import comfy.model_management
import torch

from ...common.atomic_write import write_json
from ...tools.paths import CHECKOUT
from ..common.options import benchmark_parser
from .contestants import CONTESTANTS, middle_size_unet, timed, timed_in_turn
from .cuda import on_cuda
from .full_size import counted_memory
from .memory import measured_memory
from .report import print_table
from .whole_clip import over_frames, whole_clip

MATRIX = 2048


def main() -> None:
    """Prints the table, writes speed.json."""
    parser = benchmark_parser("speed", __doc__)
    parser.add_argument("--frames", type=int, default=14, help="frames of a video (default: 14)")
    parser.add_argument("--size", type=int, default=128, help="side of the pictures in pixels (default: 128)")
    parser.add_argument("--repeats", type=int, default=5, help="evaluations of each contestant (default: 5)")
    measure(parser.parse_args())


def measure(options: argparse.Namespace) -> None:
    """Everything, into the folder and onto the console."""
    options.out.mkdir(parents=True, exist_ok=True)
    # Memory first: Linux counts what this process holds when it starts another towards that one's peak.
    result = {
        **measured_memory(options.frames, options.size),
        "full_size": counted_memory(),
        "cuda": on_cuda(),
        "import_seconds": import_seconds(),
    }
    unet = middle_size_unet()
    result |= time_ratios(unet, options)
    result |= whole_clip(unet, options.frames, options.size, min(options.repeats, 3))
    result["over_frames"] = over_frames(unet, options.size, min(options.repeats, 3), options.out / "speed_frames.png")
    write_json(options.out / "speed.json", result)
    print_table(result)


def time_ratios(unet: dict[str, torch.Tensor], options: argparse.Namespace) -> dict:
    """Median seconds of each contestant and the ratios of ours to the others, taken round by round."""
    contestants = {name: build(unet, options.frames, options.size) for name, build in CONTESTANTS.items()}
    seconds = timed_in_turn(contestants, options.repeats)

    def ratio(other: str, ours: str = "ours") -> float:
        return statistics.median(one / another for one, another in zip(seconds[ours], seconds[other]))

    medians = {name: statistics.median(values) for name, values in seconds.items()}
    floating_point = operations(contestants["ours"])
    return {
        "device": device_name(),
        "threads": torch.get_num_threads(),
        "frames": options.frames,
        "size": options.size,
        "repeats": options.repeats,
        "parameters": sum(tensor.numel() for tensor in unet.values()),
        "seconds": medians,
        "evaluation_time_over_host": ratio("host"),
        "evaluation_time_over_two_unets": ratio("two_unets"),
        "evaluation_time_over_host_one_video": ratio("host", "ours_one_video"),
        "share_of_matmul_peak": floating_point / medians["ours"] / matmul_peak(),
    }


def import_seconds(repeats: int = 5) -> float:
    """Median seconds that loading the pack takes in new processes that have loaded the host."""
    script = (
        f"import asyncio, importlib.util, sys, time; sys.path.insert(0, {str(CHECKOUT)!r})\n"
        "import generative_inbetweening.tools.host as host; host.import_host()\n"
        "import comfy.sd, comfy_api.latest, latent_preview, nodes\n"
        "start = time.perf_counter()\n"
        # As ComfyUI imports it: by its path.
        f"spec = importlib.util.spec_from_file_location('pack', {str(CHECKOUT / '__init__.py')!r}, "
        f"submodule_search_locations=[{str(CHECKOUT)!r}])\n"
        "sys.modules['pack'] = pack = importlib.util.module_from_spec(spec); spec.loader.exec_module(pack)\n"
        "asyncio.run(pack.comfy_entrypoint())\n"
        "print(time.perf_counter() - start)"
    )
    runs = [
        subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
        for _ in range(repeats)
    ]
    return statistics.median(float(run.stdout.split()[-1]) for run in runs)


def operations(evaluate) -> float:
    """Floating-point operations of one evaluation, counted by torch."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        evaluate()
    return float(counter.get_total_flops())


def matmul_peak() -> float:
    """Floating-point operations a second of large matrix products on this machine, the best of five."""
    management = comfy.model_management
    left, right = torch.randn(2, MATRIX, MATRIX, device=management.get_torch_device()).to(management.unet_dtype())
    return 2 * MATRIX**3 / min(timed(lambda: left @ right) for _ in range(5))


def device_name() -> str:
    """What the evaluations run on."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"


if __name__ == "__main__":
    main()
