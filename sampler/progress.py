"""A progress bar that counts UNet evaluations, re-injections and a sampler's inner evaluations included.

A preview of the whole clip while it is sampled: each evaluation shows the next frame.
"""

from collections.abc import Callable

import latent_preview
import torch
from tqdm.auto import tqdm

Callback = Callable[[int, torch.Tensor, torch.Tensor, int], None]


class EvaluationProgress:
    """Turns a host's callback per sampler step into one per evaluation.

    How many evaluations a pass of the sampler takes (1 for Euler, 2 for Heun) is learnt while it runs. Used in a `with`
    statement, it keeps a bar on the console, too.
    """

    def __init__(self, callback: Callback | None, passes: int, quiet: bool = False):
        self._callback = callback
        self._console = tqdm(total=passes, unit="evaluation", disable=quiet)
        self._passes = passes
        self._passes_done = 0
        self._per_pass = 1
        self._in_this_pass = 0
        self.done = 0

    def __enter__(self) -> "EvaluationProgress":
        return self

    def __exit__(self, *exception) -> None:
        self._console.close()

    def evaluated(self, x0: torch.Tensor, x: torch.Tensor) -> None:
        """After every evaluation: the estimate and the noisy latents."""
        self.done += 1
        self._in_this_pass += 1
        self._per_pass = max(self._per_pass, self._in_this_pass)
        self._console.update()
        self._report(x0, x)

    def stepped(self, x0: torch.Tensor, x: torch.Tensor) -> None:
        """After every pass of the sampler: its own estimate replaces ours, and the expectation is renewed."""
        self._passes_done += 1
        self._per_pass = max(self._in_this_pass, 1)
        self._in_this_pass = 0
        self._report(x0, x)

    @property
    def total(self) -> int:
        """Evaluations done and still expected."""
        remaining = max(self._passes - self._passes_done, 0) * self._per_pass - self._in_this_pass
        return self.done + max(remaining, 0)

    def _report(self, x0: torch.Tensor, x: torch.Tensor) -> None:
        self._console.total = self.total
        if self._callback is not None and self.done:
            self._callback(self.done - 1, x0, x, self.total)


def clip_preview(model, steps: int) -> Callback:
    """The host's callback, whose preview goes through the frames instead of always showing the first.

    When another extension shows previews in its own way, it gets all frames as they are.
    """
    callback = latent_preview.prepare_callback(model, steps)
    if getattr(latent_preview.get_previewer, "__globals__", None) is not vars(latent_preview):
        return callback

    def next_frame(evaluation: int, x0: torch.Tensor, x: torch.Tensor, total: int) -> None:
        # The host shows the first of the latents that it is given.
        callback(evaluation, x0[evaluation % len(x0) :], x, total)

    return next_frame
