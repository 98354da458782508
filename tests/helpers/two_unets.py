"""The strategies written out on two of the host's own SVD models that nothing of this pack has touched.

One video a call, one UNet a direction, each attention map computed as a tensor and turned by 180° as the paper has it.
"""

import itertools
from contextlib import contextmanager

import comfy.samplers
import torch
from generative_inbetweening.nodes import InbetweenLoadSVD
from generative_inbetweening.sampler.method.noise import seeded_noise, stream_seed
from generative_inbetweening.weights.files import read_tensors

from helpers.model_folders import backward_motion_folder, folder


def two_unets() -> dict:
    """{direction: MODEL}: the same weights twice, each with modules of its own."""
    return {direction: InbetweenLoadSVD.execute(folder("-xt")).args[0] for direction in ("forward", "backward")}


class TwoUNets:
    """D_c and D_u of each direction, in its own time, of the host's CFGGuider.

    `unets`: those of `two_unets`; `encoded`: {direction: (positive, negative)} by Encode Keyframes of the keyframes in
    that direction's order; `fine_tuned`: the backward UNet has the backward-motion weights; `rotated`: its temporal
    attention uses the forward UNet's maps.
    """

    def __init__(self, unets: dict, encoded: dict, fine_tuned: bool, rotated: bool):
        self.encoded, self.rotated, self.maps = encoded, rotated, {}
        self.models = {direction: model.clone() for direction, model in unets.items()}
        if fine_tuned:
            tuned = read_tensors(backward_motion_folder() / "tiny_backward_motion.safetensors")
            patched = self.models["backward"].add_patches({key: ("diff", (value,)) for key, value in tuned.items()})
            assert len(patched) == len(tuned)

    def scaled(self, latents: torch.Tensor) -> torch.Tensor:
        """By the VAE's scale, as the sampled latents are."""
        return self.models["forward"].model.process_latent_in(latents)

    def keyframe(self, direction: str) -> torch.Tensor:
        """The latent `[4, h, w]` of the keyframe at which a direction begins."""
        return self.scaled(self.encoded[direction][0][0][1]["concat_latent_image"])[0]

    def __call__(self, x: torch.Tensor, sigma: float, direction: str) -> tuple[torch.Tensor, torch.Tensor]:
        return tuple(self._estimate(x, sigma, direction, half) for half in (0, 1))

    def _estimate(self, x: torch.Tensor, sigma: float, direction: str, half: int) -> torch.Tensor:
        def evaluate(model, noise, sigmas, extra_args, **_):
            return model(x, sigma * x.new_ones([len(x)]), **extra_args)

        model, conditioning = self.models[direction], self.encoded[direction][half]
        guider = comfy.samplers.CFGGuider(model)
        guider.set_conds(conditioning, conditioning)
        guider.set_cfg(1.0)
        with self._maps_as_tensors(model.model.diffusion_model, direction, half):
            nothing = torch.zeros_like(x)
            return self.scaled(
                guider.sample(
                    nothing, nothing, comfy.samplers.KSAMPLER(evaluate), torch.tensor([sigma, 0.0]), disable_pbar=True
                )
            )

    @contextmanager
    def _maps_as_tensors(self, unet, direction: str, half: int):
        layers = {
            name: layer for name, layer in unet.named_modules() if ".time_stack." in name and name.endswith(".attn1")
        }
        assert layers
        for name, layer in layers.items():
            layer.forward = self._temporal_attention(name, layer, direction, half)
        try:
            yield
        finally:
            for layer in layers.values():
                del layer.forward

    def _temporal_attention(self, name: str, layer, direction: str, half: int):
        def heads(tokens):
            return tokens.reshape(*tokens.shape[:2], layer.heads, -1).transpose(1, 2)

        def forward(x, *_, **__):
            q, k, v = (heads(projection(x)) for projection in (layer.to_q, layer.to_k, layer.to_v))
            attention_map = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1)
            if direction == "forward":
                self.maps[name, half] = attention_map
            elif self.rotated:
                attention_map = torch.rot90(self.maps[name, half], 2, (-2, -1))
            return layer.to_out((attention_map @ v).transpose(1, 2).reshape(x.shape))

        return forward


