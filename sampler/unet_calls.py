"""The UNet calls of an evaluation; the result is the same for every number of videos a call.

An evaluation has up to four branches: two directions, each with conditioning (positive) and without (negative). Each
branch is one video through the UNet. By `videos_per_call`:

    4   one call of all branches
    2   a call for each guidance half, both directions in it
    1   a call for each branch; the forward direction's attention maps are kept until the backward one has used them

When the device runs out of memory, or another node changes the calls so that a map is missing, the evaluation is
computed anew in another way, and so is the rest of the run. The next run starts with the number that was chosen: each
clip of a Keyframe Sequence is a run, so `auto` looks at the free memory again.
"""

import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from enum import Enum

import comfy.model_base
import comfy.model_management
import comfy.patcher_extension
import comfy.sampler_helpers
import comfy.samplers
import torch
from comfy.model_patcher import ModelPatcher, create_model_options_clone

from ..common.out_of_memory import is_out_of_memory
from ..common.remarks import remark
from ..weights.host import free_memory
from .host_nodes import call_wrappers, nodes_behind, patches_of_nodes, wrapping_nodes
from .memory_limit import no_room
from .method.attention import ForwardMapMissing, UNetCall, VideoInBatch, VideosDivided
from .method.fusion import reverse_time
from .unet_patches import UNET_CALL, DualDirectionInjections, temporal_attention_layers

logger = logging.getLogger(__name__)

Branch = tuple[str, str]
"""(guidance half: positive or negative, direction: forward or backward)."""

# The host takes the last branch of a call first when it has to split it: forward branches, whose maps the backward ones
# need, stand last.
_CALLS: dict[int, list[list[Branch]]] = {
    4: [[("negative", "backward"), ("positive", "backward"), ("negative", "forward"), ("positive", "forward")]],
    2: [
        [("negative", "backward"), ("negative", "forward")],
        [("positive", "backward"), ("positive", "forward")],
    ],
    1: [
        [("negative", "forward")],
        [("negative", "backward")],
        [("positive", "forward")],
        [("positive", "backward")],
    ],
}
# The host's own margin on its estimate before it puts videos into one call.
_MEMORY_MARGIN = 1.5
_CALC_COND_BATCH = comfy.patcher_extension.WrappersMP.CALC_COND_BATCH


class Failure(Enum):
    """Why an evaluation is computed anew."""

    OUT_OF_MEMORY = "the device ran out of memory"
    BACKWARD_FIRST = "the host computed the backward direction first"
    CALLED_TWICE = "another node makes a UNet call twice"
    DIVIDED = "another node divides the UNet's calls"


@dataclass(frozen=True)
class _Evaluation:
    """What one evaluation is computed from: the host's conditionings by branch, noisy latents, σ and model options."""

    conditionings: Mapping[Branch, list]
    x: torch.Tensor
    timestep: torch.Tensor
    options: dict

    @property
    def directions(self) -> set[str]:
        return {direction for _, direction in self.conditionings}


def calls(videos_per_call: int, branches: Collection[Branch], one_direction_a_call: bool = False) -> list[list[Branch]]:
    """The UNet calls that compute these branches, each call as its branches in the order of the batch.

    One direction alone goes in a call of its two guidance halves, the host's ordinary SVD step; with
    `one_direction_a_call`, each direction does.
    """
    if videos_per_call != 1 and (one_direction_a_call or len({direction for _, direction in branches}) == 1):
        table = [[("positive", direction), ("negative", direction)] for direction in ("forward", "backward")]
    else:
        table = _CALLS[videos_per_call]
    wanted = [[branch for branch in call if branch in branches] for call in table]
    return [call for call in wanted if call]


def fewer_videos_per_call(
    videos_per_call: int, branches: Collection[Branch], one_direction_a_call: bool = False
) -> int | None:
    """The largest smaller number of videos a call that changes the calls of these branches; None: there is none."""
    present = calls(videos_per_call, branches, one_direction_a_call)
    smaller = [number for number in sorted(_CALLS, reverse=True) if number < videos_per_call]
    return next((number for number in smaller if calls(number, branches, one_direction_a_call) != present), None)


def videos_that_fit(memory_of_videos: Callable[[int], float], free: float, many_kernels: bool) -> int:
    """The fastest number of videos a call that fits into `free` bytes.

    `memory_of_videos(n)`: bytes that a call of n videos needs. Two are the fastest and need the memory of an ordinary
    guided SVD step. One call of four pays only on a device whose time goes into launching kernels (`many_kernels`), and
    only with plenty of room.
    """
    if many_kernels and 4 * memory_of_videos(4) < free:
        return 4
    return 2 if memory_of_videos(2) < free else 1


