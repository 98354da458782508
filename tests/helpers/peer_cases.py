"""Recorded runs of other methods' released code, and the same runs through the nodes.

INBETWEEN_PEERS may name another folder of such recordings, with their model.
"""

import dataclasses
import json
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from comfy_extras.nodes_custom_sampler import KSamplerSelect, SamplerCustomAdvanced
from generative_inbetweening.nodes import InbetweenDualDirectionGuider, InbetweenReinjectionSampler
from generative_inbetweening.sampler.conditioning import keyframe_conditioning
from generative_inbetweening.sampler.guider import DualDirectionGuider
from generative_inbetweening.sampler.method import alternating
from generative_inbetweening.sampler.method.alternating import KeyframeLatents
from generative_inbetweening.sampler.settings import guider_settings
from safetensors import safe_open

from helpers.model_folders import OWN_REFERENCE
from helpers.reference_cases import VAE_SCALE, RecordedNoise

PEERS = Path(os.environ.get("INBETWEEN_PEERS", OWN_REFERENCE / "peers"))


@dataclass
class PeerCase:
    """One recorded run: its settings and tensors, as tests/reference/README.md lists them."""

    name: str
    settings: dict
    tensors: dict[str, torch.Tensor]

    @property
    def frames(self) -> int:
        return len(self.tensors["initial_noise"])

    def conditioning(self, fps: int, clean: KeyframeLatents | None = None):
        """(positive, negative) of the recorded keyframes."""
        t, s = self.tensors, self.settings
        return keyframe_conditioning(
            (t["embed_first"], t["embed_last"]),
            (t["concat_first"], t["concat_last"]),
            self.frames,
            fps,
            s["motion_bucket_id"],
            s["cond_aug"] if "cond_aug" in s else s["noise_aug_strength"],
            clean=clean,
        )

    def sampled(self, guider, sampler) -> torch.Tensor:
        """The final latents, scaled, of the recorded first latents and noise levels."""
        noise = self.tensors["initial_noise"]
        samples, _ = SamplerCustomAdvanced.execute(
            RecordedNoise(noise), guider, sampler, self.tensors["sigmas"], {"samples": torch.zeros_like(noise)}
        ).args
        return samples["samples"] * VAE_SCALE


def peer_cases(prefix: str) -> list[str]:
    return sorted(path.stem for path in PEERS.glob(f"{prefix}_*.safetensors"))


def read_peer_case(name: str) -> PeerCase:
    with safe_open(PEERS / f"{name}.safetensors", "pt") as file:
        return PeerCase(name, json.loads(file.metadata()["case"]), {key: file.get_tensor(key) for key in file.keys()})


def time_reversal_fusion(case: PeerCase, model, videos_per_call: str = "2", **changes) -> torch.Tensor:
    """Time Reversal Fusion by the guider and the re-injection sampler; `changes` of the latter's inputs."""
    s, steps = case.settings, len(case.tensors["sigmas"]) - 1
    (guider,) = InbetweenDualDirectionGuider.execute(
        model,
        *case.conditioning(s["fps"]),
        guidance_min=s["min_guidance_scale"],
        guidance_max=s["max_guidance_scale"],
        fusion="weighted",
        strategy="time-reversal",
        temporal_attention="own",
        videos_per_call=videos_per_call,
    ).args
    jumps = {
        "reinjections": s["jump_n_sample"] - 1,
        # Their ratio is that of the steps after the last jump.
        "reinjection_share": (steps - int(steps * s["repeat_step_ratio"])) / steps,
        "jump_length": s["jump_length"],
        "repeat_first_step": False,
        "noise_ratio": s["noise_scale_ratio"],
    }
    (sampler,) = KSamplerSelect.execute("euler").args
    (sampler,) = InbetweenReinjectionSampler.execute(sampler, **{**jumps, **changes}).args
    sampler.extra_options["draw_noise"] = lambda shape, draw: case.tensors["undo_noise"][draw].reshape(shape)
    return case.sampled(guider, sampler)


def vibidsampler(case: PeerCase, model, monkeypatch, videos_per_call: str = "2", clean: bool = True) -> torch.Tensor:
    """ViBiDSampler by the guider's strategy `alternating`, with the recorded scale of guidance."""
    t, s = case.tensors, case.settings
    noise = iter(t["renoise"])
    monkeypatch.setattr(alternating, "seeded_noise", lambda shape, seed: next(noise).reshape(shape))
    keyframes = KeyframeLatents(t["dds_first"] / VAE_SCALE, t["dds_last"] / VAE_SCALE) if clean else None
    assert s["cfg_scale"] == s["cfg_scale_flip"]
    settings = dataclasses.replace(
        guider_settings("alternating", videos_per_call=videos_per_call),
        guidance_min=s["cfg_scale"],
        guidance_max=s["cfg_scale"],
    )
    # The host takes 1 off the fps that it is given.
    guider = DualDirectionGuider(model, *case.conditioning(s["fps_id"] + 1, keyframes), settings)
    return case.sampled(guider, KSamplerSelect.execute("euler").args[0])
