"""The plot of the last keyframe's benchmark."""

from pathlib import Path

from matplotlib.figure import Figure

from ..common.pictures import save_figure


def plot(path: Path, result: dict) -> None:
    """The mean speed along the heading, step by step."""
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axis = figure.subplots()
    for name, each in result["methods"].items():
        style = {"color": "black", "linestyle": ":"} if name == "truth" else {"marker": "o"}
        axis.plot(range(1, len(each["speed"]) + 1), each["speed"], label=each["label"], **style)
    axis.axhline(0, color="grey", linewidth=0.8)
    axis.set(xlabel="step from frame to frame", ylabel="speed along the heading, px/frame")
    axis.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=2, fontsize="small")
    save_figure(figure, path)
