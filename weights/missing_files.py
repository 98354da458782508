"""What a new user is told: which file goes where, and where it comes from."""

from ..common.errors import plain_name, quoted

_HUGGING_FACE = "https://huggingface.co/stabilityai"
AUTHORS = "https://drive.google.com/drive/folders/1H7vgiNVbxSeeleyJOqhoyRbJ97kGWGOK"
_SVD_XT = (
    "Download svd_xt.safetensors (25 frames, 9.56 GB) into models/checkpoints: "
    f"{_HUGGING_FACE}/stable-video-diffusion-img2vid-xt/resolve/main/svd_xt.safetensors"
)
_SVD_UNET = "unet/diffusion_pytorch_model.fp16.safetensors"
_SVD = (
    "Download svd.safetensors (14 frames, 9.56 GB) into models/checkpoints: "
    f"{_HUGGING_FACE}/stable-video-diffusion-img2vid/resolve/main/svd.safetensors"
)
_BASE = (
    "The exact and smallest base is the fp16 UNet of the 14-frame SVD (about 3 GB), as models/diffusers/"
    f"stable-video-diffusion-img2vid/{_SVD_UNET}: "
    f"{_HUGGING_FACE}/stable-video-diffusion-img2vid/resolve/main/{_SVD_UNET} Larger and not quite as exact: "
    f"{_SVD}"
)
_AUTHORS_UNET = (
    "Download the authors' folder (config.json and diffusion_pytorch_model.safetensors) into "
    f"models/diffusers/svd_reverse_motion_with_attnflip/unet: {AUTHORS}"
)
_BACKWARD_MOTION = (
    "Make svd_backward_motion.safetensors once in models/backward_motion with the workflow "
    f"convert_backward_motion; it names the two models that it is made from, the authors' at {AUTHORS}"
)
_OF_A_FILE = {
    "svd_xt.safetensors": _SVD_XT,
    "svd.safetensors": _SVD,
    "svd_reverse_motion_with_attnflip": _AUTHORS_UNET,
    "stable-video-diffusion-img2vid": _BASE,
}
_OF_A_FOLDER = {"checkpoints": _SVD_XT, "backward_motion": _BACKWARD_MOTION}

# What the loaders' lists show while there is nothing to choose.
NO_MODEL = "nothing yet: put svd_xt.safetensors into models/checkpoints"
NO_UNET = "nothing yet: put SVD's fp16 UNet into models/diffusers, or svd.safetensors into models/checkpoints"
NO_BACKWARD_MOTION = "nothing yet: make a file with Convert Backward Motion Weights"
_NOTHING = {NO_MODEL: _SVD_XT, NO_UNET: _BASE, NO_BACKWARD_MOTION: _BACKWARD_MOTION}


def missing(name: object, folder: str) -> str:
    """The sentences for a file or folder that is not in `models/<folder>`, or for an empty list's only line."""
    if not isinstance(name, str):
        return f"Expected a name from the list, found {quoted(name)}."
    if name in _NOTHING:
        return f"Expected a file, found none in models/{folder}. {_NOTHING[name]} Then press R to refresh the lists."
    advice = _OF_A_FILE.get(name.strip("/")) or _OF_A_FOLDER.get(folder)
    what = f"the folder {plain_name(name)}" if name.endswith("/") else f"the file {plain_name(name)}"
    found = f"Expected {what} in models/{folder}, found none."
    return f"{found} {advice or 'Put it there'}{' Then' if advice else ' and'} press R to refresh the lists."
