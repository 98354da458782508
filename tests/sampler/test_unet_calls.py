"""In which calls an evaluation goes through the UNet: the choice, the maps between calls, and what can go wrong."""

import gc
import logging

import comfy.model_management
import comfy.patcher_extension
import pytest
import torch
from generative_inbetweening.sampler.method.alternating import ONE_DIRECTION
from generative_inbetweening.sampler.settings import STRATEGIES, VIDEOS_PER_CALL
from generative_inbetweening.sampler.unet_calls import calls, fewer_videos_per_call, videos_that_fit
from generative_inbetweening.sampler.unet_patches import UNET_CALL
from helpers.small_model import FRAMES, calling, counting, sample, unpatched, watched

WRAPPERS = comfy.patcher_extension.WrappersMP
ROUNDING = {"rtol": 1e-3, "atol": 2e-3}
BRANCHES = [(half, direction) for direction in ("forward", "backward") for half in ("positive", "negative")]


@pytest.mark.parametrize("videos_per_call", [4, 2, 1])
def test_every_branch_is_computed_once(videos_per_call):
    for branches in (BRANCHES, BRANCHES[::2], BRANCHES[:2], BRANCHES[2:], BRANCHES[:1]):
        for one_direction in (False, True):
            made = calls(videos_per_call, branches, one_direction)
            assert sorted(branch for call in made for branch in call) == sorted(branches)
            assert max(map(len, made)) <= videos_per_call and all(made)
    assert max(map(len, calls(videos_per_call, BRANCHES))) == videos_per_call


@pytest.mark.parametrize("videos_per_call", [4, 2, 1])
def test_a_backward_branch_never_comes_before_its_forward_map(videos_per_call):
    """In a call of several the host takes the last first, if it has to split it."""
    made = [call[::-1] for call in calls(videos_per_call, BRANCHES)]
    order = [branch for call in made for branch in call]
    for half in ("positive", "negative"):
        assert order.index((half, "forward")) < order.index((half, "backward"))


def test_one_direction_a_call_is_the_hosts_ordinary_step():
    assert calls(4, BRANCHES, one_direction_a_call=True) == [BRANCHES[:2], BRANCHES[2:]]
    assert calls(2, BRANCHES[2:]) == [BRANCHES[2:]]
    assert calls(1, BRANCHES[2:], one_direction_a_call=True) == [BRANCHES[3:], BRANCHES[2:3]]


def test_stepping_down_never_repeats_the_same_calls():
    assert [fewer_videos_per_call(number, BRANCHES) for number in (4, 2, 1)] == [2, 1, None]
    # Without guidance, with one direction, and with one direction a call, 4 and 2 make the same calls.
    assert fewer_videos_per_call(4, BRANCHES[::2]) == 1
    assert fewer_videos_per_call(4, BRANCHES[2:]) == 1
    assert fewer_videos_per_call(4, BRANCHES, one_direction_a_call=True) == 1
    assert fewer_videos_per_call(4, BRANCHES[:1]) is None


@pytest.mark.parametrize("changes", [{"guidance_max": 1.0}, {"strategy": "endpoint-correction"}], ids=str)
def test_a_call_that_ran_out_of_memory_is_not_made_again(models, encoded, changes):
    sizes = []

    def too_large(videos):
        sizes.append(videos)
        if videos > 1:
            raise comfy.model_management.OOM_EXCEPTION("out of memory")

    sample(calling(models[0], too_large), encoded, videos_per_call="4", steps=1, reinjections=0, **changes)
    assert sizes == [2, 1, 1]


def test_the_backward_direction_alone_has_no_map_to_use(models, encoded):
    def backward_only(executor, x, timestep, model_options, seed):
        return executor(x, timestep, {**model_options, ONE_DIRECTION: "backward"}, seed)

    model = models[0].clone()
    model.add_wrapper(WRAPPERS.PREDICT_NOISE, backward_only)
    with pytest.raises(RuntimeError, match=r"^The backward direction alone was evaluated before the forward one"):
        sample(model, encoded, steps=1)
    sample(model, encoded, steps=1, temporal_attention="own")


