"""The training run: clips, model and optimizer put together, and the loop over steps."""

from __future__ import annotations

import logging
import math
import signal
import threading
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import AutocastKwargs, InitProcessGroupKwargs
from tqdm.auto import tqdm

from ..common.errors import WeightsError
from ..weights.backward_motion import write_backward_motion
from ..weights.keys.unet import diffusers_to_comfy
from .batches import STEP, BatchMaker, HeldOut, clip_numbers, generator, prepare_clips
from .checkpoint import (
    CheckpointError,
    RunState,
    base_fingerprint,
    check_continues,
    checkpoints,
    load_checkpoint,
    read_state,
    save_checkpoint,
)
from .log import RunLog
from .model import BackwardMotionModel, enable_gradient_checkpointing
from .settings import PRECISIONS, Settings, SettingsError
from .svd import check_is_svd, load_unet

logger = logging.getLogger(__name__)

LOG = "log.jsonl"


class Diverged(RuntimeError):
    """The loss or its gradient is no longer a finite number."""


class Interrupted(RuntimeError):
    """The run was asked to stop, and has saved a checkpoint."""


def fine_tune(settings: Settings, resume: str | None = None, overwrite: bool = False) -> Path:
    """Train backward-motion weights and write them; returns the file.

    `resume`: a checkpoint, or "" for the newest of the output folder. Raises SettingsError, NoVideos, NotAnSVDModel,
    CheckpointError, WeightsError, Diverged, Interrupted: each message says what to do.
    """
    settings.check()
    check_is_svd(Path(settings.base))
    accelerator = make_accelerator(settings)
    checkpoint = _starting_point(settings, resume, overwrite)
    _check_out(Path(settings.out))
    accelerator.wait_for_everyone()
    batches, clips, held_out_clips = prepare_clips(accelerator, settings)
    run = Run.prepare(accelerator, settings, batches, clips, checkpoint)
    held_out = HeldOut(accelerator, run.model, batches, held_out_clips, settings.seed) if held_out_clips else None
    run.train(held_out)
    if accelerator.is_main_process:
        write_result(run.model, settings, overwrite)
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return settings.result


def make_accelerator(settings: Settings) -> Accelerator:
    """The devices of the run. Raises SettingsError where they lack the precision asked for."""
    # Encoding clips can keep one process busy for hours while the others wait.
    patience = InitProcessGroupKwargs(timeout=timedelta(hours=24))
    # The frozen weights are in their final precision and the trained ones are cast where they are used; autocast
    # would only add float32 copies of the inputs of every norm. What remains is the loss scaling of fp16.
    no_autocast = AutocastKwargs(enabled=False)
    try:
        return Accelerator(
            mixed_precision=settings.mixed_precision,
            gradient_accumulation_steps=settings.accumulation,
            cpu=settings.cpu,
            kwargs_handlers=[patience, no_autocast],
        )
    except ValueError as error:
        raise SettingsError(
            f"--mixed-precision: {settings.mixed_precision} cannot be used here: {error}. Give bf16 or no."
        ) from error