class UNetCalls:
    """The UNet calls of one sampling run: how many videos each takes, and the attention maps kept between them.

    `patcher`: the loaded MODEL, with the method's `injections` in its UNet; `shape`: of the latents,
    `[frames, 4, h, w]`; `videos_per_call`: `auto`, `4`, `2` or `1`; `temporal_attention`: `rotated` or `own`;
    `shared_identities`: {the host's id of a backward conditioning: that of the same one forward}.
    """

    def __init__(
        self,
        patcher: ModelPatcher,
        injections: DualDirectionInjections,
        model_options: dict,
        shape: torch.Size,
        videos_per_call: str,
        temporal_attention: str,
        shared_identities: Mapping[object, object],
    ):
        self._patcher, self._model, self._injections = patcher, patcher.model, injections
        self._temporal_attention = temporal_attention
        self._shared_identities = shared_identities
        self._attention_layers = len(temporal_attention_layers(self._model))
        self._patches = patches_of_nodes(model_options)
        self._maps: dict = {}
        self._maps_of_functions: dict = {}
        # Whether a map is kept for further use after the backward direction has used it.
        self._keeps_maps = False
        self._computed: set[VideoInBatch] = set()
        self._forward_half_step: _Evaluation | None = None
        self._evaluation: _Evaluation | None = None
        self.videos_per_call = self._fitting(shape) if videos_per_call == "auto" else int(videos_per_call)
        self._warn_of_single_videos()

    # What the guider asks for.

    def estimates(
        self, conditionings: Mapping[Branch, list], x: torch.Tensor, timestep: torch.Tensor, model_options: dict
    ) -> dict[Branch, torch.Tensor]:
        """The denoised latents of each branch in its direction's own time, `[frames, 4, h, w]`.

        `conditionings`: the host's, by branch; `x`: noisy latents in forward time, `[frames, 4, h, w]`. The host's
        wrappers around a batch of conditioning run once, around all calls together.
        """
        branches = list(conditionings)

        def batch(model, conditionings: list, x, timestep, options: dict) -> list[torch.Tensor]:
            computed = self._until_it_works(dict(zip(branches, conditionings, strict=True)), x, timestep, options)
            return [computed[branch] for branch in branches]

        wrappers = comfy.patcher_extension.get_all_wrappers(_CALC_COND_BATCH, model_options, is_model_options=True)
        results = comfy.patcher_extension.WrapperExecutor.new_executor(batch, wrappers).execute(
            self._model, list(conditionings.values()), x, timestep, model_options
        )
        return {
            branch: reverse_time(result) if branch[1] == "backward" else result
            for branch, result in zip(branches, results, strict=True)
        }

    def wrapper_in_own_time(
        self, direction: str, previous: Callable | None, from_forward: Callable[[torch.Tensor], torch.Tensor] | None
    ) -> Callable:
        """The host's hook around the model calls that other nodes' functions make in a direction, all in its own time.

        Such a call is made once. When the device runs out of memory in it, the error ends the run: what the function
        has done by then cannot be taken back.

        `previous`: the hook that was there; `from_forward`: what makes the backward estimate of the forward one, where
        the UNet computes the forward direction only.
        """
        count: dict[object, int] = {}

        def wrapper(apply_model: Callable, arguments: dict) -> torch.Tensor:
            videos = []
            for identity in self._identities(arguments):
                # A function may call the model several times: each call belongs to one in the other direction.
                count[identity] = count.get(identity, 0) + 1
                computed = "forward" if from_forward or direction == "forward" else "backward"
                videos.append(VideoInBatch(computed, (identity, count[identity])))
            # Such a call is not made anew, so it is ready for a wrapper of another node that makes it twice.
            if self._evaluation is not None:
                self._load_again_if_taken_out(self._evaluation)
            keeps_maps = bool(call_wrappers(arguments["c"]["transformer_options"], previous))
            call = self._call_of(videos, arguments, self._maps_of_functions, keeps_maps)
            arguments = _with_call(arguments, call, arguments["cond_or_uncond"])
            if from_forward is None:
                return self._apply(apply_model, arguments, previous)
            arguments["input"] = _each(reverse_time, arguments["input"], len(videos))
            return _each(from_forward, self._apply(apply_model, arguments, previous), len(videos))

        return wrapper

    # In which calls.

    def _until_it_works(
        self,
        conditionings: Mapping[Branch, list],
        x: torch.Tensor,
        timestep: torch.Tensor,
        model_options: dict,
    ) -> dict[Branch, torch.Tensor]:
        """The estimates in forward time; where computing them fails, again with fewer videos a call, or maps kept."""
        self._evaluation = evaluation = _Evaluation(conditionings, x, timestep, _options_of_calls(model_options))
        if evaluation.directions == {"forward"}:
            self._forward_half_step = evaluation
        failure = None
        while True:
            try:
                if failure is not None and evaluation.directions == {"backward"} and self._forward_half_step:
                    # What failed has used up the maps of the forward half-step, an evaluation of its own.
                    self._in_calls(self._forward_half_step)
                return self._in_calls(evaluation)
            except Exception as error:
                failure = self._failure(error, evaluation)
                if failure is None:
                    raise
                if not self._change_calls(failure, evaluation):
                    if failure is not Failure.OUT_OF_MEMORY:
                        raise _divided_for_good(evaluation.options) from error
                    # The error stays torch's; what to do about it is shown on the node.
                    remark(f"Dual-direction sampling: {no_room(x.shape)}.")
                    raise
            # Outside the handler: the exception holds on to the tensors of the failed call.
            self._start_anew(failure)

    def _in_calls(self, evaluation: _Evaluation) -> dict[Branch, torch.Tensor]:
        estimates = {}
        for call in calls(self.videos_per_call, evaluation.conditionings, bool(self._patches)):
            comfy.model_management.throw_exception_if_processing_interrupted()
            self._load_again_if_taken_out(evaluation)
            wrapper = self._wrapper_in_forward_time(call, evaluation.options.get("model_function_wrapper"))
            results = comfy.samplers.calc_cond_batch(
                self._model,
                [evaluation.conditionings[branch] for branch in call],
                evaluation.x,
                evaluation.timestep,
                {**evaluation.options, "model_function_wrapper": wrapper},
            )
            estimates.update(zip(call, results, strict=True))
        return estimates

    def _failure(self, error: Exception, evaluation: _Evaluation) -> Failure | None:
        """Why the evaluation has to be computed anew, if it can be.

        Raises RuntimeError when a backward direction alone has never had a forward one.
        """
        if isinstance(error, ForwardMapMissing):
            alone = evaluation.directions == {"backward"}
            if alone and self._forward_half_step is None:
                raise RuntimeError(
                    "The backward direction alone was evaluated before the forward one, whose attention maps it uses "
                    "with temporal_attention rotated. Evaluate the forward direction first, or use temporal_attention "
                    "own."
                ) from error
            # With a call of its own the backward direction always finds the maps, the first time.
            return Failure.CALLED_TWICE if alone or self.videos_per_call == 1 else Failure.BACKWARD_FIRST
        if isinstance(error, VideosDivided):
            return Failure.DIVIDED
        return Failure.OUT_OF_MEMORY if is_out_of_memory(error) else None

    def _change_calls(self, failure: Failure, evaluation: _Evaluation) -> bool:
        """Keeps maps for a call that is made twice, else goes to fewer videos a call; False: nothing is left to try."""
        if failure is Failure.CALLED_TWICE and not self._keeps_maps:
            self._keeps_maps = True
            return True
        fewer = fewer_videos_per_call(self.videos_per_call, evaluation.conditionings, bool(self._patches))
        self.videos_per_call = fewer or self.videos_per_call
        return fewer is not None

    def _start_anew(self, failure: Failure) -> None:
        logger.warning(
            "Dual-direction sampling: %s, going on with %s video(s) a call.", failure.value, self.videos_per_call
        )
        self._warn_of_single_videos()
        self._maps.clear()
        comfy.model_management.soft_empty_cache()

    def _fitting(self, shape: torch.Size) -> int:
        """How many videos a call the free memory allows."""
        device = self._patcher.load_device
        free = free_memory(self._patcher, device)

        def memory_of_videos(count: int) -> float:
            return _MEMORY_MARGIN * self._model.memory_required([count * shape[0], *shape[1:]])

        fitting = videos_that_fit(memory_of_videos, free, comfy.model_management.is_device_cuda(device))
        logger.info(
            "Dual-direction sampling: %s video(s) a call, %.1f GiB free, %.1f GiB estimated for two.",
            fitting,
            free / 2**30,
            memory_of_videos(2) / 2**30,
        )
        return fitting

    def _warn_of_single_videos(self) -> None:
        if self._patches and self.videos_per_call == 1:
            logger.warning(
                "Dual-direction sampling: with one video a call, patches of %s cannot compare both guidance "
                "halves. One that does so, as NAGuidance, has no effect, as in ComfyUI's KSampler where "
                "memory is that short. Choose another videos_per_call, fewer frames or a smaller size.",
                nodes_behind(self._patches),
            )

    # Around one call.

    def _wrapper_in_forward_time(self, branches: list[Branch], previous: Callable | None) -> Callable:
        """The host's hook around a UNet call: backward videos go in and come out in reversed time.

        To the host every video is in forward time, so masks and inpainting mean the same frames in both directions.
        """

        def wrapper(apply_model: Callable, arguments: dict) -> torch.Tensor:
            # The host may have split the call.
            in_call = [branches[index] for index in arguments["cond_or_uncond"]]
            videos = [
                VideoInBatch(direction, identity)
                for (_, direction), identity in zip(in_call, self._identities(arguments), strict=True)
            ]
            call = self._call_of(videos, arguments, self._maps, self._keeps_maps)
            # Other patches read 0 as conditional and 1 as unconditional here.
            arguments = _with_call(arguments, call, [int(half == "negative") for half, _ in in_call])
            arguments["input"] = _reversed_where_backward(arguments["input"], videos)
            result = self._apply(apply_model, arguments, previous)
            self._check_attention_was_used(call, arguments, previous)
            return _reversed_where_backward(result, videos)

        return wrapper

    def _apply(self, apply_model: Callable, arguments: dict, previous: Callable | None) -> torch.Tensor:
        with self._injections.during_call():
            if previous is not None:
                return previous(apply_model, arguments)
            return apply_model(arguments["input"], arguments["timestep"], **arguments["c"])

    def _call_of(self, videos: list[VideoInBatch], arguments: dict, maps: dict, keeps_maps: bool) -> UNetCall:
        frames = len(arguments["input"]) // len(videos)
        return UNetCall(videos, self._temporal_attention, maps, keeps_maps, frames)

    def _identities(self, arguments: dict) -> list[object]:
        """For each video of a call, what its conditioning is known by in both directions."""
        identities = arguments["c"]["transformer_options"]["uuids"]
        return [self._shared_identities.get(identity, identity) for identity in identities]

    def _check_attention_was_used(self, call: UNetCall, arguments: dict, previous: Callable | None) -> None:
        videos = set(call.videos)
        # A cache may leave the UNet out for a video that it has seen before.
        left_out = not call.layers_done and videos <= self._computed
        if call.layers_done < self._attention_layers and not left_out:
            nodes = wrapping_nodes(arguments["c"]["transformer_options"], previous)
            raise ValueError(
                "model: expected the UNet's own temporal attention, found it replaced by another node"
                f"{nodes}. Disconnect that node from the model."
            )
        self._computed |= videos

    def _load_again_if_taken_out(self, evaluation: _Evaluation) -> None:
        """Has the host load the UNet as this run needs it, where something else meanwhile unloaded it or ran in it.

        The host took our injections out for that, and nobody puts them back.
        """
        if self._model.current_patcher is self._patcher and self._patcher.is_injected:
            return
        halves = {"/".join(branch): conditioning for branch, conditioning in evaluation.conditionings.items()}
        comfy.sampler_helpers.prepare_sampling(self._patcher, evaluation.x.shape, halves, evaluation.options)
        self._patcher.pre_run()


