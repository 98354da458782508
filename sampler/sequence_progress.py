"""One progress bar over all clips of a sequence."""

import torch

from .progress import Callback


class SequenceProgress:
    """Turns the callback of one clip after another into that of one bar, counted in UNet evaluations.

    `clips`: how many there are in all; as many evaluations are expected of those to come as the present one takes.
    """

    def __init__(self, callback: Callback, clips: int):
        self._callback = callback
        self._clips_to_come = clips
        self._done = 0
        self._done_in_this_clip = 0

    def __call__(self, evaluation: int, x0: torch.Tensor, x: torch.Tensor, evaluations: int) -> None:
        self._done_in_this_clip = evaluation + 1
        self._callback(self._done + evaluation, x0, x, self._done + evaluations * self._clips_to_come)

    def clip_done(self) -> None:
        """After every clip, whether it was sampled or was there already."""
        self._done += self._done_in_this_clip
        self._done_in_this_clip = 0
        self._clips_to_come -= 1
