"""What is seen while a video is sampled: a bar that counts UNet evaluations, and a preview of the whole clip."""

from collections.abc import Callable

import latent_preview
import torch
from tqdm.auto import tqdm

Callback = Callable[[int, torch.Tensor, torch.Tensor, int], None]


class EvaluationProgress:
    """Turns a host's callback per sampler step into one per evaluation, re-injections included.

    How many evaluations a step takes (1 for Euler, 2 for Heun) is learnt while the sampler runs. In a `with` statement
    it keeps a bar on the console, too. `steps`: the sampler steps of the whole run, re-injections included.
    """

    def __init__(self, callback: Callback | None, steps: int, quiet: bool = False):
        self._callback = callback
        self._console = tqdm(total=steps, unit="evaluation", disable=quiet)
        self._steps = steps
        self._steps_done = 0
        self._per_step = 1
        self._in_this_step = 0
        self.done = 0

    def __enter__(self) -> "EvaluationProgress":
        return self

    def __exit__(self, *exception) -> None:
        self._console.close()

    def evaluated(self, x0: torch.Tensor, x: torch.Tensor) -> None:
        """After every evaluation: the estimate and the noisy latents."""
        self.done += 1
        self._in_this_step += 1
        self._per_step = max(self._per_step, self._in_this_step)
        self._console.update()
        self._report(x0, x)

    def stepped(self, x0: torch.Tensor, x: torch.Tensor) -> None:
        """After every sampler step: the sampler's own estimate replaces ours, and the estimate is updated."""
        self._steps_done += 1
        self._per_step = max(self._in_this_step, 1)
        self._in_this_step = 0
        self._report(x0, x)

    @property
    def total(self) -> int:
        """Evaluations done and still expected."""
        remaining = max(self._steps - self._steps_done, 0) * self._per_step - self._in_this_step
        return self.done + max(remaining, 0)

    def _report(self, x0: torch.Tensor, x: torch.Tensor) -> None:
        self._console.total = self.total
        if self._callback is not None and self.done:
            self._callback(self.done - 1, x0, x, self.total)


def clip_preview(model, steps: int) -> Callback:
    """The host's callback, but each evaluation previews the next frame, not always the first.

    When another extension shows previews in its own way, it gets all frames as they are.
    """
    callback = latent_preview.prepare_callback(model, steps)
    if not _is_of_the_host(latent_preview.get_previewer):
        return callback

    def next_frame(evaluation: int, x0: torch.Tensor, x: torch.Tensor, total: int) -> None:
        # The host shows the first of the latents that it is given.
        callback(evaluation, x0[evaluation % len(x0) :], x, total)

    return next_frame


def _is_of_the_host(function: object) -> bool:
    """Whether it is latent_preview's own function, not one that another extension has put in its place."""
    # Only its globals tell: functools.wraps gives a replacement the name and the module of what it replaces.
    return getattr(function, "__globals__", None) is vars(latent_preview)
