"""The budget benchmark's plot of quality over work, and its contact sheets."""

from pathlib import Path

from matplotlib.figure import Figure

from ..common.metrics import METRICS
from ..common.pictures import contact_sheet, save_figure
from ..common.rows import strip
from .report import PEERS, SHOWN


def plot(path: Path, result: dict) -> None:
    """Quality over UNet videos, on a logarithmic axis, with 95 % intervals; one panel a metric."""
    presets = list(result["presets"].values())
    metrics = [metric for metric in SHOWN[:3] if any(metric in each for each in presets)]
    work = [each["unet_videos"] for each in presets]
    ticks = sorted(set(work))
    figure = Figure(figsize=(5 * len(metrics), 5.5), layout="constrained")
    for axis, metric in zip(figure.subplots(1, len(metrics), squeeze=False)[0], metrics):
        for index, each in enumerate(presets):
            value = each[metric]
            # Methods of the same work a little to the right of each other.
            place = work[index] * 1.05 ** work[:index].count(work[index])
            reach = [[value["mean"] - value["low"]], [value["high"] - value["mean"]]]
            axis.errorbar([place], [value["mean"]], reach, marker="o", capsize=3, label=each["label"])
        axis.axhline(result["peers"]["cross-fade"][metric]["mean"], linestyle=":", color="grey", label="cross-fade")
        axis.set(xscale="log", xlabel="UNet videos a clip", ylabel=METRICS[metric])
        axis.set_xticks(ticks, [str(tick) for tick in ticks])
        axis.set_xticks([], minor=True)
        axis.grid(alpha=0.3)
    figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize="small")
    save_figure(figure, path)


def contact_sheets(out: Path, labels: dict[str, str], clips: list[str]) -> None:
    """The videos of all methods below each other, for some clips."""
    for clip in clips:
        rows = {label: strip(out, "world", name, clip) for name, label in {**labels, **PEERS}.items()}
        contact_sheet(out / "contact_sheets" / f"{clip}.png", rows)
