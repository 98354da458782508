"""The budget benchmark's rows as budget.json and as a table."""

from pathlib import Path

from ..common.methods import CONTROLS
from ..common.metrics import METRICS
from ..common.report import cell, minus, summary, table

SHOWN = ("cvvdp", "motion_error", "ghosting", "psnr")
JUDGED = ("cvvdp", "motion_error")
PEERS = {"cross-fade": "cross-fade", "reconstruction": CONTROLS["reconstruction"]}


def result(out: Path, labels: dict[str, str], clips: list[str]) -> dict:
    """{"clips", "presets": {method: {"label", "unet_videos", "evaluations", metric: interval, "minus_paper": {metric:
    interval}}}, "peers": …}."""
    presets = summary(out, "world", labels, clips)
    for name, each in presets.items():
        each.pop("per_frame")
        # 700, not 700.0: a count.
        each |= {work: round(each[work]) for work in ("unet_videos", "evaluations")}
        if name != "paper":
            each["minus_paper"] = minus(out, "world", name, "paper", clips)
    return {"clips": len(clips), "presets": presets, "peers": summary(out, "world", PEERS, clips)}


def markdown(result: dict) -> str:
    """budget.md: a method a row, from the most work to the least."""
    presets = sorted(result["presets"].values(), key=lambda each: -each["unet_videos"])
    metrics = [metric for metric in SHOWN if any(metric in each for each in presets)]
    titles = [METRICS[metric] for metric in metrics] + [f"minus `paper`: {METRICS[metric]}" for metric in JUDGED]
    rows = []
    for each in [*presets, *result["peers"].values()]:
        label = each["label"] + (f", {each['clips']} clips" if each["clips"] != result["clips"] else "")
        cells = [cell(each.get(metric)) for metric in metrics]
        cells += [cell(each.get("minus_paper", {}).get(metric), signed=True) for metric in JUDGED]
        rows.append([label, f"{round(each['unet_videos'])}", *cells])
    return (
        f"Means and 95 % intervals over {result['clips']} held-out clips of the small world; minus `paper`: clip "
        "by clip, bold where the interval does not hold 0.\n\n"
    ) + table(["UNet videos", *titles], rows)
