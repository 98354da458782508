"""What the benchmark of Match Keyframes measures, on videos whose measures are known."""

import argparse
import math

import pytest
import torch
from generative_inbetweening.benchmarks.match_keyframes.measures import (
    KINDS,
    MEASURES,
    WAYS,
    markdown,
    measures,
    summary,
)
from generative_inbetweening.tools.paths import DEMO


def grey(*levels: float) -> torch.Tensor:
    """Frames of one grey each, in 8-bit levels."""
    return (torch.tensor(levels) / 255).reshape(-1, 1, 1, 1).expand(-1, 3, 8, 8)


def test_steps_and_errors_are_those_at_and_beside_the_keyframes():
    truth = grey(0, 10, 20, 30, 40, 50, 60)
    video = grey(4, 11, 20, 38, 41, 50, 60)
    found = measures(video, truth, [0, 3, 6], None)
    assert found["keyframes"] == pytest.approx((4 + 8 + 0) / 3, abs=1e-3)
    # 4 → 11, 20 → 38, 38 → 41, 50 → 60; each is 10 in truth.
    assert found["step"] == pytest.approx((7 + 18 + 3 + 10) / 4, abs=1e-3)
    assert found["step_error"] == pytest.approx((3 + 8 + 7 + 0) / 4, abs=1e-3)
    assert found["beside"] == pytest.approx((1 + 0 + 1 + 0) / 4, abs=1e-3)
    assert found["between"] == pytest.approx((1 + 0 + 1 + 0) / 4, abs=1e-3)
    assert math.isnan(found["cvvdp"])


def test_the_table_has_every_way_and_its_difference_to_the_video_as_made():
    rows = {
        kind: {
            way: [dict.fromkeys(MEASURES, 8.0 if way == "made" else 8.0 + number) for number in (1, 3)] for way in WAYS
        }
        for kind in KINDS
    }
    options = argparse.Namespace(
        clips=2, frames=8, size=64, preset="fast", first_seed=1, checkpoint=DEMO / "demo_svd.safetensors"
    )
    text = markdown(summary(rows, options))
    for kind in KINDS.values():
        part = text[text.index(f"{kind[1:]}:") :].split("\n\n")[1]
        lines = {line.split(" | ")[0].lstrip("| "): line for line in part.splitlines()}
        assert all(label in lines for label in WAYS.values())
        assert "**+2.00 [+1.00, +3.00]**" in lines[WAYS["12"]] and lines[WAYS["made"]].endswith("| – |")
