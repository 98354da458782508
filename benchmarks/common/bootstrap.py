"""Means with 95 % intervals by resampling the clips."""

import math

import numpy as np

RESAMPLES, SEED = 10_000, 0


def interval(values: list[float]) -> dict[str, float]:
    """{"mean", "low", "high", "clips"}: percentile bootstrap over the clips, NaN left out; None without any clip."""
    kept = np.array([value for value in values if not math.isnan(value)])
    if not len(kept):
        return {"mean": None, "low": None, "high": None, "clips": 0}
    picks = np.random.default_rng(SEED).integers(len(kept), size=(RESAMPLES, len(kept)))
    low, high = np.percentile(kept[picks].mean(1), [2.5, 97.5])
    return {"mean": float(kept.mean()), "low": float(low), "high": float(high), "clips": len(kept)}


def difference(values: list[float], others: list[float]) -> dict[str, float]:
    """The interval of the mean of `values − others`, clip by clip: both lists are of the same clips."""
    return interval([value - other for value, other in zip(values, others, strict=True)])
