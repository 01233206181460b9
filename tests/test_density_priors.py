"""Compiled priors against the Python ones, and their gradients against differences."""

from types import SimpleNamespace

import numpy as np
import pytest
from fastlmm_vi_kernels import covariance as kernels
from fastlmm_vi_kernels.covariance import Prior

from fastlmm_vi.grouped import posterior, prior_rows
from fastlmm_vi.grouped.model_priors import TermPrior
from fastlmm_vi.priors import (
    LKJ,
    Exponential,
    Fixed,
    Flat,
    HalfCauchy,
    HalfNormal,
    HalfStudentT,
    HuangWand,
    InverseGamma,
    InverseWishart,
    LogNormal,
)

SCALES = [
    HalfNormal(3.0),
    HalfCauchy(0.7),
    HalfStudentT(4.0, 2.0),
    Exponential(0.4),
    LogNormal(-0.3, 0.8),
    InverseGamma(2.5, 1.3),
    Flat(),
    Flat("variance"),
    Flat("log"),
]


@pytest.mark.parametrize("prior", SCALES, ids=str)
@pytest.mark.parametrize("x", [1e-3, 0.1, 1.0, 7.0, 200.0])
def test_scale_priors(prior, x):
    kind, row = prior_rows.scale_row(prior)
    value, slope = kernels.scale_prior(kind, *row, x, np.log(x))
    assert value == pytest.approx(float(prior.log_density(x)), rel=1e-12, abs=1e-12)
    assert slope == pytest.approx(float(prior.slope(x)) * x, rel=1e-11, abs=1e-12)


@pytest.mark.parametrize("prior", SCALES, ids=str)
@pytest.mark.parametrize("log_x", [-700.0, 700.0])
def test_scale_priors_far_out_are_not_nan(prior, log_x):
    kind, row = prior_rows.scale_row(prior)
    assert not np.isnan(kernels.scale_prior(kind, *row, np.exp(log_x), log_x)).any()


def test_every_scale_prior_is_compiled():
    from fastlmm_vi.priors import ScalePrior

    assert {type(prior) for prior in SCALES} == set(ScalePrior.__subclasses__())
    with pytest.raises(TypeError, match="no compiled density"):
        prior_rows.scale_row(SimpleNamespace())


def terms():
    """Priors of one term of 1 to 4 effects."""
    three = [[2.0, 0.3, -0.5], [0.3, 1.0, 0.2], [-0.5, 0.2, 0.7]]
    yield TermPrior("g", ("a",), (HalfNormal(2.0),))
    yield TermPrior("g", ("a", "b"), (HalfNormal(2.0), HalfCauchy(1.0)), LKJ(1.0))
    yield TermPrior("g", ("a", "b", "c"), (Exponential(2.0), Fixed(0.8), LogNormal(0.0, 1.0)), LKJ(2.5))
    yield TermPrior("g", tuple("abcd"), (HalfStudentT(3.0, 1.5),) * 4, LKJ(0.6))
    yield TermPrior("g", ("a", "b"), None, None, InverseWishart(4.0, [[1.0, 0.3], [0.3, 2.0]]))
    yield TermPrior("g", ("a", "b", "c"), None, None, InverseWishart(5.5, three))
    yield TermPrior("g", ("a", "b"), None, None, HuangWand(2.0, [3.0, 0.5]))
    yield TermPrior("g", tuple("abcd"), None, None, HuangWand(3.0, 1.2))


def compiled(prior, sigma, signed):
    """The rows of one term, in coordinates in which M is the identity."""
    d = len(prior.effects)
    data = SimpleNamespace(
        groups=[SimpleNamespace(d=d, terms=(0,))],
        terms=[SimpleNamespace(M=np.eye(d))],
        fixed=SimpleNamespace(scale=1.0),
        design=SimpleNamespace(terms=[SimpleNamespace(factor=SimpleNamespace(levels=range(7)))]),
    )
    return prior_rows.rows(data, SimpleNamespace(terms=(prior,), sigma=sigma), signed)


