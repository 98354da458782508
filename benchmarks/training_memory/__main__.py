"""Peak memory of a fine-tuning step: one UNet with trainable copies beside it, against two UNets.

    python benchmarks/training_memory.py [--out DIR] [--full-size]

Each variant runs two optimizer steps in a process of its own, one after the other, at a middle size on the CPU; what
is compared is the peak of the process's resident memory above what it had before the model was made. `--full-size`
adds SVD at 1024x576, 14 frames, fp16, counted tensor by tensor (nothing is computed, and it is no measurement).
"""

from __future__ import annotations

import argparse
import copy
import json
import resource
import subprocess
import sys
from pathlib import Path

VARIANTS = {
    "two UNets": ("two", False),
    "two UNets, gradient checkpointing": ("two", True),
    "one UNet": ("one", False),
    "one UNet, gradient checkpointing": ("one", True),
}
MIDDLE_SIZE = {
    "sample_size": 8,
    "block_out_channels": [128, 256, 512, 512],
    "num_attention_heads": [2, 4, 8, 8],
    "cross_attention_dim": 256,
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 768,
}


class TwoUNets:
    """The released method: a frozen reference UNet and a whole trained one, attention maps kept as tensors between."""

    def __init__(self, unet, recompute: bool) -> None:
        from generative_inbetweening.training.svd import temporal_self_attentions

        self.reference = unet.requires_grad_(False)
        self.trained = copy.deepcopy(unet)
        if recompute:
            self.trained.enable_gradient_checkpointing()
        self.maps: dict[str, object] = {}
        self.trainable = []
        for name, layer in temporal_self_attentions(self.reference).items():
            layer.set_processor(lambda attn, x, name=name, **_: self._attend(attn, x, name, keep=True))
        for name, layer in temporal_self_attentions(self.trained).items():
            layer.set_processor(lambda attn, x, name=name, **_: self._attend(attn, x, name, keep=False))
            for module in (layer.to_v, layer.to_out[0]):
                module.weight.data = module.weight.data.float()
                self.trainable.append(module.weight.requires_grad_(True))

    def _attend(self, attn, hidden_states, name: str, keep: bool):
        import torch.nn.functional as F

        def split(projected):
            return projected.unflatten(-1, (attn.heads, -1)).transpose(1, 2)

        if keep:
            query, key = split(attn.to_q(hidden_states)), split(attn.to_k(hidden_states))
            self.maps[name] = (query @ key.transpose(-1, -2) * attn.scale).softmax(-1)
        probabilities = self.maps[name] if keep else self.maps[name].flip(-1, -2)
        values = split(F.linear(hidden_states, attn.to_v.weight.to(hidden_states.dtype)))
        attended = (probabilities @ values).transpose(1, 2).flatten(2)
        output = attn.to_out[0]
        return F.linear(attended, output.weight.to(hidden_states.dtype), output.bias)

    def __call__(self, latents, noise, sigma, first_latent, last_latent, first_embedding, last_embedding, time_ids):
        import torch
        from generative_inbetweening.training import loss as edm

        target, dtype = latents.flip(1), self.reference.dtype
        noisy, time = target + noise * edm.per_clip(sigma), edm.network_time(sigma)
        with torch.no_grad():
            self.reference(
                edm.network_input(noisy.flip(1), sigma, first_latent).to(dtype),
                time,
                first_embedding.to(dtype),
                time_ids,
            )
        prediction = self.trained(
            edm.network_input(noisy, sigma, last_latent).to(dtype), time, last_embedding.to(dtype), time_ids
        ).sample
        return edm.clip_losses(edm.denoise(prediction.float(), noisy, sigma), target, sigma)


def make_step(kind: str, unet, recompute: bool):
    """(loss function, trained parameters) of a variant."""
    from generative_inbetweening.training.model import BackwardMotionModel, enable_gradient_checkpointing

    if kind == "two":
        model = TwoUNets(unet, recompute)
        return model, model.trainable
    model = BackwardMotionModel(unet, dtype=unet.dtype)
    if recompute:
        enable_gradient_checkpointing(unet)
    return model, list(model.parameters())


def measure(kind: str, recompute: bool) -> dict[str, float]:
    """Run two steps at the middle size in this process; peak resident memory above the start, in MB, and the loss."""
    import torch
    from diffusers import UNetSpatioTemporalConditionModel
    from generative_inbetweening.training.memory import step_inputs
    from generative_inbetweening.training.settings import Settings

    torch.manual_seed(0)
    settings = Settings(frames=14, width=64, height=64, batch_size=1)
    before = resident_mb()
    unet = UNetSpatioTemporalConditionModel.from_config(MIDDLE_SIZE).eval()
    parameters = sum(each.numel() for each in unet.parameters())
    inputs = {name: torch.randn(value.shape).abs() + 0.1 for name, value in step_inputs(settings, unet.config).items()}
    loss_of, trained = make_step(kind, unet, recompute)
    optimizer = torch.optim.AdamW(trained, lr=1e-4)
    losses = []
    for _ in range(2):
        loss = loss_of(**inputs).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return {"peak_mb": resident_mb() - before, "process_mb": resident_mb(), "parameters": parameters, "losses": losses}


