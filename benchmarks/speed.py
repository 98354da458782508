"""Time and memory of one evaluation, beside the host's plain SVD and beside two UNets with stored maps.

An evaluation is four videos: two directions, each with and without conditioning. Three ways to compute them, on the
same random weights and inputs, interleaved in one run, medians:

    ours        one UNet, paired calls, shared temporal attention
    host        the same four videos through the host's unpatched model
    two UNets   as the released method has it, on diffusers: the forward UNet stores its 16 attention maps, the backward
                UNet applies them turned by 180°

Memory is the peak of weights and activations of a process of its own that computes one evaluation in one of the ways.

Import time is what the pack adds to the start of a host that has its own modules loaded.

    python dev.py benchmark speed [--frames 14] [--size 128] [--repeats 5] [--out DIR]
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from host import ROOT
from speed_contestants import CONTESTANTS, middle_size_unet

MATRIX = 2048


def main() -> int:
    """Prints the table, writes speed.json, returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=14, help="frames of a video (default: 14)")
    parser.add_argument("--size", type=int, default=128, help="side of the pictures in pixels (default: 128)")
    parser.add_argument("--repeats", type=int, default=5, help="evaluations of each contestant (default: 5)")
    parser.add_argument("--out", type=Path, default=Path("benchmark_output"), help="folder for speed.json")
    parser.add_argument("--measure-memory-of", choices=CONTESTANTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure_memory_of:
        print(peak_memory_here(options.measure_memory_of, options.frames, options.size))
        return 0
    # Memory first: Linux counts what this process holds when it starts another towards that one's peak.
    result = {**memory_ratios(options), **time_ratios(options), "import_seconds": import_seconds()}
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "speed.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print_table(result)
    return 0


def time_ratios(options: argparse.Namespace) -> dict:
    """Median seconds of each contestant and the ratios of ours to the others, taken round by round."""
    unet = middle_size_unet()
    contestants = {name: build(unet, options.frames, options.size) for name, build in CONTESTANTS.items()}
    seconds = {name: [] for name in contestants}
    for round_number in range(options.repeats + 1):
        for name, evaluate in contestants.items():
            start = time.perf_counter()
            evaluate()
            if round_number:
                seconds[name].append(time.perf_counter() - start)

    def ratio(other: str) -> float:
        return statistics.median(ours / theirs for ours, theirs in zip(seconds["ours"], seconds[other]))

    medians = {name: statistics.median(values) for name, values in seconds.items()}
    floating_point = operations(contestants["ours"])
    return {"device": device_name(), "threads": torch.get_num_threads(), "frames": options.frames,
            "size": options.size, "repeats": options.repeats,
            "parameters": sum(tensor.numel() for tensor in unet.values()), "seconds": medians,
            "evaluation_time_over_host": ratio("host"), "evaluation_time_over_two_unets": ratio("two_unets"),
            "share_of_matmul_peak": floating_point / medians["ours"] / matmul_peak()}


def memory_ratios(options: argparse.Namespace) -> dict:
    """Peak bytes of each contestant in a process of its own, above what the imports need, and ours over two UNets."""
    command = [sys.executable, __file__, "--frames", str(options.frames), "--size", str(options.size)]
    peaks = {}
    for name in CONTESTANTS:
        done = subprocess.run([*command, "--measure-memory-of", name], check=True, capture_output=True, text=True)
        peaks[name] = int(done.stdout.split()[-1])
    return {"peak_memory_bytes": peaks, "peak_memory_over_two_unets": peaks["ours"] / peaks["two_unets"]}


def peak_memory_here(name: str, frames: int, size: int) -> int:
    """Bytes that this process reaches above its imports: weights and activations of one evaluation."""
    before = peak_bytes()
    unet = middle_size_unet()
    evaluate = CONTESTANTS[name](unet, frames, size)
    del unet
    evaluate()
    return peak_bytes() - before


def peak_bytes() -> int:
    """The largest resident size so far; Linux counts it in KiB, macOS in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def import_seconds(repeats: int = 5) -> float:
    """Median seconds that loading the pack takes in new processes that have loaded the host."""
    script = ("import sys, time; sys.path.insert(0, {folder!r}); from host import *; import_host(comfyui())\n"
              "import asyncio, comfy.sd, comfy_api.latest, latent_preview, nodes\n"
              "start = time.perf_counter(); import_pack()\n"
              "asyncio.run(sys.modules['generative_inbetweening'].comfy_entrypoint())\n"
              "print(time.perf_counter() - start)").format(folder=str(ROOT / "benchmarks"))
    runs = [subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
            for _ in range(repeats)]
    return statistics.median(float(run.stdout.split()[-1]) for run in runs)


def operations(evaluate) -> float:
    """Floating-point operations of one evaluation, counted by torch."""
    from torch.utils.flop_counter import FlopCounterMode
    with FlopCounterMode(display=False) as counter:
        evaluate()
    return float(counter.get_total_flops())


def matmul_peak() -> float:
    """Floating-point operations a second of large matrix products on this machine, the best of five."""
    left, right = torch.randn(2, MATRIX, MATRIX)
    best = min(_seconds(lambda: left @ right) for _ in range(5))
    return 2 * MATRIX ** 3 / best


def _seconds(function) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def device_name() -> str:
    """What the evaluations run on."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"


def print_table(result: dict) -> None:
    """The result as Markdown."""
    print(f"\n{result['device']}, {result['threads']} threads, UNet of {result['parameters'] / 1e6:.0f} M parameters, "
          f"{result['frames']} frames at {result['size']}×{result['size']}, median of {result['repeats']}\n")
    print("| | seconds an evaluation | peak memory, MiB |\n|---|---|---|")
    for name, seconds in result["seconds"].items():
        print(f"| {name} | {seconds:.2f} | {result['peak_memory_bytes'][name] / 2 ** 20:.0f} |")
    for key in ("evaluation_time_over_host", "evaluation_time_over_two_unets", "peak_memory_over_two_unets",
                "share_of_matmul_peak", "import_seconds"):
        print(f"\n{key.replace('_', ' ')}: {result[key]:.3f}")


if __name__ == "__main__":
    sys.exit(main())
