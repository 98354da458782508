"""Inputs that several nodes share."""

import comfy.samplers
from comfy_api.latest import io

from ..sampler.keyframes import FITS
from ..sampler.ksampler import schedulers
from ..sampler.method.attention import TEMPORAL_ATTENTIONS
from ..sampler.method.fusion import FUSIONS
from ..sampler.settings import DEFAULT_PRESET, DEFAULTS, PRESETS, STRATEGIES, VIDEOS_PER_CALL
from .schema import advanced, optional

# The links between the pack's own nodes.
Keyframes = io.Custom("INBETWEEN_KEYFRAMES")
MiddleKeyframes = io.Custom("INBETWEEN_MIDDLE_KEYFRAMES")
Settings = io.Custom("INBETWEEN_SETTINGS")
LARGEST_SEED = 0xFFFFFFFFFFFFFFFF
_LARGEST_SIDE = 16384
MODEL = (
    "Stable Video Diffusion. The strategies dual-direction and alternating-backward-motion need backward-motion "
    "weights in it."
)


def size() -> list[io.Input]:
    """Width and height of the video."""
    return [
        io.Int.Input(
            "width",
            default=1024,
            min=8,
            max=_LARGEST_SIDE,
            step=8,
            tooltip=("Width of the video in pixels, a multiple of 8, better of 64. SVD was trained at 1024."),
        ),
        io.Int.Input(
            "height",
            default=576,
            min=8,
            max=_LARGEST_SIDE,
            step=8,
            tooltip=("Height of the video in pixels, a multiple of 8, better of 64. SVD was trained at 576."),
        ),
    ]


def motion() -> list[io.Input]:
    """The motion that the model is asked for, and the noise on the keyframes."""
    return [
        io.Int.Input(
            "fps",
            default=7,
            min=1,
            max=1024,
            tooltip=("Frames per second that the model is told. 7: as trained; lower: larger steps between frames."),
        ),
        io.Int.Input(
            "motion_bucket",
            default=127,
            min=1,
            max=1023,
            tooltip=("How much motion the model is asked for. 127: neutral; 40 to 180 is a good range."),
        ),
        io.Float.Input(
            "noise_augmentation",
            default=0.02,
            min=0.0,
            max=10.0,
            step=0.01,
            tooltip=(
                "Noise added to the keyframes before they are encoded. 0: none; 0.02: as trained; more lets the "
                "video leave them."
            ),
        ),
    ]


def fit() -> io.Input:
    """How pictures of another aspect become the video's size."""
    return io.Combo.Input(
        "fit",
        options=list(FITS),
        default="crop",
        tooltip=(
            "What happens to a picture of another aspect than the video's. crop: cut at the centre; "
            "stretch: distort; pad: black bars."
        ),
    )


def separate_noise() -> io.Input:
    """Whether each keyframe gets noise of its own."""
    (item,) = advanced(
        io.Boolean.Input(
            "separate_noise",
            default=False,
            optional=True,
            tooltip=(
                "For the alternating strategies. On: each keyframe gets noise of its own, as in ViBiDSampler. Off: all "
                "get the same, as released for dual-direction."
            ),
        )
    )
    return item


def steps() -> io.Input:
    """The number of sampling steps."""
    return io.Int.Input(
        "steps",
        default=DEFAULTS["steps"],
        min=1,
        max=10000,
        tooltip="Sampling steps. 50: as released. 20 to 50 with karras, 7 to 15 with align_your_steps.",
    )


def guidance_and_fusion() -> list[io.Input]:
    """Guidance of each direction, and how both become one."""
    return [
        io.Float.Input(
            "guidance_min",
            default=DEFAULTS["guidance_min"],
            min=0.0,
            max=100.0,
            step=0.1,
            round=0.01,
            tooltip=("Guidance scale at the frame next to a direction's own keyframe. 1: none; 1 is a good value."),
        ),
        io.Float.Input(
            "guidance_max",
            default=DEFAULTS["guidance_max"],
            min=0.0,
            max=100.0,
            step=0.1,
            round=0.01,
            tooltip=(
                "Guidance scale at the far end. Higher: closer to the keyframe, eventually overcooked; 2 to 4 is a "
                "good range. With average fusion the mean of both scales is used everywhere."
            ),
        ),
        io.Combo.Input(
            "fusion",
            options=list(FUSIONS),
            default=DEFAULTS["fusion"],
            tooltip=(
                "How both directions become one. average: half of each in every frame, as released. weighted: each "
                "direction counts most near its own keyframe."
            ),
        ),
    ]


def sampler_and_scheduler() -> list[io.Input]:
    """The host's sampler and noise levels."""
    return [
        io.Combo.Input(
            "sampler_name",
            options=list(comfy.samplers.KSampler.SAMPLERS),
            default=DEFAULTS["sampler_name"],
            tooltip=("Any of ComfyUI's samplers. euler: as released."),
        ),
        io.Combo.Input(
            "scheduler",
            options=list(schedulers()),
            default=DEFAULTS["scheduler"],
            tooltip=("How the noise levels are spaced. karras: as released; align_your_steps: for 7 to 15 steps."),
        ),
    ]


def reinjection() -> list[io.Input]:
    """How often early steps are repeated, and which."""
    return [
        io.Int.Input(
            "reinjections",
            default=DEFAULTS["reinjections"],
            min=0,
            max=100,
            tooltip=(
                "How often each early step is repeated with new noise, at one evaluation each. 0: off; 5: as released. "
                "By the paper, more makes the middle frames more consistent."
            ),
        ),
        io.Float.Input(
            "reinjection_share",
            default=DEFAULTS["reinjection_share"],
            min=0.0,
            max=1.0,
            step=0.05,
            tooltip=("Share of the steps, from the first, that are repeated. 0: none; 0.5: as released."),
        ),
    ]


