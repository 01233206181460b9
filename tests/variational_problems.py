"""Random models with priors, fitted by variational Bayes and as dense matrices."""

from functools import cached_property
from types import SimpleNamespace

import grouped_problems
import naive_variational as naive
import numpy as np
import pandas as pd

from fastlmm_vi import priors
from fastlmm_vi.errors import DataError
from fastlmm_vi.grouped.coordinate_ascent import climb
from fastlmm_vi.grouped.cross_products import CrossProducts
from fastlmm_vi.grouped.gaussian_factor import GaussianFactor
from fastlmm_vi.grouped.likelihood import Likelihood
from fastlmm_vi.grouped.model_frame import build
from fastlmm_vi.grouped.model_priors import resolve
from fastlmm_vi.grouped.starts import precisions, thetas

SCALES = (
    lambda s: priors.HalfNormal(s),
    lambda s: priors.HalfCauchy(s),
    lambda s: priors.HalfStudentT(4, s),
    lambda s: priors.Exponential(1 / s),
    lambda s: priors.LogNormal(np.log(s), 1.0),
    lambda s: priors.InverseGamma(2, s**2),
)


class Model:
    """A design with priors, ours and dense."""

    def __init__(self, design, given=None):
        self.design = design
        self.data = CrossProducts.of(design)
        self.priors = resolve(given, design, self.data.fixed.kept)
        self.likelihood = Likelihood(self.data, reml=False)
        self.X = design.X[:, list(self.data.fixed.kept)]
        self.w = np.ones(len(design.y)) if design.weights is None else design.weights
        self.beta = tuple(self.priors.beta)
        self.y = design.y

    @cached_property
    def Z(self):
        """Of every term, (n, levels · d)."""
        found = []
        for term in self.design.terms:
            J, d = len(term.factor.levels), len(term.names)
            part = np.zeros((len(self.y), J, d))
            part[np.arange(len(self.y)), term.factor.codes] = term.basis
            found.append(part.reshape(len(self.y), J * d))
        return found

    @cached_property
    def widths(self):
        return [(len(term.factor.levels), len(term.names)) for term in self.design.terms]

    @cached_property
    def owners(self):
        """Factor, term, level and column of every effect. Levels are independent of each other in any factorisation but by
        other effects of their own: a factor needs them, too."""
        factors = list(dict.fromkeys(term.factor.name for term in self.design.terms))
        return np.array(
            [
                (factors.index(term.factor.name), k, v, j)
                for k, (term, (J, d)) in enumerate(zip(self.design.terms, self.widths, strict=True))
                for v in range(J)
                for j in range(d)
            ]
        )

    def mask(self, factorisation):
        return naive.kept(self.X.shape[1], self.owners, factorisation)

    def start(self, seed=0, name="random"):
        return precisions(self.likelihood, thetas(self.likelihood, np.random.default_rng(seed))[name])

    def climb(self, factorisation, start=None, **options):
        gaussian = GaussianFactor(self.data, self.priors.beta, factorisation)
        options = {"max_iter": 1000, "tol": 1e-9} | options
        return climb(gaussian, self.priors, self.start() if start is None else start, **options)

    def dense(self, tau, precisions, factorisation):
        """Moments and the ELBO's Gaussian part."""
        mask = self.mask(factorisation)
        m, C = naive.gaussian(self.y, self.X, self.Z, self.w, self.beta, tau, precisions, mask)
        p, effects = self.X.shape[1], len(self.owners)
        return SimpleNamespace(
            mean=m,
            cov=C,
            residual=naive.residual_square(self.y, self.X, self.Z, self.w, m, C),
            squares=naive.effect_squares(p, self.widths, m, C),
            part=naive.gaussian_part(self.y, self.X, self.w, self.beta, m, C, effects),
        )


def random_model(seed):
    """Any shape of `grouped_problems.draw`, with random priors for which there is a factor."""
    problem = grouped_problems.draw(seed)
    try:
        design = build(problem.formula, problem.frame, weights=problem.weights)
    except DataError:  # as many effects as rows
        return random_model(seed + 100_000)
    rng = np.random.default_rng(seed + 10_000)
    given = {"sigma": SCALES[rng.integers(6)](3.0)}
    sd, cov = {}, {}
    for term in design.terms:
        name, d = term.factor.name, len(term.names)
        if d > 2 or (d == 2 and rng.random() < 0.6):
            both = priors.HuangWand(2, 3.0), priors.InverseWishart(d + 2, 2.0)
            cov[name] = both[rng.integers(2)]
        elif name not in cov:
            sd[name] = SCALES[rng.integers(6)](2.0)
    given |= {"sd": {k: v for k, v in sd.items() if k not in cov}, "cov": cov}
    if rng.random() < 0.5:
        given["beta"] = priors.Normal(0, 10)
    return Model(design, {k: v for k, v in given.items() if v})


def small_model(seed):
    """Fifteen or so rows, one or two random intercepts: the evidence can be had on a grid."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(10, 16))
    frame = pd.DataFrame({"x": rng.normal(size=n)})
    terms = []
    y = rng.normal(size=n)
    for name in "ab"[: rng.integers(1, 3)]:
        levels = int(rng.integers(3, 6))
        codes = np.append(np.arange(levels), rng.integers(0, levels, n - levels))
        frame[name] = [f"{name}{c}" for c in rng.permutation(codes)]
        effects = rng.normal(size=levels) * rng.choice([0.0, 0.5, 2.0])
        y = y + effects[pd.factorize(frame[name], sort=True)[0]]
        terms.append(f"(1 | {name})")
    frame["y"] = y + 0.5 * frame["x"] + 1.0
    scales = [SCALES[rng.integers(6)](s) for s in (1.0, *(1.5 for _ in terms))]
    given = {
        "beta": priors.Normal([0, 0], [[9.0, 0.5], [0.5, 4.0]]),
        "sigma": scales[0],
        "sd": dict(zip("ab"[: len(terms)], scales[1:], strict=True)),
    }
    weights = rng.uniform(0.5, 2.0, n) if rng.random() < 0.3 else None
    return Model(build(f"y ~ x + {' + '.join(terms)}", frame, weights=weights), given)


REFERENCE = {
    "Dyestuff": ("Dyestuff", "Yield ~ 1 + (1 | Batch)", priors.Normal(1500, 500), 100.0),
    "sleepstudy_int": ("sleepstudy", "Reaction ~ Days + (1 | Subject)", priors.Normal([250, 0], [100, 50]), 50.0),
    "sleepstudy_uncorr": (
        "sleepstudy",
        "Reaction ~ Days + (Days || Subject)",
        priors.Normal([250, 0], [100, 50]),
        50.0,
    ),
    "Penicillin": ("Penicillin", "diameter ~ 1 + (1 | plate) + (1 | sample)", priors.Normal(20, 10), 3.0),
}


def reference_model(name):
    """A model of posteriors_quadrature.json with its priors."""
    dataset, formula, beta, size = REFERENCE[name]
    frame = pd.read_csv(grouped_problems.DATA / "lme4" / f"{dataset}.csv")
    half = priors.HalfNormal(size)
    return Model(build(formula, frame), {"beta": beta, "sigma": half, "sd": half})