def _options_of_calls(model_options: dict) -> dict:
    """The model options for the UNet calls inside an evaluation."""
    options = create_model_options_clone(model_options)
    # Clones on other GPUs would run without the shared attention; one GPU computes all videos.
    options.pop("multigpu_clones", None)
    # They run around the evaluation already, as they do around the host's one call.
    options.get("transformer_options", {}).get("wrappers", {}).pop(_CALC_COND_BATCH, None)
    return options


def _divided_for_good(options: dict) -> ValueError:
    found = wrapping_nodes(options.get("transformer_options", {}), options.get("model_function_wrapper"))
    return ValueError(
        f"model: expected whole videos in each UNet call, found them divided by another node{found}. Disconnect that "
        "node from the model."
    )


def _with_call(arguments: dict, call: UNetCall, cond_or_uncond: list[int]) -> dict:
    """The arguments of a UNet call with what the temporal attention has to know among the transformer's options."""
    options = {**arguments["c"]["transformer_options"], UNET_CALL: call, "cond_or_uncond": cond_or_uncond}
    return {**arguments, "c": {**arguments["c"], "transformer_options": options}, "cond_or_uncond": cond_or_uncond}


def _each(function: Callable[[torch.Tensor], torch.Tensor], batch: torch.Tensor, videos: int) -> torch.Tensor:
    return torch.cat([function(video) for video in batch.chunk(videos)])


def _reversed_where_backward(batch: torch.Tensor, videos: list[VideoInBatch]) -> torch.Tensor:
    parts = zip(batch.chunk(len(videos)), videos, strict=True)
    return torch.cat([reverse_time(part) if video.direction == "backward" else part for part, video in parts])
