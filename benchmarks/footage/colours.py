"""The colours of a decoded frame as an ordinary screen shows them: the file's own matrix and range, HDR toned down."""

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace

_HD_LINES = 720
"""From so many lines on a file that names no matrix is taken for BT.709, below for BT.601, as players do."""
_BT709, _BT2020 = (1,), (9, 10)
_BT601 = (4, 5, 6)
_PQ, _HLG = 16, 18
"""Numbers of ITU-T H.273, which files and FFmpeg use."""
TRANSFERS = {_PQ: "HDR (PQ)", _HLG: "HDR (HLG)"}
_WHITE, _BRIGHTEST = 203.0, 1000.0
"""cd/m²: HDR's white of paper (ITU-R BT.2408), and the highlights that are just white on an ordinary screen."""
_LUMINANCE = np.array([0.2627, 0.6780, 0.0593], np.float32)
"""Of BT.2020's primaries."""
_TO_BT709 = np.array([[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], np.float32)
"""Linear light of BT.2020's primaries in those of BT.709 (ITU-R BT.2087)."""
_SCREEN_GAMMA = 2.4


def rgb(frame: av.VideoFrame) -> np.ndarray:
    """`[h, w, 3]`, float32 in 0…1, as it is stored: neither turned nor stretched."""
    deep = max(component.bits for component in frame.format.components) > 8
    matrix = _matrix(frame)
    picture = frame.reformat(
        format="rgb48le" if deep else "rgb24",
        src_colorspace=matrix,
        dst_colorspace=matrix,
        src_color_range=frame.color_range,
        dst_color_range=ColorRange.JPEG,
    ).to_ndarray()
    values = picture.astype(np.float32) / (65535 if deep else 255)
    return toned_down(values, transfer(frame)) if transfer(frame) in TRANSFERS else values


def transfer(frame: av.VideoFrame) -> int:
    """The number of its transfer function in ITU-T H.273; 2 where the file does not say."""
    return int(getattr(frame, "color_trc", 2))


def toned_down(signal: np.ndarray, transfer: int) -> np.ndarray:
    """An HDR signal, `[h, w, 3]` in 0…1 of BT.2020's primaries, as the signal of an ordinary screen.

    Linear light by PQ (SMPTE ST 2084) or HLG with a screen of 1000 cd/m² (ITU-R BT.2100), its luminance by Reinhard's
    extended operator (SIGGRAPH 2002, equation 4), in BT.709's primaries with gamma 2.4 (ITU-R BT.1886).
    """
    light = (_pq if transfer == _PQ else _hlg)(signal.astype(np.float32)) / _WHITE
    luminance, brightest = light @ _LUMINANCE, _BRIGHTEST / _WHITE
    scale = (1 + luminance / brightest**2) / (1 + luminance)
    return np.clip((light * scale[..., None]) @ _TO_BT709.T, 0, 1) ** (1 / _SCREEN_GAMMA)


def _pq(signal: np.ndarray) -> np.ndarray:
    """cd/m²."""
    root = np.clip(signal, 0, 1) ** (1 / (2523 / 4096 * 128))
    ratio = np.maximum(root - 3424 / 4096, 0) / (2413 / 4096 * 32 - 2392 / 4096 * 32 * root)
    return 10_000 * ratio ** (16384 / 2610)


def _hlg(signal: np.ndarray) -> np.ndarray:
    """cd/m²."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    signal = np.clip(signal, 0, 1)
    scene = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)
    return _BRIGHTEST * (scene @ _LUMINANCE)[..., None] ** 0.2 * scene


def _matrix(frame: av.VideoFrame) -> Colorspace:
    named = int(frame.colorspace)
    if named in _BT2020:
        # Older releases of PyAV do not know it.
        return getattr(Colorspace, "BT2020", Colorspace.ITU709)
    hd = named in _BT709 or (named not in _BT601 and frame.height >= _HD_LINES)
    return Colorspace.ITU709 if hd else Colorspace.ITU601
