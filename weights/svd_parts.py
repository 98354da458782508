"""The three networks of one Stable Video Diffusion model, as tensors in the names that ComfyUI builds them from."""

from dataclasses import dataclass, field

import torch

from .errors import WeightsError, plain_name, quoted

PARTS = ("unet", "vae", "image_encoder")
# Those of the host's CLIP.
ACTIVATIONS = ("gelu", "quick_gelu", "gelu_pytorch_tanh")


@dataclass
class SVDConfig:
    """The few numbers that cannot be read from the weights; the defaults are SVD's own.

    Either every attention head of the UNet has `num_head_channels` channels (SVD: 64), or every level has `num_heads`.
    """

    num_head_channels: int = 64
    num_heads: int = -1
    image_encoder_heads: int = 16
    image_encoder_activation: str = "gelu"


@dataclass
class SVDParts:
    """`unet` and `vae` in ComfyUI's names without prefix, `image_encoder` in transformers' names.

    Each is empty where it was not asked for.
    """

    unet: dict[str, torch.Tensor]
    vae: dict[str, torch.Tensor]
    image_encoder: dict[str, torch.Tensor]
    config: SVDConfig = field(default_factory=SVDConfig)

    def check(self, source: str) -> None:
        """Raises WeightsError, naming the file `source`, unless the config can belong to these tensors.

        To be called before anything is built: a wrong number there takes gigabytes or ends in the host's own words.
        """
        _check_formats([self.unet, self.vae, self.image_encoder], source)
        config, by_level = self.config, self.config.num_head_channels == -1
        if config.image_encoder_activation not in ACTIVATIONS:
            raise WeightsError(
                f"Expected {', '.join(ACTIVATIONS)} as the image encoder's activation in {source}, "
                f"found {quoted(config.image_encoder_activation)}: ComfyUI has no other."
            )
        attention = [tensor for key, tensor in self.unet.items() if key.endswith(".attn1.to_q.weight")]
        encoder = [tensor for key, tensor in self.image_encoder.items() if key == "vision_model.pre_layrnorm.weight"]
        for name, networks in (
            ("num_heads" if by_level else "num_head_channels", attention),
            ("image_encoder_heads", encoder),
        ):
            number, widths = getattr(config, name), sorted({tensor.shape[0] for tensor in networks if tensor.ndim})
            if type(number) is not int or number < 1 or any(width % number for width in widths):
                raise WeightsError(
                    f"Expected as {name} in {source} a whole number that divides the attention's "
                    f"{', '.join(map(str, widths))} channels, found {quoted(number)}. Get the model "
                    "again."
                )


def _check_formats(networks: list[dict[str, torch.Tensor]], source: str) -> None:
    for tensors in networks:
        for key, tensor in tensors.items():
            # The host's quantised weights are bytes, and have a description beside them; position_ids count.
            quantised = key.endswith("comfy_quant") or f"{key.rpartition('.')[0]}.comfy_quant" in tensors
            if not (tensor.is_floating_point() or quantised or key.endswith("position_ids")):
                raise WeightsError(
                    f"Expected floating-point numbers in {source}, found {tensor.dtype} in "
                    f"{plain_name(key)}. Get the model in fp16, bf16 or fp32."
                )
