"""The priors of a model: by name, for what the user says nothing of, and what cannot be meant."""

from types import SimpleNamespace

import grouped_problems
import numpy as np
import pandas as pd
import pytest
from scipy import integrate, stats

from fastlmm_vi import priors
from fastlmm_vi.grouped.model_frame import build
from fastlmm_vi.grouped.model_priors import TermPrior, resolve
from fastlmm_vi.priors import (
    LKJ,
    Fixed,
    Flat,
    HalfNormal,
    HalfStudentT,
    HuangWand,
    InverseGamma,
    InverseWishart,
    Normal,
)


def frame():
    data = grouped_problems.make(groups=6, size=5)
    data["x"] += 3.0
    data["h"] = np.tile(list("pqrst"), 6)
    return data


def resolved(given=None, formula="y ~ x + (1 + x | g) + (1 | h)", **weights):
    return resolve(given, build(formula, frame(), **weights))


def log_prior(beta, x):
    off = x - beta.mean
    return beta.log_constant - 0.5 * off @ beta.precision @ off


def test_names_and_places():
    found = resolved(
        {
            "beta": {"(Intercept)": Normal(1, 2), "x": Normal(3, 4)},
            "sigma": HalfNormal(1),
            "sd": {"g": {"x": HalfNormal(2), "Intercept": HalfNormal(3)}, "h": HalfNormal(4)},
            "cor": {"g": LKJ(2)},
        }
    )
    assert found.coefficients == ("Intercept", "x")
    np.testing.assert_allclose(found.beta.mean, [1, 3])
    np.testing.assert_allclose(found.beta.precision, np.diag([1 / 4, 1 / 16]))
    assert found.sigma == HalfNormal(1)
    assert [term.scales for term in found.terms] == [(HalfNormal(3), HalfNormal(2)), (HalfNormal(4),)]
    assert [term.correlation for term in found.terms] == [LKJ(2), None]
    assert str(found).splitlines() == [
        "b_Intercept ~ Normal(1, 2)",
        "b_x ~ Normal(3, 4)",
        "sigma ~ HalfNormal(1)",
        "sd_g__Intercept ~ HalfNormal(3)",
        "sd_g__x ~ HalfNormal(2)",
        "cor_g(Intercept, x) ~ LKJ(2)",
        "sd_h__Intercept ~ HalfNormal(4)",
    ]


def test_a_covariance_prior_of_one_effect_is_one_of_its_sd():
    found = resolved({"cov": {"g": HuangWand(2, [3, 4]), "h": InverseWishart(3, 5)}})
    assert found.terms[0].covariance == HuangWand(2, [3, 4])
    assert found.terms[0].scales is None
    assert found.terms[1].scales == (InverseGamma(1.5, 2.5),)
    assert found.terms[0].lines() == ["cov_g(Intercept, x) ~ HuangWand(2, [3, 4])"]
    assert resolved({"cov": HuangWand(2, 3)}).terms[1].scales == (HalfStudentT(2, 3),)


def test_defaults_are_in_the_units_of_the_data():
    data, found = frame(), resolved()
    y, x = data["y"], data["x"]
    s, of_x = y.std(ddof=0), x.std(ddof=0)
    assert found.proper
    expected = stats.norm(y.mean(), 2.5 * s).logpdf(1 + 2 * x.mean()) + stats.norm(0, 2.5 * s / of_x).logpdf(2)
    assert log_prior(found.beta, np.array([1.0, 2.0])) == pytest.approx(expected, rel=1e-10)
    assert found.sigma.scale == pytest.approx(s)
    assert [prior.scale for prior in found.terms[0].scales] == pytest.approx([s, s / of_x])
    assert found.terms[0].correlation == LKJ(1)
    assert "with all columns at their means" in str(found)


