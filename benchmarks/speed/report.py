"""The result of the speed benchmark as Markdown."""

RATIOS = {
    "evaluation_time_over_host": "time of an evaluation over the host's unpatched four videos",
    "evaluation_time_over_host_one_video": "the same, one video at a time",
    "evaluation_time_over_two_unets": "time of an evaluation over two UNets'",
    "peak_memory_over_two_unets": "peak memory over two UNets', measured",
    "peak_memory_over_two_unets_one_video": "the same, one video at a time",
    "peak_tensors_over_two_unets": "peak memory over two UNets', tensors only",
    "peak_tensors_over_two_unets_one_video": "the same, one video at a time",
    "share_of_matmul_peak": "share of the machine's matmul peak that is reached",
    "clip_time_over_host": "time of a clip over the host's four videos",
    "preview_share": "previews, as a share of the sampling",
    "report_share": "the report, as a share of the sampling",
    "sheet_share": "the contact sheet, as a share of the sampling",
}
WAYS = {"two_videos": "two videos a call", "one_video": "one video a call", "two_unets": "two UNets"}
MIB = 2**20


def print_table(result: dict) -> None:
    """All of it, on the console."""
    print(
        f"\n{result['device']}, {result['threads']} threads, UNet of {result['parameters'] / 1e6:.0f} M parameters, "
        f"{result['frames']} frames at {result['size']}×{result['size']}, median of {result['repeats']}\n"
    )
    print("| an evaluation | seconds | peak memory, MiB | of it tensors | of them weights |\n|---|---|---|---|---|")
    for name, seconds in result["seconds"].items():
        memory = result["memory_bytes"][name]
        print(
            f"| {name} | {seconds:.2f} | {memory['peak'] / MIB:.0f} | {memory['tensors'] / MIB:.0f} "
            f"| {memory['weights'] / MIB:.0f} |"
        )
    print("\n| | |\n|---|---|")
    for key, meaning in RATIOS.items():
        print(f"| {meaning} | {result[key]:.3f} |")
    print(f"| importing the pack, seconds | {result['import_seconds']:.3f} |")
    _print_clip(result)
    _print_full_size(result["full_size"])
    for each in result["cuda"]:
        found = each.get("error") or (
            f"{each['seconds']:.2f} s an evaluation, {each['videos_per_call']} videos a call, "
            f"{each['reserved_gib']:.1f} GiB"
        )
        print(f"\nmeasured as on a card of {each['card_gb']} GB, {each['number_format']}: {found}")


def _print_clip(result: dict) -> None:
    print(
        f"\nA clip of {result['clip_evaluations']} evaluations: {result['clip_seconds']:.1f} s; its previews "
        f"{result['preview_seconds']:.3f} s, its report {result['report_seconds']:.3f} s."
    )
    frames = result["over_frames"]
    measured = ", ".join(f"{count}: {seconds:.2f} s" for count, seconds in frames["seconds"].items())
    print(
        f"An evaluation over the number of frames: {measured}; {frames['seconds_a_frame']:.3f} s a frame and "
        f"{frames['seconds_fixed']:.2f} s, at most {frames['largest_deviation']:.0%} off that line; grows with the "
        f"frames to the power of {frames['exponent']:.2f}."
    )


def _print_full_size(full: dict) -> None:
    print("\nSVD-XT at 1024×576, 25 frames, in fp16, counted tensor by tensor, not measured:\n")
    print("| | weights, GiB | activations, GiB | fits cards of, GB | with weights offloaded |\n|---|---|---|---|---|")
    for way, counted in full["counted"].items():
        fits, offloaded = (", ".join(map(str, counted[key])) or "none" for key in ("fits", "fits_with_offloading"))
        print(
            f"| {WAYS[way]} | {counted['weights_gib']:.2f} | {counted['activations_gib']:.2f} | {fits} | {offloaded} |"
        )
    print(
        f"\nOver two UNets': two videos a call {full['two_videos_over_two_unets']:.2f}, one video a call "
        f"{full['one_video_over_two_unets']:.2f}."
    )
