"""Plots and contact sheets of the benchmark, as PNG."""

import json
from pathlib import Path

from PIL import Image, ImageDraw

from ...common.atomic_write import atomic_write

ZOOM, CAPTION, GAP = 2, 14, 4
MOVING_ZOOM, FRAME_MS, HOLD_MS = 3, 143, 700
PAPER, INK = "white", "black"
PLOTTED = ("cross-fade", "rife", "forward", "time-reversal", "ours-no-fine-tuning", "ours-own-maps", "ours")


def contact_sheet(path: Path, rows: dict[str, Path]) -> None:
    """Strips of frames below each other, {caption: strip}."""
    strips = {caption: Image.open(strip).convert("RGB") for caption, strip in rows.items() if strip.exists()}
    if not strips:
        return
    width, height = next(iter(strips.values())).size
    step = height * ZOOM + CAPTION + GAP
    sheet = Image.new("RGB", (width * ZOOM, step * len(strips)), PAPER)
    draw = ImageDraw.Draw(sheet)
    for number, (caption, strip) in enumerate(strips.items()):
        draw.text((GAP, number * step), caption, fill=INK)
        sheet.paste(strip.resize((width * ZOOM, height * ZOOM), Image.Resampling.NEAREST), (0, number * step + CAPTION))
    with atomic_write(path) as temporary:
        sheet.save(temporary, "PNG")


def moving_picture(path: Path, columns: dict[str, Path], frames: int) -> None:
    """Strips of `frames` frames playing beside each other as an endless GIF, {caption: strip}."""
    strips = {caption: Image.open(strip).convert("RGB") for caption, strip in columns.items() if strip.exists()}
    if not strips:
        return
    side = next(iter(strips.values())).height * MOVING_ZOOM
    pictures = []
    for frame in range(frames):
        picture = Image.new("RGB", ((side + GAP) * len(strips) - GAP, side + CAPTION), PAPER)
        draw = ImageDraw.Draw(picture)
        for number, (caption, strip) in enumerate(strips.items()):
            width = strip.width // frames
            cut = strip.crop((frame * width, 0, (frame + 1) * width, strip.height))
            left = number * (side + GAP)
            picture.paste(cut.resize((side, side), Image.Resampling.BICUBIC), (left, CAPTION))
            draw.text((left + GAP, 0), caption, fill=INK)
        pictures.append(picture)
    # The ends stand still for a moment, so that the keyframes are seen.
    times = [HOLD_MS if frame in (0, frames - 1) else FRAME_MS for frame in range(frames)]
    with atomic_write(path) as temporary:
        pictures[0].save(temporary, "GIF", save_all=True, append_images=pictures[1:], duration=times, loop=0)


def plot_over_frames(path: Path, methods: dict[str, dict], title: str) -> None:
    """Mean quality of each frame of the video, one panel a metric."""
    from matplotlib.figure import Figure

    shown = {name: methods[name] for name in PLOTTED if name in methods}
    panels = [
        (metric, label)
        for metric, label in (("psnr", "PSNR, dB"), ("motion_error", "motion error, px"), ("ghosting", "ghosting"))
        if any(metric in each["per_frame"] for each in shown.values())
    ]
    if not panels:
        return
    figure = Figure(figsize=(5 * len(panels), 4), layout="constrained")
    figure.suptitle(title)
    for axis, (metric, label) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels):
        for each in shown.values():
            values = each["per_frame"].get(metric, [])
            inner = [(frame, value) for frame, value in enumerate(values[:-1]) if frame and value is not None]
            axis.plot(*zip(*inner), marker="o", label=each["label"])
        axis.set(xlabel="frame", ylabel=label)
        axis.grid(alpha=0.3)
    axis.legend(fontsize="small")
    save_figure(figure, path)


def plot_held_out_loss(path: Path, logs: list[Path]) -> None:
    """Held-out loss of the backward model over the fine-tuning, with the two base losses, from its log.jsonl."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axis, base = figure.subplots(), {}
    for log in logs:
        entries = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
        held_out = [entry for entry in entries if entry.get("event") == "held-out" and "loss" in entry]
        settings = next((entry["settings"] for entry in entries if entry.get("event") == "start"), {})
        name = f"{settings.get('maps', '?')} maps, seed {settings.get('seed', '?')}"
        if held_out:
            axis.errorbar(
                [entry["step"] for entry in held_out],
                [entry["loss"]["mean"] for entry in held_out],
                [entry["loss"]["plus_minus"] for entry in held_out],
                marker="o",
                capsize=3,
                label=name,
            )
        base.update(next((entry for entry in entries if "base_rotated" in entry), {}))
    for maps, style in (("rotated", "--"), ("own", ":")):
        if f"base_{maps}" in base:
            axis.axhline(
                base[f"base_{maps}"]["mean"], linestyle=style, color="grey", label=f"untouched weights, {maps} maps"
            )
    axis.set(xlabel="step of the fine-tuning", ylabel="held-out loss on reversed clips")
    axis.legend(fontsize="small")
    axis.grid(alpha=0.3)
    save_figure(figure, path)


def save_figure(figure, path: Path) -> None:
    """Writes a matplotlib figure as PNG, under a temporary name first."""
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