def test_defaults_do_not_feel_units_or_origins():
    data = frame()
    moved = data.assign(y=10 * data["y"] + 7, x=4 * data["x"] - 50)
    one, two = (resolve(None, build("y ~ x + (1 + x | g)", d)) for d in (data, moved))
    beta = np.array([0.3, -0.8])
    there = np.array([10 * (beta[0] + beta[1] * 12.5) + 7, 10 * beta[1] / 4])  # the same line
    assert log_prior(two.beta, there) == pytest.approx(log_prior(one.beta, beta) - np.log(10 * 10 / 4), rel=1e-10)
    assert two.sigma.scale == pytest.approx(10 * one.sigma.scale)
    assert two.terms[0].scales[1].scale == pytest.approx(10 / 4 * one.terms[0].scales[1].scale)


def test_weights_count():
    data = frame()
    w = np.linspace(1, 3, len(data))
    one, two = (resolve(None, build("y ~ x + (1 | g)", data, weights=k * w)) for k in (1.0, 4.0))
    assert one.beta.mean[1] == 0.0
    assert two.sigma.scale == pytest.approx(2 * one.sigma.scale)
    assert two.terms[0].scales[0].scale == pytest.approx(one.terms[0].scales[0].scale)
    y = data["y"]
    mean = np.average(y, weights=w)
    assert one.terms[0].scales[0].scale == pytest.approx(np.sqrt(np.average((y - mean) ** 2, weights=w)))


def test_without_an_intercept_root_mean_squares_count():
    found = resolved(formula="y ~ 0 + h + (0 + x | g)")
    data = frame()
    rms = np.sqrt((data["y"] ** 2).mean())
    assert np.diag(found.beta.precision)[0] ** -0.5 == pytest.approx(2.5 * rms / np.sqrt(0.2))
    assert found.terms[0].scales[0].scale == pytest.approx(
        np.sqrt(((data["y"] - 0) ** 2).mean()) / np.sqrt((data["x"] ** 2).mean())
    )


def test_a_flat_slope_leaves_the_default_of_the_intercept_alone():
    found = resolved({"beta": {"x": Flat()}})
    assert not found.beta.proper
    np.testing.assert_allclose(np.diag(found.beta.precision)[1], 0.0)
    assert found.beta.mean[0] == pytest.approx(frame()["y"].mean())


def test_columns_left_out_have_no_prior():
    design = build("y ~ x + I(2 * x) + (1 | g)", frame())
    found = resolve({"beta": Normal(0, [1, 2])}, design, kept=(0, 1))
    assert found.coefficients == ("Intercept", "x")
    with pytest.raises(ValueError, match="depends linearly"):
        resolve({"beta": {"I(2 * x)": Normal(0, 1)}}, design, kept=(0, 1))


BAD = [
    ({"betas": Normal(0, 1)}, "'betas', which is not known"),
    (3, "must be a mapping"),
    ({"beta": {"z": Normal(0, 1)}}, "'z', which the model does not have"),
    ({"beta": {"Intercept": Normal(0, 1), "(Intercept)": Normal(0, 1)}}, "twice"),
    ({"beta": Normal([0, 0, 0], 1)}, "of 3 coefficients, the model has 2"),
    ({"beta": [Normal(0, 1)]}, "has 1 priors, the model has 2"),
    ({"beta": HalfNormal(1)}, "no prior of coefficients"),
    ({"sigma": Normal(0, 1)}, r'priors\["sigma"\].*no prior of a standard deviation'),
    ({"sigma": Fixed(-1)}, "not positive"),
    ({"sd": {"k": HalfNormal(1)}}, "'k', which is no grouping factor of the model: these are 'g', 'h'"),
    ({"sd": {"g": {"z": HalfNormal(1)}}}, "'z', which g does not have: its effects are 'Intercept', 'x'"),
    ({"sd": {"g": {"x": LKJ(1)}}}, r'priors\["sd"\]\["g"\]\["x"\].*no prior of a standard deviation'),
    ({"sd": [HalfNormal(1)]}, "no prior of a standard deviation"),
    ({"cor": {"h": LKJ(1)}}, "'h', whose effects have no correlations"),
    ({"cor": HalfNormal(1)}, "no prior of a correlation matrix"),
    ({"cov": {"g": HalfNormal(1)}}, "no prior of a covariance matrix"),
    ({"cov": {"g": HuangWand(2, [1, 1, 1])}}, "of g, term of Intercept, x: .* give 2"),
    ({"cov": {"g": InverseWishart(1, 2)}}, "above k − 1"),
    ({"cov": {"g": HuangWand(2, 1)}, "sd": {"g": HalfNormal(1)}}, "'sd' and 'cov' for 'g'"),
    ({"cov": {"g": HuangWand(2, 1)}, "cor": LKJ(1)}, "'cor' and 'cov' for 'g'"),
    ({"sd": Flat("log")}, "no proper posterior .the likelihood is positive at 0"),
]


