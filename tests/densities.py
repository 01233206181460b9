"""Log densities with known answers, as plain functions with gradients."""

from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy import stats


@dataclass
class Plain:
    """A log density by its function `x -> (value, gradient)`."""

    function: object
    names: list
    address: None = None
    user_data: int = 0

    @property
    def dim(self):
        return len(self.names)

    def logp(self, x):
        return self.function(x)[0]

    def logp_grad(self, x):
        return self.function(x)


def _normal(mean, precision, constant, x):
    r = precision @ (x - mean)
    return constant - 0.5 * float((x - mean) @ r), -r


def normal(k, seed=0, scale=1.0):
    """A correlated normal distribution, and scipy's."""
    half = np.random.default_rng(seed).normal(size=(k, k + 2))
    exact = stats.multivariate_normal(scale * (np.arange(k) + 3.0), scale**2 * half @ half.T)
    constant = exact.logpdf(exact.mean)
    return Plain(partial(_normal, exact.mean, np.linalg.inv(exact.cov), constant), [f"x{i}" for i in range(k)]), exact


def _student(df, x):
    k = x.size
    constant = stats.multivariate_t(np.zeros(k), np.eye(k), df).logpdf(np.zeros(k))
    return constant - 0.5 * (df + k) * np.log1p(x @ x / df), -(df + k) * x / (df + x @ x)


def student(k, df):
    return Plain(partial(_student, df), [f"x{i}" for i in range(k)])


def _funnel(x):
    v, z = x[0], x[1:]
    value = -0.5 * v**2 / 9 - 0.5 * np.exp(-v) * (z @ z) - 0.5 * z.size * v
    return value, np.r_[-v / 9 + 0.5 * np.exp(-v) * (z @ z) - 0.5 * z.size, -np.exp(-v) * z]


def funnel(k):
    """Neal's: v ~ N(0, 9), z_i | v ~ N(0, e^v)."""
    return Plain(_funnel, ["v", *(f"z{i}" for i in range(k))])


SCHOOLS = np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
SCHOOLS_SD = np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])


def _schools(x):
    mu, tau = x[0], np.exp(x[1])
    V, r = SCHOOLS_SD**2 + tau**2, SCHOOLS - mu
    value = -0.5 * (np.log(V) + r**2 / V).sum() - 0.5 * mu**2 / 25 - np.log1p(tau**2 / 25) + x[1]
    by_tau2 = (-0.5 / V + 0.5 * r**2 / V**2).sum() - 1.0 / (25 + tau**2)
    return value, np.array([(r / V).sum() - mu / 25, 2 * tau**2 * by_tau2 + 1.0])


def schools():
    """Eight schools with the schools' effects integrated out: μ ~ N(0, 25), τ half-Cauchy of scale 5, sampled as log τ."""
    return Plain(_schools, ["mu", "log_tau"])
