"""LPIPS, FID and FVD, of network files that the user has: nothing is downloaded.

Their files are read as numbers alone (`torch.load` with `weights_only`). FVD's is TorchScript, a program, as the field
ships it: take it from where its authors put it.
"""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from ..common.options import OptionError
from ..common.packages import check_installed

FEWEST_FVD_FRAMES = 10
"""Below that I3D's pooling over time leaves nothing."""
_I3D_SIDE, _BATCH = 224, 8


@dataclass(frozen=True)
class Needed:
    """A metric's network file: what it is, and where the field gets it."""

    metric: str
    file: str
    source: str


NEEDED = {
    "lpips": Needed(
        "LPIPS (Zhang et al., arXiv 1801.03924; version 0.1)",
        "torchvision's AlexNet or VGG16 trained on ImageNet, alexnet-owt-7be5be79.pth or vgg16-397923af.pth",
        "https://download.pytorch.org/models/",
    ),
    "fid": Needed(
        "FID (Heusel et al., arXiv 1706.08500)",
        "the Inception network of 2015, pt_inception-2015-12-05-6726825d.pth",
        "https://github.com/mseitzer/pytorch-fid/releases/tag/fid_weights",
    ),
    "fvd": Needed(
        "FVD (Unterthiner et al., arXiv 1812.01717)",
        "I3D as TorchScript, i3d_torchscript.pt",
        "https://github.com/universome/stylegan-v, src/metrics/frechet_video_distance.py, which names its address",
    ),
}


class LPIPS:
    """Learned perceptual distance of two pictures by the package `lpips`, whose linear layers it brings. 0: equal.

    `file`: torchvision's AlexNet or VGG16, which it tells apart. Raises OptionError, PackageMissing.
    """

    def __init__(self, file: Path, device: torch.device):
        weights = _tensors("lpips", file)
        check_installed("lpips")
        import lpips

        first = weights.get("features.0.weight", torch.empty(0)).shape
        kinds = {(64, 3, 11, 11): "alex", (64, 3, 3, 3): "vgg"}
        if tuple(first) not in kinds:
            raise _unfit("lpips", file, "other weights")
        self.kind = kinds[tuple(first)]
        with warnings.catch_warnings():
            # The package calls torchvision in a way that it advises against.
            warnings.simplefilter("ignore")
            self.network = lpips.LPIPS(net=self.kind, pnet_rand=True, verbose=False).eval()
        # Its trunk is torchvision's, cut into slices that keep the layers' numbers.
        trunk = {name: f"features.{name.partition('.')[2]}" for name in self.network.net.state_dict()}
        try:
            self.network.net.load_state_dict({name: weights[key] for name, key in trunk.items()})
        except (KeyError, RuntimeError) as error:
            raise _unfit("lpips", file, f"an incomplete {self.kind}") from error
        self.network.to(device).requires_grad_(False)
        self.device = device

    @torch.no_grad()
    def __call__(self, frames: torch.Tensor, truth: torch.Tensor) -> np.ndarray:
        """That of each frame, `[frames]`; both `[frames, 3, h, w]` in 0…1."""
        pairs = (
            self.network(ours[None].to(self.device), true[None].to(self.device), normalize=True)
            for ours, true in zip(frames, truth)
        )
        return np.array([float(each) for each in pairs])


class Inception:
    """The features of pictures that FID compares, by the package `pytorch-fid`. Raises OptionError, PackageMissing."""

    def __init__(self, file: Path, device: torch.device):
        weights = _tensors("fid", file)
        check_installed("pytorch_fid")
        from pytorch_fid import inception

        try:
            # The package would download them.
            with patch.object(inception, "load_state_dict_from_url", lambda *_, **__: weights):
                self.network = inception.InceptionV3().eval()
        except RuntimeError as error:
            raise _unfit("fid", file, "weights of another network") from error
        self.network.to(device)
        self.device = device

    @torch.no_grad()
    def __call__(self, frames: torch.Tensor) -> torch.Tensor:
        """`[frames, 2048]` of `[frames, 3, h, w]` in 0…1."""
        return torch.cat([self.network(batch.to(self.device))[0].flatten(1).cpu() for batch in frames.split(_BATCH)])