def test_the_choice_follows_memory():
    def gigabytes(count):
        return count * 1.0

    assert videos_that_fit(gigabytes, 100, many_kernels=True) == 4
    assert videos_that_fit(gigabytes, 100, many_kernels=False) == 2
    assert videos_that_fit(gigabytes, 5, many_kernels=True) == 2
    assert videos_that_fit(gigabytes, 1.5, many_kernels=True) == 1


@pytest.fixture
def runs(models, encoded):
    """Samples as `sample` does; gives the UNetCalls of the run and, after each evaluation, the layers of its maps."""

    def run(model, **changes):
        found = []

        def look(executor, *arguments, **more):
            result = executor(*arguments, **more)
            of_run = executor.class_obj.run.unet_calls
            found.append((of_run, {layer for layer, _ in of_run._maps}))
            return result

        model = model.clone()
        model.add_wrapper(WRAPPERS.PREDICT_NOISE, look)
        sample(model, encoded, **changes)
        return found[0][0], [layers for _, layers in found]

    return run


@pytest.mark.parametrize("videos_per_call", VIDEOS_PER_CALL)
def test_no_map_outlives_its_evaluation(models, runs, videos_per_call):
    of_run, maps = runs(models[0], videos_per_call=videos_per_call)
    assert of_run.videos_per_call == int(videos_per_call) and not any(maps)


def test_maps_go_from_one_half_step_to_the_other(models, runs):
    _, maps = runs(models[0], strategy="alternating-backward-motion", temporal_attention="rotated", steps=2)
    assert [len(layers) for layers in maps] == [16, 0, 16, 0]


def test_the_rest_of_a_run_stays_stepped_down(models, runs):
    sizes = []

    def too_large(videos):
        sizes.append(videos)
        if videos > 1:
            raise comfy.model_management.OOM_EXCEPTION("out of memory")

    of_run, _ = runs(calling(models[0], too_large), videos_per_call="4")
    assert of_run.videos_per_call == 1
    assert sizes[:2] == [4, 2] and set(sizes[2:]) == {1}
    again, _ = runs(models[0], videos_per_call="4")
    assert again.videos_per_call == 4


def demand_all_memory(model, monkeypatch) -> None:
    """Makes the host believe that no second video fits beside the first."""
    monkeypatch.setattr(model.model, "memory_required", lambda *_, **__: 2.0**60)


@pytest.mark.slow
@pytest.mark.parametrize("order", VIDEOS_PER_CALL)
def test_every_order_gives_the_same_when_the_host_splits_its_batches(models, encoded, expected, order, monkeypatch):
    assert torch.allclose(sample(models[0], encoded, videos_per_call=order), expected, **ROUNDING)
    demand_all_memory(models[0], monkeypatch)
    assert torch.allclose(sample(models[0], encoded, videos_per_call=order), expected, **ROUNDING)


def test_auto_chooses_one_video_at_a_time_when_memory_is_short(models, encoded, expected, monkeypatch):
    sizes = []
    model = watched(models[0], lambda arguments: sizes.append(arguments["input"].shape[0]))
    sample(model, encoded, videos_per_call="auto")
    assert set(sizes) == {2 * FRAMES}
    demand_all_memory(models[0], monkeypatch)
    sizes.clear()
    assert torch.allclose(sample(model, encoded, videos_per_call="auto"), expected, **ROUNDING)
    assert set(sizes) == {FRAMES}


def test_the_videos_per_call_is_logged_once(models, encoded, caplog):
    with caplog.at_level(logging.INFO):
        sample(models[0], encoded, videos_per_call="auto")
    lines = [line for line in caplog.messages if "GiB free" in line]
    assert len(lines) == 1 and any(f"{order} video(s) a call" in lines[0] for order in VIDEOS_PER_CALL)


