"""The command line of the quality benchmark, and what it leads to: which methods run with which files."""

import argparse
import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from generative_inbetweening.weights.files import read_metadata

from ..common.workers import add_worker_options
from .clips import FIRST_SEED
from .methods import LABELS, SAMPLED, DualDirection, SamplingSettings

DEMO = Path(__file__).resolve().parents[2] / "demo"


class OptionError(ValueError):
    """An option that cannot be used; the message names it."""


@dataclass
class Plan:
    """What is compared: `{method: label}` for both sets of clips, and the trainings of the backward motion."""

    labels: dict[str, str]
    choices: dict[str, DualDirection]
    backward_motion: dict[str, Path]
    trainings: dict[str, list[str]]


def parse(description: str) -> argparse.Namespace:
    """The command line."""
    defaults = SamplingSettings()
    parser = argparse.ArgumentParser(
        prog="quality", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--clips", type=int, default=64, help="held-out clips of the small world (default: 64)")
    add("--footage-clips", type=int, default=16, help="held-out clips of real footage (default: 16)")
    add("--out", type=Path, default=Path("benchmark_output") / "quality", help="folder for all results")
    add("--methods", type=lambda text: text.split(","), help=f"some of {','.join(LABELS)} (default: all)")
    add("--checkpoint", type=Path, default=DEMO / "demo_svd.safetensors", help="SVD model, file or diffusers folder")
    add(
        "--backward-motion",
        type=Path,
        default=DEMO / "demo_backward_motion.safetensors",
        help="its backward-motion file",
    )
    add("--own-maps", type=Path, metavar="FILE", help="backward-motion file trained with --maps own")
    add(
        "--trainings",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="backward-motion files of further training seeds, with rotated or own maps",
    )
    add("--training-log", type=Path, nargs="+", default=[], metavar="FILE", help="log.jsonl of fine-tunings, to plot")
    add("--frames", type=int, default=8, help="frames of a clip (default: 8)")
    add("--size", type=int, default=64, help="side of the pictures in pixels (default: 64)")
    add("--steps", type=int, default=defaults.steps, help=f"sampling steps (default: {defaults.steps})")
    add(
        "--guidance",
        type=float,
        nargs=2,
        default=(defaults.guidance_min, defaults.guidance_max),
        metavar=("MIN", "MAX"),
        help="guidance of all methods (default: 1 3)",
    )
    add(
        "--reinjections",
        type=int,
        default=defaults.reinjections,
        help=f"re-injections on the first half of the steps (default: {defaults.reinjections})",
    )
    add("--rife-enlarge", type=int, default=1, metavar="N", help="RIFE sees the pictures N times larger (default: 1)")
    add("--first-seed", type=int, default=FIRST_SEED, help="seed of the first clip")
    add("--sheets", type=int, default=8, help="contact sheets of each kind (default: 8)")
    add("--without-cvvdp", action="store_true", help="leave ColorVideoVDP out, which takes most of the measuring")
    add("--training-clips", type=int, default=16, help="clips on which the further trainings are run (default: 16)")
    add("--report-only", action="store_true", help="write the report of what --out holds and run nothing")
    add_worker_options(parser)
    return parser.parse_args()


def make_plan(options: argparse.Namespace) -> Plan:
    """Methods that can be run with the files given. Raises OptionError."""
    for option in ("checkpoint", "backward_motion", "own_maps"):
        path = getattr(options, option)
        if path is not None and not path.exists():
            raise OptionError(f"--{option.replace('_', '-')}: expected a model file, found nothing at {path}.")
    files = {"rotated": options.backward_motion}
    files.update({"own": options.own_maps} if options.own_maps else {})
    choices = {name: choice for name, choice in SAMPLED.items() if choice.weights in (None, *files)}
    labels = {name: label for name, label in LABELS.items() if name in choices or name not in SAMPLED}
    if options.methods:
        unknown = [name for name in options.methods if name not in labels]
        if unknown:
            raise OptionError(
                f"--methods: expected some of {', '.join(labels)}; found {', '.join(unknown)}. Those "
                "with own-maps need --own-maps FILE."
            )
        labels = {name: label for name, label in labels.items() if name in options.methods}
    plan = Plan(labels, choices, files, {})
    add_trainings(plan, options.trainings)
    return plan


def add_trainings(plan: Plan, files: list[Path]) -> None:
    """Each further training under both fusions, with the maps it was trained with. Raises OptionError."""
    if not files:
        return
    for weights, stem in (("rotated", "ours"), ("own", "ours-own-maps")):
        for fusion, name in (("weighted", stem), ("average", f"{stem}-average")):
            if name in plan.labels:
                plan.trainings.setdefault(f"{weights}, {fusion}", []).append(name)
    for number, path in enumerate(files, 1):
        if not path.is_file():
            raise OptionError(f"--trainings: expected a backward-motion file, found nothing at {path}.")
        maps = read_metadata(path).get("temporal_attention", "rotated")
        weights = f"training-{number}"
        plan.backward_motion[weights] = path
        for fusion in ("weighted", "average"):
            name = f"{weights}-{maps}-{fusion}"
            plan.choices[name] = DualDirection(f"training {number}, {maps} maps, {fusion}", fusion, maps, weights)
            plan.trainings.setdefault(f"{maps}, {fusion}", []).append(name)


def keep_settings(options: argparse.Namespace, plan: Plan) -> None:
    """Refuses a folder that holds results of other settings. Raises OptionError."""
    settings = {
        **asdict(sampling(options)),
        "cvvdp": not options.without_cvvdp,
        **{name: getattr(options, name) for name in ("frames", "size", "first_seed", "rife_enlarge")},
    }
    keep(options, settings, {"checkpoint": options.checkpoint, **plan.backward_motion})


def keep(options: argparse.Namespace, settings: dict, files: dict[str, Path]) -> None:
    """Writes down what the results in `--out` were made with, and refuses a folder of other settings or files.

    Raises OptionError, also for a file that there is not.
    """
    for name, file in files.items():
        if not file.exists():
            raise OptionError(f"--{name.replace('_', '-')}: expected a model file, found nothing at {file}.")
    path = options.out / "settings.json"
    kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    for name, value in {**settings, **{name: _digest(file) for name, file in files.items()}}.items():
        if kept.setdefault(name, value) != value:
            raise OptionError(f"--out: {options.out} holds results of another {name}. Choose another folder.")
    if options.worker is None:
        options.out.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")


def _digest(path: Path) -> str:
    files = [path] if path.is_file() else sorted(path.rglob("*.safetensors"))
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def sampling(options: argparse.Namespace) -> SamplingSettings:
    return SamplingSettings(options.steps, *options.guidance, options.reinjections)
