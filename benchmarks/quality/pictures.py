"""The quality benchmark's plots, contact sheets and moving pictures."""

from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

from ...common.atomic_write import atomic_write
from ..common.clips import first_of_each_number
from ..common.methods import CONTROLS
from ..common.pictures import contact_sheet, save_figure
from ..common.rows import strip

CAPTION, GAP, FONT = 30, 6, 20
MOVING_SIDE, FRAME_MS, HOLD_MS = 256, 143, 700
"""Of a moving picture: a video's least height in pixels, how long a frame and a keyframe are shown."""
PLOTTED = ("cross-fade", "rife", "forward", "time-reversal", "ours-no-fine-tuning", "ours-own-maps", "ours")
MOVING = {
    "ours": "this pack",
    "rife": "RIFE",
    "cross-fade": "cross-fade",
    "truth": "the true frames",
}


def draw(out: Path, result: dict, clips: dict[str, list[str]], frames: int) -> None:
    """Contact sheets and moving pictures of these clips, and the plots."""
    labels = {name: each["label"] for name, each in result["methods"].items()}
    rows = {"truth": CONTROLS["truth"], **labels, "reconstruction": CONTROLS["reconstruction"]}
    for kind, names in clips.items():
        for clip in names:
            contact_sheet(
                out / "contact_sheets" / f"{kind}_{clip}.png",
                {label: strip(out, kind, name, clip) for name, label in rows.items()},
            )
            moving_picture(out / "moving_pictures" / f"{kind}_{clip}.webp", [_moving(out, kind, clip)], frames)
    shown = first_of_each_number(clips["world"])
    moving_picture(out / "inbetween.webp", [_moving(out, "world", clip) for clip in shown], frames)
    plot_over_frames(out / "quality_over_frames.png", result["methods"], "Small world")
    plot_over_frames(out / "quality_over_frames_footage.png", result["footage"]["methods"], "Real footage")
    plot_held_out_loss(out / "held_out_loss.png", result["held_out_loss"])


def _moving(out: Path, kind: str, clip: str) -> dict[str, Path]:
    return {caption: strip(out, kind, name, clip) for name, caption in MOVING.items()}


def moving_picture(target: Path, clips: list[dict[str, Path]], frames: int) -> None:
    """Strips of `frames` frames playing beside each other, a clip a row, as an endless WebP, [{caption: strip}]."""
    rows = [{caption: Image.open(path) for caption, path in clip.items() if path.exists()} for clip in clips]
    if not rows or not rows[0]:
        return
    pictures = [_side_by_side(rows, frame, frames) for frame in range(frames)]
    # The ends stand still for a moment, so that the keyframes are seen.
    times = [HOLD_MS if frame in (0, frames - 1) else FRAME_MS for frame in range(frames)]
    with atomic_write(target) as temporary:
        more = {"save_all": True, "append_images": pictures[1:], "duration": times, "loop": 0}
        pictures[0].save(temporary, "WEBP", quality=90, method=6, **more)


def _side_by_side(rows: list[dict[str, Image.Image]], frame: int, frames: int) -> Image.Image:
    """One frame of every strip, small ones enlarged, with the captions above."""
    columns, one = list(rows[0]), next(iter(rows[0].values()))
    zoom, width, height = max(1, -(-MOVING_SIDE // one.height)), one.width // frames, one.height
    across, down = width * zoom + GAP, height * zoom + GAP
    picture = Image.new("RGB", (across * len(columns) - GAP, CAPTION + down * len(rows) - GAP), "white")
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(FONT)
    for column, caption in enumerate(columns):
        draw.text((across * column + width * zoom / 2, CAPTION / 2), caption, fill="black", font=font, anchor="mm")
        for row, strips in enumerate(rows):
            if caption in strips:
                cut = strips[caption].convert("RGB").crop((frame * width, 0, (frame + 1) * width, height))
                enlarged = cut.resize((width * zoom, height * zoom), Image.Resampling.BICUBIC)
                picture.paste(enlarged, (across * column, CAPTION + down * row))
    return picture


def plot_over_frames(path: Path, methods: dict[str, dict], title: str) -> None:
    """Mean quality of each frame of the video, one panel a metric."""
    shown = [methods[name] for name in PLOTTED if name in methods]
    metrics = {"psnr": "PSNR, dB", "motion_error": "motion error, px", "ghosting": "ghosting"}
    panels = [metric for metric in metrics if any(metric in each["per_frame"] for each in shown)]
    if not panels:
        return
    figure = Figure(figsize=(5 * len(panels), 4), layout="constrained")
    figure.suptitle(title)
    for axis, metric in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels):
        for each in shown:
            values = each["per_frame"].get(metric, [])
            inner = [(frame, value) for frame, value in enumerate(values[:-1]) if frame and value is not None]
            axis.plot(*zip(*inner), marker="o", label=each["label"])
        axis.set(xlabel="frame", ylabel=metrics[metric])
        axis.grid(alpha=0.3)
    axis.legend(fontsize="small")
    save_figure(figure, path)


def plot_held_out_loss(path: Path, runs: list[dict]) -> None:
    """Held-out loss of the backward model over each fine-tuning, with the last one's two base losses."""
    if not runs:
        return
    figure = Figure(figsize=(6, 4.5), layout="constrained")
    axis = figure.subplots()
    for run in runs:
        label = f"{run['maps']} maps, seed {run['seed']}"
        axis.errorbar(*zip(*run["curve"]), marker="o", capsize=3, label=label)
    for maps, style in (("rotated", "--"), ("own", ":")):
        mean, label = runs[-1][f"base_{maps}"]["mean"], f"untouched weights, {maps} maps"
        axis.axhline(mean, linestyle=style, color="grey", label=label)
    axis.set(xlabel="step of the fine-tuning", ylabel="held-out loss on reversed clips")
    figure.legend(loc="outside lower center", ncols=2, fontsize="small")
    axis.grid(alpha=0.3)
    save_figure(figure, path)