def test_free_memory_is_asked_of_the_models_patcher(models, encoded, monkeypatch, caplog):
    gib = 2.0**30
    monkeypatch.setattr(type(models[0]), "get_free_memory", lambda self, device: 10**6 * gib, raising=False)
    # More than any machine's own figure.
    monkeypatch.setattr(models[0].model, "memory_required", lambda *_, **__: 10**5 * gib)
    with caplog.at_level("INFO"):
        sample(models[0], encoded, videos_per_call="auto", steps=1)
    assert "2 video(s) a call, 1000000.0 GiB free" in caplog.text


def test_running_out_of_memory_steps_down_and_goes_on(models, encoded, expected, caplog):
    def too_large(arguments):
        if arguments["input"].shape[0] > FRAMES:
            raise comfy.model_management.OOM_EXCEPTION("out of memory")

    result = sample(watched(models[0], too_large), encoded, videos_per_call="4")
    assert torch.allclose(result, expected, **ROUNDING)
    assert "going on with 2 video(s) a call" in caplog.text and "going on with 1 video(s) a call" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(
    "error",
    [
        lambda: torch.AcceleratorError("CUDA error: out of memory"),
        lambda: RuntimeError("MPS backend out of memory (MPS allocated: 17 GB)"),
    ],
    ids=["cuda", "mps"],
)
def test_running_out_of_memory_steps_down_in_every_strategy(models, encoded, strategy, error):
    def too_large(videos):
        if videos > 1:
            raise error()

    assert torch.allclose(
        sample(calling(models[0], too_large), encoded, strategy=strategy, videos_per_call="4", steps=2),
        sample(models[0], encoded, strategy=strategy, steps=2),
        rtol=1e-3,
        atol=5e-3,
    )
    assert unpatched(models[0])


def test_running_out_of_memory_in_the_backward_half_step(models, encoded):
    """The maps of the forward half-step are gone when the backward one fails: they are computed again."""
    failed = []
    model = models[0].clone()

    def fails_once(apply_model, arguments):
        result = apply_model(arguments["input"], arguments["timestep"], **arguments["c"])
        videos = arguments["c"]["transformer_options"][UNET_CALL].videos
        if not failed and videos[0].direction == "backward" and len(videos) > 1:
            failed.append(videos)
            raise comfy.model_management.OOM_EXCEPTION("out of memory")
        return result

    model.set_model_unet_function_wrapper(fails_once)
    changes = {"strategy": "alternating-backward-motion", "videos_per_call": "4"}
    assert torch.allclose(sample(model, encoded, **changes), sample(models[0], encoded, **changes), **ROUNDING)
    assert failed and len(failed[0]) == 2


@pytest.mark.parametrize("interrupted_at", [1, 2])
def test_interrupt_in_the_middle_of_a_fallback(models, encoded, expected, interrupted_at):
    calls = []

    def too_large(videos):
        calls.append(videos)
        if len(calls) == interrupted_at:
            comfy.model_management.interrupt_current_processing()
        if videos > 1:
            raise comfy.model_management.OOM_EXCEPTION("out of memory")

    with pytest.raises(comfy.model_management.InterruptProcessingException):
        sample(calling(models[0], too_large), encoded, videos_per_call="4")
    assert calls == [4, 2][:interrupted_at]
    assert unpatched(models[0])
    assert not comfy.model_management.processing_interrupted()
    assert torch.equal(sample(models[0], encoded), expected)