class I3D:
    """The features of videos that FVD compares, of a TorchScript network called as StyleGAN-V's. Raises OptionError."""

    def __init__(self, file: Path, device: torch.device):
        _check_there("fvd", file)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self.network = torch.jit.load(str(file), map_location=device).eval()
        except (RuntimeError, ValueError) as error:
            raise _unfit("fvd", file, "no TorchScript") from error
        self.device = device
        try:
            features = self(torch.zeros(2 * FEWEST_FVD_FRAMES, 3, 8, 8))
        except (RuntimeError, TypeError, ValueError) as error:
            found = "a network that does not take a video with rescale, resize and return_features"
            raise _unfit("fvd", file, found) from error
        if features.ndim != 2 or len(features) != 1:
            raise _unfit("fvd", file, f"a network whose features have the shape {tuple(features.shape)}")

    @torch.no_grad()
    def __call__(self, frames: torch.Tensor) -> torch.Tensor:
        """`[1, 400]` of one video, `[frames, 3, h, w]` in 0…1, seen at 224 × 224 as in FVD's reference."""
        video = F.interpolate(frames, (_I3D_SIDE, _I3D_SIDE), mode="bilinear", align_corners=False)
        video = (2 * video - 1).movedim(1, 0)[None].to(self.device)
        return self.network(video, rescale=False, resize=False, return_features=True).float().cpu()


class Networks:
    """Those whose files the user has, by metric.

    `files`: {`lpips`, `fid`, `fvd`: file or None}. Raises OptionError, naming the option, for a file that is none of
    it, and PackageMissing.
    """

    def __init__(self, files: dict[str, Path | None], frames: int):
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        kinds: dict[str, Callable[[Path, torch.device], Any]] = {"lpips": LPIPS, "fid": Inception, "fvd": I3D}
        self.files = {name: file for name, file in files.items() if file is not None}
        if "fvd" in self.files and frames < FEWEST_FVD_FRAMES:
            raise OptionError(f"--fvd: expected clips of at least {FEWEST_FVD_FRAMES} frames, found --frames {frames}.")
        self.networks = {name: kinds[name](file, device) for name, file in self.files.items()}

    def missing(self) -> list[str]:
        """What the others would need, a sentence each."""
        return [
            f"No {needed.metric}: give --{name} FILE, {needed.file} ({needed.source})."
            for name, needed in NEEDED.items()
            if name not in self.networks
        ]

    def lpips(self, frames: torch.Tensor, truth: torch.Tensor) -> dict[str, np.ndarray]:
        """Empty without LPIPS."""
        return {"lpips": self.networks["lpips"](frames, truth)} if "lpips" in self.networks else {}

    def features(self, frames: torch.Tensor, known: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """What FID and FVD need of a video: of the frames between the keyframes, and of the whole. `known` stays."""
        seen = {"fid": frames[1:-1], "fvd": frames}
        return known | {
            name: self.networks[name](seen[name]) for name in seen if name in self.networks and name not in known
        }


def frechet_distance(features: np.ndarray, others: np.ndarray) -> float:
    """|μ₁ − μ₂|² + tr(Σ₁ + Σ₂ − 2 (Σ₁ Σ₂)^½) of two sets of features, each `[samples, n]` (Heusel et al., equation 6).

    With X the features less their mean, Σ = Xᵀ X / (samples − 1), and the trace of the root is the sum of the singular
    values of X₁ X₂ᵀ / √((samples₁ − 1)(samples₂ − 1)): exact also for fewer samples than features, where the root of
    the matrix itself is not. NaN for fewer than two samples.
    """
    if min(len(features), len(others)) < 2:
        return math.nan
    centred, means, traces = [], [], []
    for each in (features, others):
        values = np.asarray(each, np.float64)
        means.append(values.mean(0))
        scaled = (values - means[-1]) / math.sqrt(len(values) - 1)
        traces.append(float(np.square(scaled).sum()))
        # Of many samples the triangle of their QR decomposition has the same covariance.
        centred.append(np.linalg.qr(scaled, mode="r") if len(scaled) > scaled.shape[1] else scaled)
    root = float(np.linalg.svd(centred[0] @ centred[1].T, compute_uv=False).sum())
    # Rounding leaves equal sets a little below 0.
    return max(0.0, float(np.square(means[0] - means[1]).sum()) + sum(traces) - 2 * root)


def _tensors(option: str, file: Path) -> dict[str, torch.Tensor]:
    _check_there(option, file)
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        weights = torch.load(file, map_location="cpu", weights_only=True)
    # A damaged pickle raises whatever its bytes ask for.
    except Exception as error:
        raise _unfit(option, file, "no file of weights that torch reads as numbers alone") from error
    if not isinstance(weights, dict) or not all(isinstance(each, torch.Tensor) for each in weights.values()):
        raise _unfit(option, file, "something else than named tensors")
    return dict(weights)


def _check_there(option: str, file: Path) -> None:
    if not file.is_file():
        raise _unfit(option, file, "nothing")


def _unfit(option: str, file: Path, found: str) -> OptionError:
    needed = NEEDED[option]
    return OptionError(f"--{option}: expected {needed.file} ({needed.source}), found {found} at {file}.")
