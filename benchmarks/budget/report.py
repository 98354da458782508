"""The budget benchmark's rows as budget.json and as a table."""

from pathlib import Path

from ..common.methods import CONTROLS
from ..common.metrics import METRICS
from ..common.report import cell, minus, summary, table

SHOWN = ("cvvdp", "motion_error", "ghosting", "psnr")
JUDGED = ("cvvdp", "motion_error")
PEERS = {"cross-fade": "cross-fade", "reconstruction": CONTROLS["reconstruction"]}


def result(out: Path, labels: dict[str, str], clips: list[str], beside: str = "paper") -> dict:
    """{"clips", "beside", "presets": {method: {"label", "unet_videos", "evaluations", metric: interval, "minus":
    {metric: interval}}}, "peers": …}.

    `beside`: the method that the differences are from.
    """
    presets = summary(out, "world", labels, clips)
    for name, each in presets.items():
        each.pop("per_frame")
        # 700, not 700.0: a count.
        each |= {work: round(each[work]) for work in ("unet_videos", "evaluations")}
        if name != beside:
            each["minus"] = minus(out, "world", name, beside, clips)
    return {"clips": len(clips), "beside": beside, "presets": presets, "peers": summary(out, "world", PEERS, clips)}


def markdown(result: dict) -> str:
    """budget.md: a method a row, from the most work to the least."""
    presets = sorted(result["presets"].values(), key=lambda each: -each["unet_videos"])
    metrics = [metric for metric in SHOWN if any(metric in each for each in presets)]
    titles = [METRICS[metric] for metric in metrics] + [
        f"minus `{result['beside']}`: {METRICS[metric]}" for metric in JUDGED
    ]
    rows = []
    for each in [*presets, *result["peers"].values()]:
        label = each["label"] + (f", {each['clips']} clips" if each["clips"] != result["clips"] else "")
        cells = [cell(each.get(metric)) for metric in metrics]
        cells += [cell(each.get("minus", {}).get(metric), signed=True) for metric in JUDGED]
        rows.append([label, f"{round(each['unet_videos'])}", *cells])
    return (
        f"Means and 95 % intervals over {result['clips']} held-out clips of the small world; minus "
        f"`{result['beside']}`: clip by clip, bold where the interval does not hold 0.\n\n"
    ) + table(["UNet videos", *titles], rows)
