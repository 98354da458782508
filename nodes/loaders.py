"""Nodes that load models and backward-motion weights, and convert the authors' release."""

from comfy_api.latest import io

from ..common.remarks import remark
from ..weights import folders
from ..weights.convert import PRECISIONS
from ..weights.load import convert_backward_motion, load_backward_motion, load_svd
from .node import Node
from .schema import schema


class InbetweenLoadSVD(Node):
    """Load SVD Model."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="InbetweenLoadSVD",
            display_name="Load SVD Model",
            search_aliases=["svd", "stable video diffusion"],
            description="Loads Stable Video Diffusion, or a smaller model of its architecture, from one checkpoint "
            "file or from a diffusers folder.",
            inputs=[
                io.Combo.Input(
                    "model_name",
                    options=folders.svd_models(),
                    tooltip=(
                        "A file in models/checkpoints, such as svd_xt.safetensors (25 frames) or svd.safetensors (14 "
                        "frames), or, with a / at its end, a diffusers folder in models/diffusers."
                    ),
                )
            ],
            outputs=[
                io.Model.Output(tooltip="The UNet, for Load Backward Motion Weights or any sampler."),
                io.ClipVision.Output(tooltip="The CLIP image encoder, for Encode Keyframes."),
                io.Vae.Output(tooltip="The VAE, for Encode Keyframes and VAE Decode."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, model_name=None, **_):
        return folders.model_state(model_name)

    @classmethod
    def execute(cls, model_name):
        return io.NodeOutput(*load_svd(model_name))


class InbetweenLoadBackwardMotion(Node):
    """Load Backward Motion Weights."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="InbetweenLoadBackwardMotion",
            display_name="Load Backward Motion Weights",
            search_aliases=["generative inbetweening", "reverse motion"],
            description="Puts the fine-tuned weights that let SVD run backward in time beside the model. The model "
            "itself stays as it is: a plain KSampler on it gives plain SVD.",
            inputs=[
                io.Model.Input("model", tooltip="Stable Video Diffusion, from Load SVD Model."),
                io.Combo.Input(
                    "backward_motion",
                    options=folders.backward_motion_files(),
                    tooltip=(
                        "A file in models/backward_motion. Make it with Convert Backward Motion Weights from the "
                        "authors' release; one file serves both SVD and SVD-XT."
                    ),
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=2.0,
                    step=0.05,
                    tooltip=(
                        "How much of the fine-tuning is added. 0: base weights; 1: as trained. Lower it if motion near "
                        "the last keyframe looks distorted; good range 0.8 to 1."
                    ),
                ),
            ],
            outputs=[io.Model.Output(tooltip="The model with backward-motion weights beside it.")],
        )

    @classmethod
    def fingerprint_inputs(cls, backward_motion=None, **_):
        return folders.backward_motion_state(backward_motion)

    @classmethod
    def execute(cls, model, backward_motion, strength):
        return io.NodeOutput(load_backward_motion(model, backward_motion, strength, remark))


class InbetweenConvertBackwardMotion(Node):
    """Convert Backward Motion Weights."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="InbetweenConvertBackwardMotion",
            display_name="Convert Backward Motion Weights",
            search_aliases=["svd_reverse_motion"],
            is_output_node=True,
            description="Makes a backward-motion file (47 MiB) from the authors' fine-tuned UNet and the SVD model it "
            "was trained from. Needed once; press R afterwards to refresh the lists.",
            inputs=[
                io.Combo.Input(
                    "base",
                    options=folders.unets(),
                    tooltip=(
                        "The model that was fine-tuned, untouched. For the authors' release the 14-frame SVD, not "
                        "SVD-XT: its fp16 UNet in models/diffusers is exact and smallest (3 GB); svd.safetensors "
                        "serves too."
                    ),
                ),
                io.Combo.Input(
                    "fine_tuned",
                    options=folders.unets(),
                    tooltip=(
                        "The fine-tuned model: the authors' folder in models/diffusers, with or without unet/ around "
                        "its two files, or one file in checkpoints or diffusion_models."
                    ),
                ),
                io.String.Input(
                    "file_name",
                    default="svd_backward_motion",
                    tooltip=("Name of the new file in models/backward_motion."),
                ),
                io.Combo.Input(
                    "precision",
                    options=list(PRECISIONS),
                    default="fp16",
                    tooltip=(
                        "Number format of the file. fp16: 47 MiB and as good as the model itself; fp32: twice the size."
                    ),
                ),
                io.Boolean.Input(
                    "overwrite",
                    default=False,
                    tooltip=("Off: an existing file of that name is kept and you are told. On: it is replaced."),
                ),
                io.Boolean.Input(
                    "allow_other_base",
                    default=False,
                    optional=True,
                    tooltip=(
                        "Off, as it should be: a base other than the model that was fine-tuned is refused. On: the "
                        "file is made all the same, and says so."
                    ),
                ),
            ],
            outputs=[io.String.Output(display_name="file_name", tooltip="Name of the file that was written.")],
        )

    @classmethod
    def fingerprint_inputs(cls, base=None, fine_tuned=None, file_name=None, **_):
        return [folders.model_state(base), folders.model_state(fine_tuned), folders.output_state(file_name)]

    @classmethod
    def execute(cls, base, fine_tuned, file_name, precision, overwrite, allow_other_base=False):
        return io.NodeOutput(
            convert_backward_motion(base, fine_tuned, file_name, precision, overwrite, allow_other_base, remark)
        )
