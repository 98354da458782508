"""The curve of the demo model's training, from a log of which a part was written again."""

import json

import pytest

pytest.importorskip("matplotlib")
from generative_inbetweening.demo.model import curve


def test_steps_that_were_taken_again_count_once_and_other_numbers_stay(tmp_path):
    lines = [
        *({"stage": "unet", "step": step, "loss": 1 / step} for step in (50, 100, 150)),
        {"stage": "unet", "step": 100, "held_out_loss": 0.5},
        *({"stage": "unet", "step": step, "loss": 2 / step} for step in (100, 150)),
        {"stage": "decoder", "step": 50, "mse": 0.01},
        {"stage": "decoder", "held_out_psnr": 36.0},
    ]
    log = tmp_path / "log.jsonl"
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    read = curve.read_log(log)
    assert [line["loss"] for line in read if "loss" in line] == [1 / 50, 2 / 100, 2 / 150]
    assert [line for line in read if "loss" not in line] == [lines[3], *lines[6:]]
    curve.main([str(log), "--out", str(tmp_path / "curve.png")])
    assert (tmp_path / "curve.png").read_bytes()[:4] == b"\x89PNG"