def resident_mb() -> float:
    """Peak resident memory of this process so far, in MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e3)


def count_full_size(kind: str, recompute: bool) -> float:
    """GiB of a step of SVD at 1024x576, 14 frames, fp16: parameters and the peak of everything else."""
    import torch
    from diffusers import UNetSpatioTemporalConditionModel
    from generative_inbetweening.training.memory import (
        GIB,
        LiveBytes,
        configurations,
        fused_attention,
        parameter_bytes,
        step_inputs,
    )
    from generative_inbetweening.training.settings import Settings
    from torch import nn

    settings = Settings(mixed_precision="fp16")
    with fused_attention(), torch.device("meta"):
        unet = UNetSpatioTemporalConditionModel.from_config(configurations(settings)[0])
        loss_of, trained = make_step(kind, nn.Module.to(unet, "meta", torch.float16), recompute)
        optimizer = torch.optim.AdamW(trained, lr=1e-4)
        modules = [unet, loss_of.trained] if kind == "two" else [unet, loss_of]
        with LiveBytes([each for module in modules for each in module.parameters()]) as live:
            for parameter in trained:
                parameter.grad = torch.zeros_like(parameter)
            optimizer.step()
            optimizer.zero_grad()
            loss_of(**step_inputs(settings, unet.config)).mean().backward()
            optimizer.step()
    return (sum(map(parameter_bytes, modules)) + live.peak) / GIB


def run_all(full_size: bool) -> dict[str, object]:
    """Measure every variant in a process of its own."""
    middle = {}
    for name, (kind, recompute) in VARIANTS.items():
        command = [
            sys.executable,
            "-m",
            "generative_inbetweening.benchmarks.training_memory",
            "--measure",
            kind,
            *(["--recompute"] if recompute else []),
        ]
        middle[name] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    result: dict[str, object] = {"middle_size": middle, "ratios": ratios({k: v["peak_mb"] for k, v in middle.items()})}
    if full_size:
        counted = {name: count_full_size(*variant) for name, variant in VARIANTS.items()}
        result |= {"full_size_counted_gib": counted, "full_size_ratios": ratios(counted)}
    return result


def ratios(peak: dict[str, float]) -> dict[str, float]:
    """Ours, as configured for large models, over two UNets; and both with the same settings."""
    two, two_recomputed, one, one_recomputed = (peak[name] for name in VARIANTS)
    return {
        "ours_over_released": one_recomputed / two,
        "same_settings": one / two,
        "same_settings_gradient_checkpointing": one_recomputed / two_recomputed,
    }


def table(result: dict[str, object]) -> str:
    """The result as Markdown."""
    middle = result["middle_size"]
    size = next(iter(middle.values()))["parameters"] / 1e6
    counted = result.get("full_size_counted_gib", {})
    lines = [
        f"Middle size: {size:.0f} M parameters, float32, 14 frames at 8x8 latents, batch 1, CPU.",
        "",
        "| | peak, MB | SVD at 1024x576 in fp16, counted, GiB |",
        "|---|---|---|",
    ]
    lines += [
        f"| {name} | {each['peak_mb']:.0f} | {counted.get(name, float('nan')):.1f} |" for name, each in middle.items()
    ]
    labels = {
        "ours_over_released": "ours with gradient checkpointing over two UNets without (as released)",
        "same_settings": "one UNet over two, both without gradient checkpointing",
        "same_settings_gradient_checkpointing": "one UNet over two, both with it",
    }
    full = result.get("full_size_ratios", {})
    lines.append("")
    for key, label in labels.items():
        also = f" (full size, counted: {full[key]:.2f})" if full else ""
        lines.append(f"- {label}: {result['ratios'][key]:.2f}{also}")
    return "\n".join(lines).replace("nan", "–")


def main() -> None:
    """Print the table; with --out write it and training_memory.json there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="folder for training_memory.json and training_memory.md")
    parser.add_argument("--full-size", action="store_true", help="also count SVD at full size (minutes)")
    parser.add_argument("--measure", choices=("one", "two"), help=argparse.SUPPRESS)
    parser.add_argument("--recompute", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments.measure, arguments.recompute)))
        return
    result = run_all(arguments.full_size)
    print(table(result))
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
        (arguments.out / "training_memory.json").write_text(json.dumps(result, indent=1))
        (arguments.out / "training_memory.md").write_text(table(result) + "\n")


if __name__ == "__main__":
    main()
