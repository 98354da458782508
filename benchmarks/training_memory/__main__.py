"""Peak memory of a fine-tuning step: one UNet with trainable copies beside it, against two UNets.

Each variant runs two optimizer steps in a process of its own, one after the other, at a middle size on the CPU; what
is compared is the peak of the process's resident memory above what it had before the model was made. `--full-size`
adds SVD at 1024x576, 14 frames, fp16, counted tensor by tensor (nothing is computed, and it is no measurement). Writes
training_memory.json and training_memory.md to DIR.

    python dev.py benchmark training_memory [--full-size] [--out DIR]
"""

from ...common.atomic_write import write_json
from ..common.options import benchmark_parser
from ..common.processes import in_own_process
from ..common.report import table
from .steps import VARIANTS, count_full_size, measure

RATIOS = {
    "ours_over_released": "ours with gradient checkpointing over two UNets without (as released)",
    "same_settings": "one UNet over two, both without gradient checkpointing",
    "same_settings_gradient_checkpointing": "one UNet over two, both with it",
}


def main() -> None:
    """Prints the table and writes it with its numbers."""
    parser = benchmark_parser("training_memory", __doc__)
    parser.add_argument("--full-size", action="store_true", help="also count SVD at full size (minutes)")
    options = parser.parse_args()
    middle = {name: in_own_process(measure, *variant) for name, variant in VARIANTS.items()}
    result = {"middle_size": middle, "ratios": ratios({name: each["peak_mb"] for name, each in middle.items()})}
    if options.full_size:
        counted = {name: count_full_size(*variant) for name, variant in VARIANTS.items()}
        result |= {"full_size_counted_gib": counted, "full_size_ratios": ratios(counted)}
    write_json(options.out / "training_memory.json", result)
    text = markdown(result)
    (options.out / "training_memory.md").write_text(text, encoding="utf-8")
    print(f"{text}\nResults: {options.out}")


def ratios(peak: dict[str, float]) -> dict[str, float]:
    """Ours, as configured for large models, over two UNets; and both with the same settings."""
    two, two_recomputed, one, one_recomputed = (peak[name] for name in VARIANTS)
    return dict(zip(RATIOS, (one_recomputed / two, one / two, one_recomputed / two_recomputed)))


def markdown(result: dict) -> str:
    """training_memory.md."""
    middle, counted = result["middle_size"], result.get("full_size_counted_gib", {})
    rows = [
        [name, f"{each['peak_mb']:.0f}", f"{counted[name]:.1f}" if counted else "–"] for name, each in middle.items()
    ]
    size = next(iter(middle.values()))["parameters"] / 1e6
    text = f"Middle size: {size:.0f} M parameters, float32, 14 frames at 8x8 latents, batch 1, CPU.\n\n"
    text += table(["peak, MB", "SVD at 1024x576 in fp16, counted, GiB"], rows) + "\n"
    full = result.get("full_size_ratios", {})
    for key, label in RATIOS.items():
        also = f" (full size, counted: {full[key]:.2f})" if full else ""
        text += f"- {label}: {result['ratios'][key]:.2f}{also}\n"
    return text


if __name__ == "__main__":
    main()
