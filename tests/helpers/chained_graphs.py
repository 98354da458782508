"""The workflows that go on behind the inbetweening, and an upscaler for them."""

import json

import torch

from helpers.server import ROOT

NAMES = ["inbetween_upscale", "inbetween_vfi_core", "inbetween_vfi_rife"]
# Of the pack's own nodes, those that each of them has.
COMMON = [
    "InbetweenLoadSVD",
    "InbetweenLoadBackwardMotion",
    "InbetweenEncodeKeyframes",
    "InbetweenDualDirectionKSampler",
]


def graph_of(name: str) -> dict:
    return json.loads((ROOT / "workflows" / f"{name}.json").read_text(encoding="utf-8"))


def doubling_upscaler() -> dict[str, torch.Tensor]:
    """Real-ESRGAN Compact weights that add nothing to the enlarged input: each pixel becomes 2 × 2."""
    return {
        "body.0.weight": torch.zeros(4, 3, 3, 3),
        "body.0.bias": torch.zeros(4),
        "body.1.weight": torch.zeros(4),
        "body.2.weight": torch.zeros(4, 4, 3, 3),
        "body.2.bias": torch.zeros(4),
        "body.3.weight": torch.zeros(4),
        "body.4.weight": torch.zeros(12, 4, 3, 3),
        "body.4.bias": torch.zeros(12),
    }
