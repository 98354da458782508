"""Builds an SVD model of any width with the host's own classes, so that its memory management, LoRA and patches work.

ComfyUI recognises SVD by the width 320, builds its VAE with 128 channels and its image encoder as ViT-H. For other
widths the same classes are built here with the numbers read from the weights.
"""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import comfy.clip_vision
import comfy.model_detection
import comfy.model_patcher
import comfy.sd
import comfy.supported_models
import torch
from comfy.ldm.models.autoencoder import AutoencodingEngine

from .clip_vae import ClipVAE
from .errors import WeightsError
from .svd_parts import SVDConfig, SVDParts

_FPS_BUCKET_AUGMENTATION = 3 * 256


def build(parts: SVDParts) -> tuple[comfy.model_patcher.ModelPatcher, comfy.clip_vision.ClipVisionModel, comfy.sd.VAE]:
    """(MODEL, CLIP_VISION, VAE) of an SVD model.

    Raises WeightsError when one of the networks is not of SVD's architecture.
    """
    return (build_unet(parts.unet, parts.config), build_image_encoder(parts.image_encoder, parts.config),
            build_vae(parts.vae))


def build_unet(tensors: dict[str, torch.Tensor], config: SVDConfig) -> comfy.model_patcher.ModelPatcher:
    """The UNet as the host's MODEL; `tensors` in ComfyUI's names without prefix.

    Raises WeightsError when they are no SVD UNet.
    """
    if "input_blocks.0.0.weight" not in tensors or "label_emb.0.0.weight" not in tensors:
        raise WeightsError("Expected the UNet of Stable Video Diffusion, found a model of another architecture.")
    detected = comfy.model_detection.detect_unet_config(tensors, "")
    if not detected["use_temporal_attention"] or detected["in_channels"] != 8 \
            or detected["adm_in_channels"] != _FPS_BUCKET_AUGMENTATION:
        raise WeightsError("Expected the UNet of Stable Video Diffusion (temporal attention, 8 input channels, fps, "
                           "motion bucket and noise augmentation as conditioning), found a model of another kind. "
                           "Choose svd.safetensors, svd_xt.safetensors or a model of their architecture.")
    with _recognised(detected, config):
        return comfy.sd.load_diffusion_model_state_dict(dict(tensors))


@contextmanager
def _recognised(detected: dict, config: SVDConfig) -> Iterator[None]:
    # The host picks a model's class from this list; ours, the host's SVD with other numbers, is in it only meanwhile.
    stock = comfy.supported_models.SVD_img2vid
    numbers = {key: detected[key] for key in ("model_channels", "context_dim", "transformer_depth")}
    heads = {"num_heads": config.num_heads, "num_head_channels": config.num_head_channels}
    width = type("SVD_img2vid", (stock,), {"unet_config": {**stock.unet_config, **numbers},
                                           "unet_extra_config": {**stock.unet_extra_config, **heads}})
    comfy.supported_models.models.insert(0, width)
    try:
        yield
    finally:
        comfy.supported_models.models.remove(width)


def build_image_encoder(tensors: dict[str, torch.Tensor], config: SVDConfig) -> comfy.clip_vision.ClipVisionModel:
    """The CLIP image encoder as the host's CLIP_VISION; `tensors` in transformers' names.

    Raises WeightsError when tensors are missing.
    """
    try:
        patches = tensors["vision_model.embeddings.patch_embedding.weight"]
        positions = tensors["vision_model.embeddings.position_embedding.weight"].shape[0]
        numbers = {"hidden_size": patches.shape[0], "patch_size": patches.shape[-1], "num_channels": patches.shape[1],
                   "image_size": round((positions - 1) ** 0.5) * patches.shape[-1],
                   "intermediate_size": tensors["vision_model.encoder.layers.0.mlp.fc1.weight"].shape[0],
                   "projection_dim": tensors["visual_projection.weight"].shape[0]}
    except KeyError as error:
        raise WeightsError(f"Expected a CLIP image encoder, found none: it lacks {error}.") from error
    layers = {key.split(".")[3] for key in tensors if key.startswith("vision_model.encoder.layers.")}
    numbers.update(num_hidden_layers=len(layers), num_attention_heads=config.image_encoder_heads,
                   hidden_act=config.image_encoder_activation, layer_norm_eps=1e-5, model_type="clip_vision_model")
    with tempfile.TemporaryDirectory() as folder:
        # The host takes these numbers from a JSON file only.
        path = Path(folder) / "config.json"
        path.write_text(json.dumps(numbers), encoding="utf-8")
        encoder = comfy.clip_vision.ClipVisionModel(str(path))
    missing, _ = encoder.load_sd(dict(tensors))
    _refuse_missing(missing, "CLIP image encoder")
    return encoder


