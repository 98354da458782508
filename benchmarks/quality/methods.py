"""What the quality benchmark compares: variants of the method, and the trainings of its backward motion."""

from pathlib import Path

from ...weights.files import read_metadata
from ..common.methods import PEERS, Method
from ..common.options import OptionError

OURS = Method("ours, weighted fusion", {"fusion": "weighted"})
_AVERAGE = {"fusion": "average"}
_OWN = {"temporal_attention": "own"}
_EULER = {"sampler_name": "euler"}


def _equal_work(steps: int, reinjections: int) -> dict:
    """Euler steps of which the first half is done again; 9 with 1 and 7 with 2 are as many calls as 13 with none."""
    return {**_EULER, "steps": steps, "reinjections": reinjections, "reinjection_share": 0.5}


SAMPLED = {
    "ours": OURS,
    "ours-average": Method("ours, average fusion", _AVERAGE),
    "ours-euler": Method("ours, Euler, no re-injection", _equal_work(13, 0)),
    "ours-euler-1": Method("ours, Euler, 9 steps, 1 re-injection", _equal_work(9, 1)),
    "ours-euler-2": Method("ours, Euler, 7 steps, 2 re-injections", _equal_work(7, 2)),
    "ours-average-euler": Method("ours, average fusion, Euler, no re-injection", {**_equal_work(13, 0), **_AVERAGE}),
    "ours-average-euler-2": Method(
        "ours, average fusion, Euler, 7 steps, 2 re-injections", {**_equal_work(7, 2), **_AVERAGE}
    ),
    "ours-no-rotation": Method("ours without rotation", _OWN),
    "ours-own-maps": Method("ours fine-tuned with own maps", _OWN, "own"),
    "ours-no-fine-tuning": Method("ours without fine-tuning", strength=0.0),
    "time-reversal": Method("Time Reversal Fusion, weighted", {"strategy": "time-reversal"}, None),
    "time-reversal-average": Method("Time Reversal Fusion, average", {"strategy": "time-reversal", **_AVERAGE}, None),
    "alternating": Method("alternating (ViBiDSampler)", {"strategy": "alternating"}, None),
    "alternating-backward-motion": Method(
        "alternating, with backward motion", {"strategy": "alternating-backward-motion"}
    ),
    "motion-prior-distillation": Method("motion prior distillation", {"strategy": "motion-prior-distillation"}, None),
    "endpoint-correction": Method("endpoint correction", {"strategy": "endpoint-correction"}, None),
}
LABELS = {**PEERS, **{name: method.label for name, method in SAMPLED.items()}}


def with_weights(weights: dict[str, Path]) -> list[str]:
    """The methods that can be run with these backward-motion files."""
    return [name for name in LABELS if name in PEERS or SAMPLED[name].weights in (None, *weights)]


def further_trainings(files: list[Path]) -> tuple[dict[str, Path], dict[str, Method], dict[str, list[str]]]:
    """Each further training of the backward motion, with the maps it was trained with.

    ({name of the weights: file}, {name: method}, {maps: names}). Raises OptionError.
    """
    weights: dict[str, Path] = {}
    methods: dict[str, Method] = {}
    groups: dict[str, list[str]] = {}
    for number, path in enumerate(files, 1):
        if not path.is_file():
            raise OptionError(f"--trainings: expected a backward-motion file, found nothing at {path}.")
        maps, name = read_metadata(path).get("temporal_attention", "rotated"), f"training-{number}"
        weights[name] = path
        methods[name] = Method(f"training {number}, {maps} maps", {"temporal_attention": maps}, name)
        groups.setdefault(maps, []).append(name)
    return weights, methods, groups