def evaluate(rows: Prior, phi):
    """Log prior, its gradient, and s and C as the kernel has them."""
    d = rows.effect.size - 1
    log_sd, sd, C, gradient = np.empty(d), np.empty(d), np.zeros(d * d), np.empty(phi.size)
    kernels.unpack(rows, phi, log_sd, sd, C)
    value = kernels.log_prior(rows, phi, log_sd, sd, C, np.zeros(d * d), 0.0, gradient)
    return value, gradient, sd, C.reshape(d, d)


def difference(of, x, step=1e-6):
    return np.array([(of(x + step * row) - of(x - step * row)) / (2 * step) for row in np.eye(x.size)])


@pytest.mark.parametrize("prior", list(terms()), ids=lambda prior: "; ".join(prior.lines()))
@pytest.mark.parametrize("sigma", [HalfNormal(2.0), Fixed(1.5)], ids=str)
@pytest.mark.parametrize("signed", [False, True], ids=["log", "signed"])
def test_priors_of_terms(prior, sigma, signed):
    rows, d = compiled(prior, sigma, signed), len(prior.effects)
    free = [not isinstance(one, Fixed) for one in prior.scales or [None] * d]
    rng = np.random.default_rng(d)
    for _ in range(5):
        s, z = rng.normal(size=sum(free)), rng.normal(size=d * (d - 1) // 2)
        last = [] if isinstance(sigma, Fixed) else [0.3 * rng.normal()]
        phi = np.concatenate([s, z, last])
        value, gradient, sd, C = evaluate(rows, phi)

        expected_sd = np.array([one.value if isinstance(one, Fixed) else 0.0 for one in prior.scales or [None] * d])
        expected_sd[free] = s if signed else np.exp(s)
        np.testing.assert_allclose(sd, expected_sd, rtol=1e-14)
        root = posterior.correlation_root(np.tanh(z), d)
        np.testing.assert_allclose(C, root, atol=1e-14)
        expected = prior.log_density(np.abs(expected_sd), root) if not signed else signed_density(prior, sd, root)
        expected += -sum(free) * np.log(2.0) if signed else s.sum()
        expected += sum(float(sigma.log_density(np.exp(x))) + x for x in last)
        # The Jacobian of z: cosh⁻² z, and that of correlations in partial correlations (LKJ 2009, equation 11).
        at = 0
        for i in range(1, d):
            for j in range(i):
                expected -= (2.0 + d - 2 - j) * np.log(np.cosh(z[at]))
                at += 1
        assert value == pytest.approx(expected, rel=1e-11)
        numerical = difference(lambda x: evaluate(rows, x)[0], phi)
        np.testing.assert_allclose(gradient, numerical, rtol=1e-6, atol=1e-10 * (1e3 + np.abs(gradient).max()))


def signed_density(prior, sd, root):
    """The density at |s|, the signs moved to the correlations."""
    signs = np.sign(sd)
    return prior.log_density(np.abs(sd), signs[:, None] * root * signs)


def test_a_signed_standard_deviation_of_zero():
    rows = compiled(TermPrior("g", ("a",), (HalfNormal(2.0),)), Fixed(1.0), True)
    value, gradient, *_ = evaluate(rows, np.zeros(1))
    assert value == pytest.approx(float(HalfNormal(2.0).log_density(0.0)) - np.log(2.0))
    assert abs(gradient[0]) < 1e-8


def test_partial_correlations_far_out():
    """C stays of full rank and the gradient finite where tanh z rounds to 1."""
    rows = compiled(TermPrior("g", ("a", "b"), (HalfNormal(1.0),) * 2, LKJ(2.0)), Fixed(1.0), False)
    value, gradient, _, C = evaluate(rows, np.array([0.0, 0.0, 30.0]))
    assert np.isfinite(value)
    assert C[1, 1] == pytest.approx(2.0 * np.exp(-30.0), rel=1e-12)
    assert gradient[2] == pytest.approx(-4.0)