@pytest.mark.slow
@pytest.mark.parametrize("ends", ["well", "out of memory", "interrupted"])
def test_nothing_stays_in_memory_after_a_run(models, encoded, expected, ends):
    def look(videos):
        if ends == "interrupted":
            comfy.model_management.interrupt_current_processing()
        if ends == "out of memory":
            raise comfy.model_management.OOM_EXCEPTION("out of memory")

    model, result = calling(models[0], look), None
    with counting() as live:
        try:
            result = sample(model, encoded, videos_per_call="1")
        except (comfy.model_management.OOM_EXCEPTION, comfy.model_management.InterruptProcessingException):
            assert ends != "well"
        gc.collect()
        assert live.now == (result.nbytes if ends == "well" else 0)


def one_video_at_a_time(call, x, timesteps, conditioning: dict, videos: int) -> torch.Tensor:
    """The call's videos in calls of their own."""

    def part(value, index):
        return value.chunk(videos)[index] if torch.is_tensor(value) and len(value) % videos == 0 else value

    return torch.cat(
        [
            call(
                part(x, index),
                part(timesteps, index),
                **{key: part(value, index) for key, value in conditioning.items()},
            )
            for index in range(videos)
        ]
    )


def dividing(model, way: str):
    """A clone of the model with a node around its UNet calls that makes several of each."""
    model = model.clone()

    def of_host(apply_model, arguments):
        x, timesteps, conditioning = arguments["input"], arguments["timestep"], arguments["c"]
        if way == "twice":
            apply_model(x, timesteps, **conditioning)
            return apply_model(x, timesteps, **conditioning)
        return one_video_at_a_time(apply_model, x, timesteps, conditioning, len(arguments["cond_or_uncond"]))

    def of_unet(executor, x, timesteps, context, y, control, options, **more):
        return one_video_at_a_time(
            lambda x, timesteps, context, y, **more: executor(x, timesteps, context, y, control, options, **more),
            x,
            timesteps,
            {"context": context, "y": y, **more},
            len(options["uuids"]),
        )

    if way == "inside":
        model.add_wrapper_with_key(WRAPPERS.DIFFUSION_MODEL, "divides", of_unet)
    else:
        model.set_model_unet_function_wrapper(of_host)
    return model


@pytest.mark.slow
@pytest.mark.parametrize("order", VIDEOS_PER_CALL)
@pytest.mark.parametrize("way", ["around", "inside", "twice"])
def test_a_node_may_make_several_calls_of_one(models, encoded, way, order):
    changes = {"videos_per_call": order, "steps": 2}
    expected = sample(models[0], encoded, **changes)
    assert torch.allclose(sample(dividing(models[0], way), encoded, **changes), expected, **ROUNDING)


@pytest.mark.parametrize("way", ["around", "twice"])
def test_a_node_may_make_several_calls_of_a_half_step(models, encoded, way):
    changes = {"strategy": "alternating-backward-motion", "videos_per_call": "4", "steps": 2}
    expected = sample(models[0], encoded, **changes)
    assert torch.allclose(sample(dividing(models[0], way), encoded, **changes), expected, **ROUNDING)


def test_a_node_that_divides_a_video_is_named(models, encoded):
    model = models[0].clone()

    def windows(apply_model, arguments):
        x, conditioning = arguments["input"], {**arguments["c"], "num_video_frames": 2}
        return one_video_at_a_time(apply_model, x, arguments["timestep"], conditioning, len(x) // 2)

    model.set_model_unet_function_wrapper(windows)
    with pytest.raises(ValueError, match=r"^model: .*divided by another node \(test_a_node_that_divides.*Disconnect"):
        sample(model, encoded)
    assert unpatched(models[0])


def test_one_video_a_call_says_what_a_patch_cannot_do(models, encoded, caplog):
    model = models[0].clone()
    model.set_model_attn1_output_patch(lambda out, options: out)
    with caplog.at_level(logging.WARNING):
        sample(model, encoded, videos_per_call="2")
        assert "cannot compare" not in caplog.text
        sample(model, encoded, videos_per_call="1")
        sample(models[0], encoded, videos_per_call="1")
    assert caplog.text.count("cannot compare both guidance halves") == 1