def build_vae(tensors: dict[str, torch.Tensor]) -> comfy.sd.VAE:
    """The temporal-decoder VAE as the host's VAE; `tensors` in ComfyUI's names without prefix.

    Raises WeightsError when they are no temporal-decoder VAE.
    """
    if "decoder.mid.block_1.mix_factor" not in tensors or "encoder.conv_in.weight" not in tensors:
        raise WeightsError("Expected the VAE of Stable Video Diffusion with its temporal decoder, found another VAE.")
    numbers = _vae_numbers(tensors)
    if numbers["ch"] == 128 and numbers["ch_mult"] == [1, 2, 4, 4] and numbers["num_res_blocks"] == 2:
        return ClipVAE(sd=dict(tensors))
    # A plain autoencoder of these numbers first: it sets up everything about a VAE that is not its network.
    channels = numbers["z_channels"]
    vae = ClipVAE(sd=_with_quantisation(tensors, channels),
                  config={"params": {"ddconfig": numbers, "embed_dim": channels}})
    network = AutoencodingEngine(
        regularizer_config={"target": "comfy.ldm.models.autoencoder.DiagonalGaussianRegularizer"},
        encoder_config={"target": "comfy.ldm.modules.diffusionmodules.model.Encoder", "params": numbers},
        decoder_config={"target": "comfy.ldm.modules.temporal_ae.VideoDecoder",
                        "params": {**numbers, "video_kernel_size": [3, 1, 1], "alpha": 0.0}}).eval()
    missing, _ = network.load_state_dict(tensors, strict=False)
    _refuse_missing(missing, "VAE")
    vae.first_stage_model = network.to(vae.vae_dtype)
    vae.patcher = comfy.model_patcher.ModelPatcher(network, load_device=vae.patcher.load_device,
                                                   offload_device=vae.patcher.offload_device)
    vae.size = None
    vae.model_size()
    return vae


def _vae_numbers(tensors: dict[str, torch.Tensor]) -> dict:
    width = tensors["encoder.conv_in.weight"].shape[0]
    levels = len({key.split(".")[2] for key in tensors if key.startswith("encoder.down.")})
    widths = [tensors[f"encoder.down.{level}.block.0.conv1.weight"].shape[0] for level in range(levels)]
    blocks = len({key.split(".")[4] for key in tensors if key.startswith("encoder.down.0.block.")})
    if any(other % width for other in widths):
        raise WeightsError(f"Expected widths of the VAE that are multiples of its first, found {widths}: ComfyUI "
                           "cannot build such a VAE.")
    return {"double_z": True, "z_channels": tensors["decoder.conv_in.weight"].shape[1], "resolution": 256,
            "in_channels": 3, "out_ch": 3, "ch": width, "ch_mult": [other // width for other in widths],
            "num_res_blocks": blocks, "attn_resolutions": [], "dropout": 0.0}


def _with_quantisation(tensors: dict[str, torch.Tensor], channels: int) -> dict[str, torch.Tensor]:
    # The plain autoencoder has two 1×1 convolutions that SVD's lacks; without them the host warns of missing weights.
    return {**tensors, "quant_conv.weight": torch.eye(2 * channels)[..., None, None],
            "quant_conv.bias": torch.zeros(2 * channels),
            "post_quant_conv.weight": torch.eye(channels)[..., None, None],
            "post_quant_conv.bias": torch.zeros(channels)}


def _refuse_missing(missing: list[str], network: str) -> None:
    missing = [key for key in missing if "position_ids" not in key]
    if missing:
        raise WeightsError(f"Expected every tensor of SVD's {network}, found none for {len(missing)}, the first: "
                           f"{missing[0]}. The file is incomplete or of another architecture.")
