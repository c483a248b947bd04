"""Platt scaling: two numbers that turn a ranker's logits into calibrated probabilities."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

_PRIOR_STRENGTH = 1.0  # inverse variance of the prior on the scale, centred on 1 (no change)
_MAX_STEPS = 100


@dataclass(frozen=True)
class Platt:
    """probability = sigmoid(scale * logit + bias); scale 1 and bias 0 change nothing."""

    scale: float
    bias: float

    def apply(self, logits: ArrayLike) -> Floats:
        """Probabilities in [0, 1], float64, in the shape of `logits`; exact in both tails."""
        scaled = self.scale * np.asarray(logits, dtype=np.float64) + self.bias
        return np.asarray(np.exp(-np.logaddexp(0.0, -scaled)), dtype=np.float64)


def fit_platt(logits: ArrayLike, labels: ArrayLike) -> Platt:
    """Fit Platt scaling (Platt, 1999) to `logits` (N,) finite and `labels` (N,) of 0 and 1.

    Newton's method with backtracking (Lin, Lin and Weng, 2007) on the log loss plus a weak Gaussian
    prior that holds the scale near 1. The prior weighs as much as a handful of examples: it keeps
    the scale finite on separable data and defined on constant logits. The bias is free, so the
    fitted probabilities have the mean of the labels.
    Raises ValueError on bad input and when the labels hold one class only.
    """
    scores, truth = _checked(logits, labels)
    # Centred, unit-variance logits keep the Newton system well conditioned; undone at the end.
    centre, spread = float(scores.mean()), max(float(scores.std()), 1e-6)
    inputs = np.stack([(scores - centre) / spread, np.ones_like(scores)], axis=1)  # (N, 2)
    base_rate = float(truth.mean())
    # Start from the constant prediction: away from it saturated sigmoids have no curvature.
    weights = np.array([0.0, np.log(base_rate) - np.log1p(-base_rate)])
    value = _loss(weights, inputs, truth, spread)
    for _ in range(_MAX_STEPS):
        step, decrement = _newton(weights, inputs, truth, spread)
        if decrement <= 1e-14 * (1.0 + value):
            break
        size = 1.0
        while (tried := _loss(weights + size * step, inputs, truth, spread)) > (
            value - 1e-4 * size * decrement
        ):
            size /= 2
            if size < 1e-12:  # no descent left within rounding: this is the minimum
                break
        if tried >= value:
            break
        weights, value = weights + size * step, tried
    scale = float(weights[0]) / spread
    return Platt(scale=scale, bias=float(weights[1]) - scale * centre)


def _loss(weights: Floats, inputs: Floats, truth: Floats, spread: float) -> float:
    scaled = inputs @ weights
    prior = 0.5 * _PRIOR_STRENGTH * (weights[0] / spread - 1.0) ** 2
    return float(np.sum(np.logaddexp(0.0, scaled) - truth * scaled) + prior)


def _newton(weights: Floats, inputs: Floats, truth: Floats, spread: float) -> tuple[Floats, float]:
    """The Newton step (2,) and the decrement: how fast the loss falls along it, never negative."""
    chances = Platt(1.0, 0.0).apply(inputs @ weights)
    gradient = inputs.T @ (chances - truth)
    gradient[0] += _PRIOR_STRENGTH * (weights[0] / spread - 1.0) / spread
    hessian = (inputs * (chances * (1.0 - chances))[:, None]).T @ inputs
    hessian[0, 0] += _PRIOR_STRENGTH / spread**2
    hessian += 1e-12 * np.eye(2)  # damps the step where all is saturated; the minimum stays
    step = np.asarray(-np.linalg.solve(hessian, gradient), dtype=np.float64)
    return step, float(-gradient @ step)


def _checked(logits: ArrayLike, labels: ArrayLike) -> tuple[Floats, Floats]:
    scores = np.asarray(logits, dtype=np.float64)
    truth = np.asarray(labels, dtype=np.float64)
    if scores.ndim != 1 or scores.shape != truth.shape or len(scores) == 0:
        raise ValueError(
            f"fit_platt: logits have shape {scores.shape} and labels {truth.shape};"
            " pass two arrays of one length, not empty"
        )
    if not np.isfinite(scores).all():
        raise ValueError("fit_platt: logits are not all finite; check the ranker's output")
    if not np.all((truth == 0) | (truth == 1)):
        raise ValueError("fit_platt: labels must be 0 or 1")
    if truth.min() == truth.max():
        raise ValueError(
            f"fit_platt: every one of the {len(truth)} labels is {int(truth[0])}; calibrate on a"
            " longer period that holds both outcomes, or keep Platt(scale=1.0, bias=0.0)"
        )
    return scores, truth
