"""What the quality benchmark compares: variants of the method, and the trainings of its backward motion."""

from dataclasses import replace
from pathlib import Path

from ...weights.files import read_metadata
from ..common.methods import PEERS, Method
from ..common.options import OptionError

OURS = Method("ours, weighted fusion", {"fusion": "weighted"})
_AVERAGE = {"fusion": "average"}
_OWN = {"fusion": "weighted", "temporal_attention": "own"}
_TIME_REVERSAL = {"fusion": "weighted", "strategy": "time-reversal"}
SAMPLED = {
    "ours": OURS,
    "ours-average": Method("ours, average fusion", _AVERAGE),
    "ours-no-reinjection": Method("ours, weighted, no re-injection", {**OURS.inputs, "reinjections": 0}),
    "ours-average-no-reinjection": Method("ours, average, no re-injection", {**_AVERAGE, "reinjections": 0}),
    "ours-no-rotation": Method("ours without rotation", _OWN),
    "ours-own-maps": Method("ours fine-tuned with own maps", _OWN, "own"),
    "ours-own-maps-average": Method("ours fine-tuned with own maps, average", {**_OWN, **_AVERAGE}, "own"),
    "ours-no-fine-tuning": replace(OURS, label="ours without fine-tuning", strength=0.0),
    "ours-no-fine-tuning-average": Method("ours without fine-tuning, average", _AVERAGE, strength=0.0),
    "time-reversal": Method("Time Reversal Fusion, weighted", _TIME_REVERSAL, None),
    "time-reversal-average": Method("Time Reversal Fusion, average", {**_TIME_REVERSAL, **_AVERAGE}, None),
    "alternating": Method("alternating (ViBiDSampler)", {"strategy": "alternating"}, None),
    "motion-prior-distillation": Method("motion prior distillation", {"strategy": "motion-prior-distillation"}, None),
    "endpoint-correction": Method("endpoint correction", {"strategy": "endpoint-correction"}, None),
}
LABELS = {**PEERS, **{name: method.label for name, method in SAMPLED.items()}}


def with_weights(weights: dict[str, Path]) -> list[str]:
    """The methods that can be run with these backward-motion files."""
    return [name for name in LABELS if name in PEERS or SAMPLED[name].weights in (None, *weights)]


def further_trainings(files: list[Path]) -> tuple[dict[str, Path], dict[str, Method], dict[str, list[str]]]:
    """Each further training under both fusions, with the maps it was trained with.

    ({name of the weights: file}, {name: method}, {"maps, fusion": names}). Raises OptionError.
    """
    weights: dict[str, Path] = {}
    methods: dict[str, Method] = {}
    groups: dict[str, list[str]] = {}
    for number, path in enumerate(files, 1):
        if not path.is_file():
            raise OptionError(f"--trainings: expected a backward-motion file, found nothing at {path}.")
        maps, name = read_metadata(path).get("temporal_attention", "rotated"), f"training-{number}"
        weights[name] = path
        for fusion in ("weighted", "average"):
            inputs = {"fusion": fusion, "temporal_attention": maps}
            methods[f"{name}-{maps}-{fusion}"] = Method(f"training {number}, {maps} maps, {fusion}", inputs, name)
            groups.setdefault(f"{maps}, {fusion}", []).append(f"{name}-{maps}-{fusion}")
    return weights, methods, groups
