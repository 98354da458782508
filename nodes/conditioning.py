"""The node that turns two pictures into conditioning."""

from comfy_api.latest import io

from ..sampler.encode import encode_keyframes
from ..sampler.keyframes import FITS
from .schema import schema

_LARGEST_SIDE = 16384
_LARGEST_SEED = 0xffffffffffffffff


class InbetweenEncodeKeyframes(io.ComfyNode):
    """Encode Keyframes."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="InbetweenEncodeKeyframes", display_name="Encode Keyframes",
            search_aliases=["first last frame", "inbetweening"],
            description="Encodes the first and the last picture of the video. The conditioning carries both; a plain "
                        "KSampler uses only the first.",
            inputs=[
                io.ClipVision.Input("clip_vision", tooltip="The CLIP image encoder, from Load SVD Model."),
                io.Vae.Input("vae", tooltip="The VAE, from Load SVD Model."),
                io.Image.Input("first_keyframe", tooltip="The picture that the video starts with. One picture."),
                io.Image.Input("last_keyframe", tooltip="The picture that the video ends with. One picture."),
                io.Int.Input("width", default=1024, min=8, max=_LARGEST_SIDE, step=8, tooltip=(
                    "Width of the video in pixels, a multiple of 8, better of 64. SVD was trained at 1024.")),
                io.Int.Input("height", default=576, min=8, max=_LARGEST_SIDE, step=8, tooltip=(
                    "Height of the video in pixels, a multiple of 8, better of 64. SVD was trained at 576.")),
                io.Int.Input("frames", default=25, min=2, max=1024, tooltip=(
                    "Frames of the video, both keyframes included. 25 for SVD-XT, 14 for SVD.")),
                io.Int.Input("fps", default=7, min=1, max=1024, tooltip=(
                    "Frames per second that the model is told. 7: as trained; lower: larger steps between frames.")),
                io.Int.Input("motion_bucket", default=127, min=1, max=1023, tooltip=(
                    "How much motion the model is asked for. 127: neutral; 40 to 180 is a good range.")),
                io.Float.Input("noise_augmentation", default=0.02, min=0.0, max=10.0, step=0.01, tooltip=(
                    "Noise added to both keyframes before they are encoded. 0: none; 0.02: as trained; more lets the "
                    "video leave the keyframes.")),
                io.Int.Input("seed", default=0, min=0, max=_LARGEST_SEED, control_after_generate=True, tooltip=(
                    "Seed of that noise. It changes details only; the sampler's seed changes the video.")),
                io.Combo.Input("fit", options=list(FITS), default="crop", tooltip=(
                    "What happens to a picture of another aspect than width × height. crop: cut at the centre; "
                    "stretch: distort; pad: black bars."))],
            outputs=[io.Conditioning.Output(display_name="positive", tooltip="Both keyframes."),
                     io.Conditioning.Output(display_name="negative", tooltip="The unconditional counterpart."),
                     io.Latent.Output(display_name="latent", tooltip="An empty latent of the video's size.")])

    @classmethod
    def execute(cls, clip_vision, vae, first_keyframe, last_keyframe, width, height, frames, fps, motion_bucket,
                noise_augmentation, seed, fit):
        return io.NodeOutput(*encode_keyframes(clip_vision, vae, first_keyframe, last_keyframe, width, height, frames,
                                               fps, motion_bucket, noise_augmentation, seed, fit))
