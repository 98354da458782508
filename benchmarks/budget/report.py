"""The budget benchmark's rows as budget.json, a table, a plot of quality over work, and contact sheets."""

from pathlib import Path

from ..quality import report as quality_report
from ..quality.pictures import contact_sheet, save_figure

METRICS = {
    "cvvdp": "ColorVideoVDP, JOD ↑",
    "motion_error": "motion error, px ↓",
    "ghosting": "ghosting ↓",
    "psnr": "PSNR, dB ↑",
}
PEERS = {"cross-fade": "cross-fade", "reconstruction": "the true frames through the VAE"}
JUDGED = ("cvvdp", "motion_error")


def summary(out: Path, labels: dict[str, str], clips: list[str]) -> dict:
    """{"presets": {method: {"label", "unet_videos", "evaluations", metric: interval, "minus_paper": {metric:
    interval}}}, "peers": …}."""
    presets = quality_report.summary(out, "world", list(labels), clips, labels)
    for name, each in presets.items():
        each.pop("per_frame")
        # 700, not 700.0: a count.
        each |= {work: round(each[work]) for work in ("unet_videos", "evaluations")}
        if name != "paper":
            each["minus_paper"] = quality_report.minus(out, "world", name, "paper", clips)
    peers = quality_report.summary(out, "world", list(PEERS), clips, PEERS)
    return {"clips": len(clips), "presets": presets, "peers": peers}


def markdown(result: dict) -> str:
    """budget.md: a method a row, from the most work to the least."""
    presets = sorted(result["presets"].values(), key=lambda each: -each["unet_videos"])
    metrics = [metric for metric in METRICS if any(metric in each for each in presets)]
    lines = [
        (
            f"Means and 95 % intervals over {result['clips']} held-out clips of the small world; minus `paper`: clip "
            "by clip, bold where the interval does not hold 0.\n"
        ),
        "| | UNet videos | "
        + " | ".join(METRICS[metric] for metric in metrics)
        + " | "
        + " | ".join(f"minus `paper`: {METRICS[metric]}" for metric in JUDGED)
        + " |",
        "|---" * (2 + len(metrics) + len(JUDGED)) + "|",
    ]
    for each in [*presets, *result["peers"].values()]:
        cells = [quality_report.cell(each.get(metric)) for metric in metrics]
        cells += [quality_report.cell(each.get("minus_paper", {}).get(metric), signed=True) for metric in JUDGED]
        label = each["label"] + (f", {each['clips']} clips" if each["clips"] != result["clips"] else "")
        lines.append(f"| {label} | {round(each['unet_videos'])} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def plot(path: Path, result: dict) -> None:
    """Quality over UNet videos, on a logarithmic axis, with 95 % intervals; one panel a metric."""
    from matplotlib.figure import Figure

    presets = list(result["presets"].values())
    metrics = [metric for metric in ("cvvdp", "motion_error", "ghosting") if any(metric in each for each in presets)]
    work = [each["unet_videos"] for each in presets]
    ticks = sorted(set(work))
    figure = Figure(figsize=(5 * len(metrics), 5.5), layout="constrained")
    for axis, metric in zip(figure.subplots(1, len(metrics), squeeze=False)[0], metrics):
        for each, place in zip(presets, _side_by_side(work)):
            value = each[metric]
            axis.errorbar(
                [place],
                [value["mean"]],
                [[value["mean"] - value["low"]], [value["high"] - value["mean"]]],
                marker="o",
                capsize=3,
                label=each["label"],
            )
        axis.axhline(result["peers"]["cross-fade"][metric]["mean"], linestyle=":", color="grey", label="cross-fade")
        axis.set(xscale="log", xlabel="UNet videos a clip", ylabel=METRICS[metric])
        axis.set_xticks(ticks, [str(tick) for tick in ticks])
        axis.set_xticks([], minor=True)
        axis.grid(alpha=0.3)
    figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize="small")
    save_figure(figure, path)


def _side_by_side(work: list[float]) -> list[float]:
    """Where to draw methods on a logarithmic axis: those of the same work a little to the right of each other."""
    return [value * 1.05 ** work[:index].count(value) for index, value in enumerate(work)]


def contact_sheets(out: Path, labels: dict[str, str], clips: list[str]) -> None:
    """The videos of all methods below the true one, for some clips."""
    captions = {**labels, **PEERS}
    for clip in clips:
        contact_sheet(
            out / "contact_sheets" / f"{clip}.png",
            {label: out / "frames" / "world" / name / f"{clip}.png" for name, label in captions.items()},
        )
