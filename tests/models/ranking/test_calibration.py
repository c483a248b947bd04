"""Platt scaling: recovery, calibration, and stable behaviour at the edges."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import expit

from models.metrics.ranking import log_loss
from models.ranking.calibration import Platt, fit_platt


def draw(scale: float, bias: float, seed: int = 0, size: int = 50_000) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    logits = rng.normal(-1.0, 2.0, size=size)
    return logits, (rng.random(size) < expit(scale * logits + bias)).astype(np.int64)


@pytest.mark.parametrize(("scale", "bias"), [(1.0, 0.0), (0.4, -2.0), (2.5, 1.0), (-0.7, 0.5)])
def test_planted_scale_and_bias_are_recovered(scale: float, bias: float) -> None:
    fitted = fit_platt(*draw(scale, bias))
    assert fitted.scale == pytest.approx(scale, abs=0.06)
    assert fitted.bias == pytest.approx(bias, abs=0.06)


@given(
    st.lists(st.tuples(st.floats(-1e3, 1e3), st.integers(0, 1)), min_size=2, max_size=30).filter(
        lambda rows: len({label for _, label in rows}) == 2
    )
)
def test_fit_is_finite_and_keeps_the_mean_of_the_labels(rows: list[tuple[float, int]]) -> None:
    logits, labels = np.array(rows).T
    fitted = fit_platt(logits, labels)
    assert np.isfinite([fitted.scale, fitted.bias]).all()
    assert fitted.apply(logits).mean() == pytest.approx(labels.mean(), abs=1e-5)


def test_fit_is_the_minimum_that_a_general_optimiser_finds() -> None:
    logits, labels = draw(0.5, -1.0, seed=3, size=40)

    def loss(weights: np.ndarray) -> float:
        scaled = weights[0] * logits + weights[1]
        terms = np.logaddexp(0, scaled) - labels * scaled
        return float(terms.sum() + 0.5 * (weights[0] - 1) ** 2)

    found = minimize(loss, x0=np.zeros(2), method="Nelder-Mead", options={"xatol": 1e-9})
    fitted = fit_platt(logits, labels)
    np.testing.assert_allclose([fitted.scale, fitted.bias], found.x, atol=1e-4)


def test_separable_labels_do_not_diverge() -> None:
    logits = np.linspace(-4, 4, 100)
    fitted = fit_platt(logits, logits > 0)
    assert 1 < fitted.scale < 20
    assert abs(fitted.bias) < 1e-6


def test_constant_and_far_off_logits_give_the_base_rate() -> None:
    for logit in (0.0, 0.1, 1e6, -1e6):
        fitted = fit_platt(np.full(10, logit), [1] + [0] * 9)
        assert fitted.scale == pytest.approx(1.0)
        np.testing.assert_allclose(fitted.apply([logit]), 0.1, atol=1e-6)


def test_shifting_the_logits_only_shifts_the_bias() -> None:
    logits, labels = draw(0.8, -0.5, size=2000)
    plain, shifted = fit_platt(logits, labels), fit_platt(logits + 1000, labels)
    np.testing.assert_allclose(shifted.apply(logits + 1000), plain.apply(logits), atol=1e-8)


def test_calibration_lowers_the_loss_of_overconfident_logits() -> None:
    logits, labels = draw(0.3, 0.0)
    before = log_loss(labels, Platt(1.0, 0.0).apply(logits))
    assert log_loss(labels, fit_platt(logits, labels).apply(logits)) < before - 0.05


def test_apply_equals_the_sigmoid_in_both_tails_and_any_shape() -> None:
    logits = np.array([[-700.0, -40.0, 0.0], [1.0, 40.0, 800.0]], dtype=np.float32)
    expected = expit(2 * logits.astype(np.float64) + 1)
    np.testing.assert_allclose(Platt(2.0, 1.0).apply(logits), expected, rtol=1e-12)


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="longer period"):
        fit_platt([0.1, 0.2], [0, 0])
    with pytest.raises(ValueError, match="finite"):
        fit_platt([0.1, np.inf], [0, 1])
    with pytest.raises(ValueError, match="0 or 1"):
        fit_platt([0.1, 0.2], [0, 2])
    with pytest.raises(ValueError, match="one length"):
        fit_platt([0.1, 0.2], [0])