def jumps() -> list[io.Input]:
    """How far back a re-injection goes, from which step on, and with how much noise."""
    inputs: list[io.Input] = [
        io.Int.Input(
            "jump_length",
            default=DEFAULTS["jump_length"],
            min=1,
            max=100,
            optional=True,
            tooltip=(
                "How many steps a re-injection goes back and repeats at once. 1: as released; 5: as Time Reversal "
                "Fusion, with reinjections 1, reinjection_share 0.2 and repeat_first_step off."
            ),
        ),
        io.Boolean.Input(
            "repeat_first_step",
            default=DEFAULTS["repeat_first_step"],
            optional=True,
            tooltip="On: re-injections begin with the first step, as released. Off: as Time Reversal Fusion.",
        ),
        io.Float.Input(
            "noise_ratio",
            default=DEFAULTS["noise_ratio"],
            min=0.0,
            max=2.0,
            step=0.01,
            optional=True,
            tooltip=(
                "Share of the noise that a re-injection adds. 1: as much as the step took away, as released; 0.95: as "
                "Time Reversal Fusion for video frames; much less blurs."
            ),
        ),
    ]
    return advanced(*inputs)


def distillation() -> list[io.Input]:
    """Where and how often the strategy motion-prior-distillation distils."""
    inputs: list[io.Input] = [
        io.Float.Input(
            "distilled_share",
            default=DEFAULTS["distilled_share"],
            min=0.0,
            max=1.0,
            step=0.05,
            optional=True,
            tooltip=(
                "For motion-prior-distillation alone: share of the steps, from the first, in which the backward "
                "direction follows the forward one at first. 0: none; 0.1: as in the paper; 0.2: as released."
            ),
        ),
        io.Int.Input(
            "distillations",
            default=DEFAULTS["distillations"],
            min=0,
            max=100,
            optional=True,
            tooltip=(
                "For motion-prior-distillation alone: how often in each of these steps, at one evaluation each. "
                "0: none; 3: as released."
            ),
        ),
    ]
    return advanced(*inputs)


def method() -> list[io.Input]:
    """The strategy and its parts."""
    return [
        io.Combo.Input(
            "strategy",
            options=list(STRATEGIES),
            default=DEFAULTS["strategy"],
            tooltip=(
                "dual-direction: the paper's method. It and alternating-backward-motion need backward-motion weights; "
                "the others are training-free. The last three of the list take the directions in turn, with euler and "
                "without re-injections."
            ),
        ),
        io.Combo.Input(
            "temporal_attention",
            options=list(TEMPORAL_ATTENTIONS),
            default=DEFAULTS["temporal_attention"],
            tooltip=(
                "Attention over time in the backward direction. rotated: the forward direction's, turned by 180°, as "
                "in the paper. own: the backward direction's own, as in all training-free strategies."
            ),
        ),
        io.Combo.Input(
            "videos_per_call",
            options=["auto", *VIDEOS_PER_CALL],
            default="auto",
            tooltip=(
                "How many of an evaluation's videos (four at most) go through the model at once; the result is the "
                "same. auto: by free memory."
            ),
        ),
    ]


def guidance_interval() -> list[io.Input]:
    """The part of the noise range in which guidance is used."""
    return [
        io.Float.Input(
            "guidance_start",
            default=DEFAULTS["guidance_start"],
            min=0.0,
            max=1.0,
            step=0.01,
            optional=True,
            tooltip=(
                "Where in the noise range guidance begins: 0, the start, to 1, the end. 0: at once, as released. "
                "Without guidance an evaluation takes half the work."
            ),
        ),
        io.Float.Input(
            "guidance_end",
            default=DEFAULTS["guidance_end"],
            min=0.0,
            max=1.0,
            step=0.01,
            optional=True,
            tooltip=("Where in the noise range guidance ends. 1: at the end, as released."),
        ),
    ]


def preset() -> io.Input:
    """Quality against work, in one choice."""
    return io.Combo.Input(
        "preset",
        options=list(PRESETS),
        default=DEFAULT_PRESET,
        tooltip=(
            "Quality against work, in passes of the clip through the model. paper, as released: 700; balanced: 38; "
            "fast: 16; training-free: 28, without backward-motion weights. Connected settings count in its place."
        ),
    )


def settings() -> io.Input:
    """What counts in place of the preset."""
    return Settings.Input(
        "settings",
        optional=True,
        tooltip="Settings of your own, from Dual-Direction Settings. They count in place of the preset.",
    )


def all_settings() -> list[io.Input]:
    """The preset that settings start from, and every setting; those missing from a graph are the preset's."""
    sampler_name, scheduler = sampler_and_scheduler()
    reinjections, reinjection_share = reinjection()
    strategy, temporal_attention, videos_per_call = method()
    start = io.Combo.Input(
        "preset",
        options=list(PRESETS),
        default=DEFAULT_PRESET,
        tooltip=(
            "Where the settings start from: choosing a preset fills the inputs below with its values. What these show "
            "is what counts."
        ),
    )
    # For web/settings.js, which fills them.
    start.extra_dict["presets"] = PRESETS
    return [
        start,
        *optional(strategy, steps(), *guidance_and_fusion(), sampler_name, scheduler, reinjections),
        *optional(*advanced(reinjection_share, temporal_attention, *guidance_interval(), videos_per_call)),
        *jumps(),
        *distillation(),
    ]