def guided(halves: tuple[torch.Tensor, torch.Tensor], fusion: str) -> torch.Tensor:
    """v_u + g (v_c − v_u): g of 2 with average fusion, from 1 to 3 with weighted."""
    conditional, unconditional = halves
    frames = len(conditional)
    return torch.stack(
        [
            unconditional[i]
            + (2 if fusion == "average" else 1 + 2 * i / (frames - 1)) * (conditional[i] - unconditional[i])
            for i in range(frames)
        ]
    )


def fused(forward: torch.Tensor, backward: torch.Tensor, fusion: str) -> torch.Tensor:
    """w · forward + (1 − w) · backward, frame by frame; backward in its own time."""
    frames = len(forward)
    weights = [0.5 if fusion == "average" else 1 - i / (frames - 1) for i in range(frames)]
    return torch.stack([weights[i] * forward[i] + (1 - weights[i]) * backward[-1 - i] for i in range(frames)])


def two_unet_dual_direction(directions: TwoUNets, x: torch.Tensor, sigmas: list[float], fusion: str) -> torch.Tensor:
    """Euler steps on the fusion of both directions (arXiv 2408.15239, 2403.14611)."""
    for sigma, following in itertools.pairwise(sigmas):
        forward = guided(directions(x, sigma, "forward"), fusion)
        backward = guided(directions(x.flip(0), sigma, "backward"), fusion)
        estimate = fused(forward, backward, fusion)
        x = estimate + following * (x - estimate) / sigma
    return x


def two_unet_endpoint_correction(directions: TwoUNets, x: torch.Tensor, sigmas: list[float]) -> torch.Tensor:
    """Euler steps on the forward direction and on its motion led to the last keyframe.

    Derived from arXiv 2602.12679, not that paper's algorithm.
    """
    last = directions.keyframe("backward")
    for sigma, following in itertools.pairwise(sigmas):
        halves = directions(x, sigma, "forward")
        led = tuple(torch.stack([last + half[-1 - i] - half[-1] for i in range(len(half))]) for half in halves)
        estimate = fused(guided(halves, "weighted"), guided(led, "weighted"), "weighted")
        x = estimate + following * (x - estimate) / sigma
    return x


def two_unet_alternating(
    estimates,
    x: torch.Tensor,
    sigmas: list[float],
    first: torch.Tensor,
    last: torch.Tensor,
    seed: int,
    distilled_steps: int = 0,
    distillations: int = 0,
) -> torch.Tensor:
    """ViBiDSampler's algorithm 1 as its release has it, with the reversal of time written out (arXiv 2410.05651).

    In the first `distilled_steps` with motion prior distillation as its own release has it (arXiv 2602.12679).
    """
    draws = itertools.count()

    def renoised(x, sigma, following):
        noise = seeded_noise(x.shape, stream_seed(seed, "re-noising", next(draws)))
        return x + (sigma**2 - following**2) ** 0.5 * noise

    for step in range(len(sigmas) - 1):
        sigma, following = sigmas[step], sigmas[step + 1]
        for _ in range(distillations if step < distilled_steps else 0):
            conditional, unconditional = estimates(x, sigma, "forward")
            turned, noise = x.flip(0), (x - conditional) / sigma
            residuals = [noise[i] - noise[i - 1] for i in range(1, len(x))]
            led = [(turned[0] - last) / sigma]
            for residual in reversed(residuals):
                led.append(led[-1] - residual)
            estimate = turned - sigma * torch.stack(led)
            estimate[-1] = first
            x = renoised((estimate + following * (turned - unconditional.flip(0)) / sigma).flip(0), sigma, following)
        conditional, unconditional = estimates(x, sigma, "forward")
        conditional[-1] = last
        x = renoised(conditional + following * (x - unconditional) / sigma, sigma, following)
        x = x.flip(0)
        conditional, unconditional = estimates(x, sigma, "backward")
        conditional[-1] = first
        x = (conditional + following * (x - unconditional) / sigma).flip(0)
    return x