@pytest.mark.parametrize(("given", "message"), BAD)
def test_what_cannot_be_meant(given, message):
    with pytest.raises(ValueError, match=message):
        resolved(given)


def test_correlations_of_a_model_without_any():
    with pytest.raises(ValueError, match="no correlations"):
        resolved({"cor": LKJ(1)}, "y ~ x + (1 + x || g)")


def test_flat_scales_need_levels():
    data = pd.DataFrame({"y": [1.0, 2.0, 4.0, 3.0, 5.0, 9.0], "g": list("aabbcc")})
    design = build("y ~ 1 + (1 | g)", data)
    assert not resolve({"sd": Flat()}, design).proper
    assert not resolve({"sigma": Flat("log")}, design).proper
    with pytest.raises(ValueError, match="3 levels are too few, 4 are needed"):
        resolve({"sd": Flat("variance")}, design)


@pytest.mark.parametrize(
    "term",
    [
        SimpleNamespace(scales=(HalfNormal(1.0), HalfStudentT(4, 2.0)), correlation=LKJ(1.5), covariance=None),
        SimpleNamespace(scales=None, correlation=None, covariance=InverseWishart(5, [[1.0, 0.3], [0.3, 2.0]])),
        SimpleNamespace(scales=None, correlation=None, covariance=HuangWand(6, [1.0, 0.7])),
    ],
    ids=["scales and LKJ", "inverse Wishart", "Huang-Wand"],
)
def test_the_density_of_a_term_integrates_to_one(term):
    prior = TermPrior("g", ("a", "b"), term.scales, term.correlation, term.covariance)

    def density(log_sd, r):
        sd = np.exp(log_sd)
        L = np.array([[1.0, 0.0], [r, np.sqrt(1 - r * r)]])
        return np.exp(prior.log_density(sd, L)) * sd.prod()

    nodes, weights = np.polynomial.legendre.leggauss(60)
    log_sd = 7.0 * nodes - 3.0  # sd from e⁻¹⁰ to e⁴
    of_r, of_r_weights = np.polynomial.chebyshev.chebgauss(24)
    total = sum(
        49.0 * wa * wb * wr * np.sqrt(1 - r * r) * density(np.array([a, b]), r)
        for a, wa in zip(log_sd, weights, strict=True)
        for b, wb in zip(log_sd, weights, strict=True)
        for r, wr in zip(of_r, of_r_weights, strict=True)
    )
    assert total == pytest.approx(1.0, abs=2e-3)  # tails of the half-t, and of the correlation beyond the rule


def test_the_density_of_one_effect_is_that_of_its_sd():
    prior = TermPrior("g", ("a",), (priors.InverseGamma(2, 3),))
    total, _ = integrate.quad(lambda sd: np.exp(prior.log_density(np.array([sd]), np.eye(1))), 0, np.inf)
    assert total == pytest.approx(1.0)
    assert TermPrior("g", ("a",), (Fixed(2.0),)).log_density(np.array([2.0]), np.eye(1)) == 0.0


def test_a_covariance_of_lower_rank_has_density_zero():
    prior = TermPrior("g", ("a", "b"), None, None, HuangWand(2, 1))
    assert prior.log_density(np.array([0.0, 1.0]), np.eye(2)) == -np.inf
    assert prior.log_density(np.array([1.0, 1.0]), np.array([[1.0, 0.0], [1.0, 0.0]])) == -np.inf
    scales = TermPrior("g", ("a", "b"), (HalfNormal(1), HalfNormal(1)), LKJ(2))
    assert scales.log_density(np.array([1.0, 1.0]), np.array([[1.0, 0.0], [1.0, 0.0]])) == -np.inf