def _check_out(folder: Path) -> None:
    """Make the folder of a run's files. Raises SettingsError where nothing can be written into it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / LOG).open("ab").close()
    except OSError as error:
        raise SettingsError(f"--out: cannot write into {folder}: {error.strerror}. Give another folder.") from error


def _starting_point(settings: Settings, resume: str | None, overwrite: bool) -> Path | None:
    if settings.result.exists() and not overwrite:
        raise SettingsError(f"--out: {settings.result} exists. Give another folder, or --overwrite to replace it.")
    present = checkpoints(Path(settings.out))
    if resume is None:
        if present:
            raise SettingsError(
                f"--out: {settings.out} holds checkpoints of an earlier run, up to {present[-1].name}. "
                "Add --resume to continue it, or give another folder."
            )
        return None
    if not resume and not present:
        raise CheckpointError(f"--resume: {settings.out} holds no checkpoint. Leave --resume out to start a new run.")
    return Path(resume) if resume else present[-1]


def learning_rate(settings: Settings, step: int) -> float:
    """Learning rate of a step (the first is 0)."""
    rate = settings.lr
    if settings.lr_schedule == "cosine":
        rate *= 0.5 * (1 + math.cos(math.pi * step / settings.steps))
    return rate * min(1.0, (step + 1) / (settings.warmup_steps + 1))


def write_result(model: BackwardMotionModel, settings: Settings, overwrite: bool) -> None:
    """Write the backward-motion file. Raises WeightsError."""
    names = diffusers_to_comfy(model.unet.state_dict())
    metadata = {
        "base": Path(settings.base).resolve().name,
        "frames": str(settings.frames),
        "source": settings.source,
        "license": settings.license,
        "temporal_attention": settings.maps,
    }
    differences = {names[name]: tensor for name, tensor in model.differences().items()}
    write_backward_motion(settings.result, differences, metadata, overwrite)
    logger.info("wrote %s", settings.result)


class StopSignals:
    """Turns the first Ctrl-C (or SIGTERM) into a wish to stop after the step; the second acts as usual."""

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        # Only the main thread may set handlers; elsewhere the run simply cannot be stopped this way.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._request)
        return self

    def _request(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        signal.signal(number, self._before[number])

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


@dataclass
class Run:
    """A run in progress."""

    accelerator: Accelerator
    settings: Settings
    batches: BatchMaker
    clips: list[Path]
    fingerprint: str
    model: BackwardMotionModel
    wrapped: torch.nn.Module
    raw_optimizer: torch.optim.Optimizer
    optimizer: torch.optim.Optimizer
    step: int = 0

    @classmethod
    def prepare(
        cls,
        accelerator: Accelerator,
        settings: Settings,
        batches: BatchMaker,
        clips: list[Path],
        checkpoint: Path | None,
    ) -> Run:
        """Load the base, put the checkpoint in place, and hand only the trainable module to accelerate."""
        unet = load_unet(Path(settings.base))
        diffusers_to_comfy(unet.state_dict())  # An architecture that cannot be written is refused before training.
        fingerprint = base_fingerprint(unet)
        model = BackwardMotionModel(unet, settings.maps, PRECISIONS[settings.mixed_precision])
        if settings.gradient_checkpointing:
            enable_gradient_checkpointing(model.unet)
        model.unet.to(accelerator.device)
        model.to(accelerator.device)
        optimizer = torch.optim.AdamW(
            model.named_trainable().values(), lr=settings.lr, weight_decay=settings.weight_decay
        )
        state = None
        if checkpoint:
            state = read_state(checkpoint)
            check_continues(checkpoint, state, fingerprint, settings.maps, settings.mixed_precision)
            load_checkpoint(checkpoint, model, optimizer)
            _report_changes(settings, state)
        wrapped, prepared = accelerator.prepare(model, optimizer)
        if state and state.loss_scale and accelerator.scaler:
            accelerator.scaler.load_state_dict(state.loss_scale)
        return cls(
            accelerator,
            settings,
            batches,
            clips,
            fingerprint,
            model,
            wrapped,
            optimizer,
            prepared,
            state.step if state else 0,
        )

    def train(self, held_out: HeldOut | None) -> None:
        """Run to the last step. Raises Interrupted, Diverged, WeightsError."""
        settings, main = self.settings, self.accelerator.is_main_process
        with (
            RunLog(Path(settings.out) / LOG, self.step, main) as log,
            StopSignals() as signals,
            tqdm(total=settings.steps, initial=self.step, unit="step", disable=not main) as bar,
        ):
            log.write(
                event="start",
                step=self.step,
                clips=len(self.clips),
                processes=self.accelerator.num_processes,
                settings=asdict(settings),
            )
            if held_out and self.step == 0:
                log.write(event="held-out", step=0, **held_out.base_losses())
            saved = self.step
            while self.step < settings.steps:
                loss, gradient_norm, stop = self._optimize(signals.requested)
                rate = learning_rate(settings, self.step)
                self.step += 1
                log.write(
                    event="step",
                    step=self.step,
                    loss=loss,
                    lr=rate,
                    gradient_norm=gradient_norm if math.isfinite(gradient_norm) else None,
                    seconds=log.lap(),
                )
                bar.set_postfix(loss=f"{loss:.4f}", lr=f"{rate:.2e}")
                bar.update()
                if held_out and self.step % settings.held_out_every == 0:
                    log.write(event="held-out", step=self.step, **held_out.losses())
                if stop:
                    self._stop()
                if self.step % settings.save_every == 0 and self.step < settings.steps:
                    saved = self._try_to_save() or saved
            if saved < self.step:
                self._try_to_save()

    def _optimize(self, stop_requested: bool) -> tuple[float, float, bool]:
        """One optimizer step: mean loss over all devices and passes, gradient norm, and whether any device stops."""
        settings, accelerator = self.settings, self.accelerator
        total = torch.zeros((), device=accelerator.device)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(settings, self.step)
        for turn in range(settings.accumulation):
            number = self.step * settings.accumulation + turn
            number = number * accelerator.num_processes + accelerator.process_index
            chosen = clip_numbers(settings.seed, len(self.clips), number, settings.batch_size)
            batch = self.batches([self.clips[clip] for clip in chosen], generator(settings.seed, STEP, number))
            with accelerator.accumulate(self.wrapped):
                loss = self.wrapped(**batch).mean()
                accelerator.backward(loss)
                total += loss.detach() / settings.accumulation
        reported = torch.stack([total, total.new_tensor(float(stop_requested))])
        averaged: Any = accelerator.reduce(reported, reduction="mean")
        loss_value, stop = averaged.tolist()
        self._check_finite("loss", loss_value)
        limit = settings.max_grad_norm or math.inf
        norm_of_all: Any = accelerator.clip_grad_norm_(self.model.parameters(), limit)
        norm = float(norm_of_all)
        if accelerator.scaler is None:
            self._check_finite("gradient", norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss_value, norm, stop > 0

    def _check_finite(self, what: str, value: float) -> None:
        if not math.isfinite(value):
            kept = checkpoints(Path(self.settings.out))
            last = f"The last good checkpoint is {kept[-1]}" if kept else "No checkpoint had been saved yet"
            raise Diverged(
                f"the {what} became {value} at step {self.step + 1}; training stopped. {last}. Lower --lr"
                + (", or use --mixed-precision bf16." if self.settings.mixed_precision == "fp16" else ".")
            )

    def _save(self) -> Path | None:
        """Save a checkpoint from the main process. Raises WeightsError."""
        if not self.accelerator.is_main_process:
            return None
        scaler = self.accelerator.scaler
        state = RunState(
            self.step,
            self.fingerprint,
            self.settings.maps,
            self.settings.mixed_precision,
            asdict(self.settings),
            scaler.state_dict() if scaler else None,
        )
        return save_checkpoint(Path(self.settings.out), self.model, self.raw_optimizer, state, self.settings.keep)

    def _try_to_save(self) -> int:
        """The step saved, or 0 where that failed: losing a checkpoint is no reason to lose the run."""
        try:
            self._save()
        except WeightsError as error:
            logger.error("no checkpoint at step %d, earlier ones are kept, training goes on: %s", self.step, error)
            return 0
        return self.step

    def _stop(self) -> None:
        path = self._save()
        self.accelerator.wait_for_everyone()
        raise Interrupted(f"stopped after step {self.step}; saved {path}. Continue with --resume.")


def _report_changes(settings: Settings, state: RunState) -> None:
    now = asdict(settings)
    changed = [
        name
        for name, value in state.settings.items()
        if now.get(name) != value and name not in ("steps", "out", "cache", "cpu")
    ]
    for name in changed:
        logger.warning(
            "resumed with another --%s: %s, was %s", name.replace("_", "-"), now.get(name), state.settings[name]
        )
