"""NUTS of log densities with known answers, by address and by Python function."""

import _thread
import math
import signal
import threading
import time

import densities
import numpy as np
import pytest
from fastlmm_vi_kernels.jit import Callback
from fastlmm_vi_kernels.whitened import DENSITY
from numba import carray
from problems import needs_bayes

from fastlmm_vi import ConvergenceWarning, Status, nutpie_model
from fastlmm_vi.convergence import diagnose
from fastlmm_vi.grid import integrate
from fastlmm_vi.inference_data import import_arviz
from fastlmm_vi.laplace import Laplace, laplace
from fastlmm_vi.sampler import nuts

pytestmark = needs_bayes


def _normal(dim, x, gradient, value, data):
    """Mean and precision are in `data`; no density where the first coordinate is beyond the last of its numbers."""
    numbers, at, slope = carray(data, dim + dim * dim + 1, np.float64), carray(x, dim), carray(gradient, dim)
    total = 0.0
    for i in range(dim):
        slope[i] = 0.0
        for j in range(dim):
            slope[i] -= numbers[dim + i * dim + j] * (at[j] - numbers[j])
        total += 0.5 * slope[i] * (at[i] - numbers[i])
    carray(value, 1)[0] = total if at[0] < numbers[dim + dim * dim] else -math.inf
    return 0 if at[0] < numbers[dim + dim * dim] else 1


NORMAL = Callback(DENSITY, _normal)


class Compiled:
    """A correlated normal distribution by the address of a C function, cut off where x_0 reaches `end`."""

    def __init__(self, k, end=np.inf):
        self.plain, self.exact = densities.normal(k)
        self.names, self.dim, self.address, self.end = self.plain.names, k, NORMAL.address, end
        self.numbers = np.r_[self.exact.mean, np.linalg.inv(self.exact.cov).ravel(), end]
        self.user_data = self.numbers.ctypes.data

    def logp(self, x):
        return self.logp_grad(x)[0]

    def logp_grad(self, x):
        value, gradient = self.plain.logp_grad(x)
        return (value, gradient) if x[0] < self.end else (-np.inf, gradient)


def assert_moments(chains, mean, sd):
    """Means and standard deviations within four and five of their Monte-Carlo errors."""
    table = chains.to_frame()
    np.testing.assert_array_less(np.abs(table["mean"] - mean), 4 * table["mcse_mean"])
    np.testing.assert_allclose(table["sd"], sd, rtol=5 / np.sqrt(table["ess_bulk"].min()))


@pytest.mark.parametrize("k", [1, 4, 12])
def test_compiled_normal(k):
    density = Compiled(k)
    chains = nuts(density, np.zeros(k), random_state=1)
    assert chains.converged
    assert chains.draws.shape == (4, 1000, k)
    assert_moments(chains, density.exact.mean, np.sqrt(np.diag(np.atleast_2d(density.exact.cov))))
    assert chains.divergences == 0
    assert chains.to_frame()["ess_bulk"].min() > 1000  # whitened: a few steps a draw
    assert chains.stats["n_steps"].mean() < 8


def test_same_draws_whatever_the_cores():
    density = Compiled(3)
    one, two = (nuts(density, np.zeros(3), random_state=5, cores=cores) for cores in (1, 2))
    np.testing.assert_array_equal(one.draws, two.draws)
    other = nuts(density, np.zeros(3), random_state=6)
    assert not np.array_equal(one.draws, other.draws)


def test_the_python_road_samples_the_same(monkeypatch):
    density = Compiled(3)
    monkeypatch.setattr(nutpie_model, "has_address_road", lambda nutpie: False)
    chains = nuts(density, np.zeros(3), random_state=0, draws=500)
    assert_moments(chains, density.exact.mean, np.sqrt(np.diag(density.exact.cov)))
    assert density.plain.address is None
    plain = nuts(density.plain, np.zeros(3), random_state=0, draws=500)
    np.testing.assert_allclose(plain.draws, chains.draws, rtol=1e-10)


def test_nutpie_has_the_private_road():
    assert nutpie_model.has_address_road(nutpie_model.import_nutpie())


def test_given_approximation_and_its_whitening():
    """Another metric, the same distribution: the map x = center + root z is undone in the draws."""
    density = Compiled(2)
    odd = Laplace(np.array([2.0, 3.0]), 0.0, np.array([[3.0, 0.5], [0.5, 1.0]]), True, 0)
    chains = nuts(density, np.zeros(2), normal=odd, random_state=2)
    assert_moments(chains, density.exact.mean, np.sqrt(np.diag(density.exact.cov)))
    np.testing.assert_allclose(np.corrcoef(chains.flat.T)[0, 1], _correlation(density.exact.cov), atol=0.05)


def _correlation(V):
    return V[0, 1] / np.sqrt(V[0, 0] * V[1, 1])


def test_eight_schools_against_quadrature():
    density = densities.schools()
    exact = integrate(density.logp, [0.0, 0.0])
    chains = nuts(density, [0.0, 0.0], random_state=3)
    assert chains.converged
    assert_moments(chains, exact.mean, np.sqrt(np.diag(exact.covariance)))
    x = chains.flat[:, 1]
    assert np.mean(x < exact.marginal(1).quantile(0.1)) == pytest.approx(0.1, abs=0.04)


def test_student_t():
    chains = nuts(densities.student(2, 8), [5.0, -5.0], random_state=0)
    assert_moments(chains, np.zeros(2), np.sqrt(8 / 6))


def test_a_funnel_is_not_passed_over_in_silence():
    """The funnel of nine has a mode only with a further prior; divergences, or too few draws, are told."""
    density = densities.funnel(9)
    held = densities.Plain(
        lambda x: (density.logp(x) - 0.05 * (x @ x), density.logp_grad(x)[1] - 0.1 * x), density.names
    )
    with pytest.warns(ConvergenceWarning) as caught:
        chains = nuts(held, np.full(10, 0.3), random_state=0, draws=500)
    assert not chains.converged or chains.status is Status.FEW_DRAWS
    assert chains.status in (Status.DIVERGENT, Status.NOT_MIXED, Status.FEW_DRAWS)
    assert len(caught) == len(chains.notes)
    assert chains.notes[0].startswith(chains.status.advice)


def test_divergences_at_an_edge_are_counted():
    density = Compiled(2, end=3.5)
    with pytest.warns(ConvergenceWarning):
        chains = nuts(density, np.zeros(2), random_state=0)
    assert chains.divergences > 0
    assert chains.divergences == chains.stats["diverging"].sum()
    assert chains.status is Status.DIVERGENT
    assert chains.flat[:, 0].max() < 3.5


def test_few_draws():
    with pytest.warns(ConvergenceWarning):
        chains = nuts(Compiled(2), np.zeros(2), random_state=0, draws=60)
    assert any(note.startswith(Status.FEW_DRAWS.advice) for note in chains.notes)


def test_chains_that_disagree():
    """Two normal distributions 40 standard deviations apart: a chain stays where it begins."""

    def two(x):
        left, right = -0.5 * (x[0] + 20.0) ** 2, -0.5 * (x[0] - 20.0) ** 2
        value = np.logaddexp(left, right)
        return value, np.array([-(x[0] + 20.0) * np.exp(left - value) - (x[0] - 20.0) * np.exp(right - value)])

    wide = Laplace(np.zeros(1), 0.0, np.array([[1 / 400.0]]), True, 0)
    with pytest.warns(ConvergenceWarning):
        chains = nuts(densities.Plain(two, ["x"]), [0.0], normal=wide, random_state=0, draws=200)
    assert Status.NOT_MIXED.advice in " ".join(chains.notes)
    assert not chains.converged


@pytest.fixture
def interruptible():
    """Some runners of tests ignore the interrupt key."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_interrupted_chains_return_what_they_have():
    def slow(x):
        time.sleep(1e-4)
        return -0.5 * float(x @ x), -x

    timer = threading.Timer(1.5, _thread.interrupt_main)
    density = densities.Plain(slow, ["x"])
    normal = Laplace(np.zeros(1), 0.0, np.eye(1), True, 0)
    timer.start()
    with pytest.warns(ConvergenceWarning):
        chains = nuts(density, [0.0], normal=normal, random_state=0, draws=10**6, tune=20, chains=2, cores=2)
    assert chains.status is Status.INTERRUPTED
    assert chains.notes[0].startswith("Stopped by the user")
    assert not chains.converged
    assert 4 <= chains.draws.shape[1] < 10**6
    assert np.isfinite(chains.draws).all()
    assert chains.stats["energy"].shape == chains.draws.shape[:2]


def test_diagnostics():
    rng = np.random.default_rng(0)
    good = diagnose(rng.normal(size=(4, 1000, 3)))
    assert good.mixed
    assert good.enough
    np.testing.assert_allclose(good.ess_bulk, 4000, rtol=0.2)
    np.testing.assert_allclose(good.mcse_mean, 1 / np.sqrt(4000), rtol=0.2)
    apart = diagnose(rng.normal(size=(4, 1000, 1)) + np.arange(4.0)[:, None, None])
    assert not apart.mixed
    assert not apart.enough
    assert diagnose(rng.normal(size=(1, 4000, 2))).mixed
    assert not diagnose(np.linspace(0.0, 1.0, 4000)[None, :, None]).mixed


def test_table_and_container():
    density = Compiled(2)
    chains = nuts(density, np.zeros(2), random_state=0, draws=500)
    table = chains.to_frame()
    assert list(table.columns) == ["mean", "sd", "q05", "q50", "q95", "mcse_mean", "ess_bulk", "ess_tail", "r_hat"]
    assert list(table.index) == ["x0", "x1"]
    data = chains.to_inference_data()
    np.testing.assert_array_equal(data["posterior"]["x"].sel(parameter="x1").values, chains.draws[:, :, 1])
    stats = data["sample_stats"]
    assert {"diverging", "energy", "lp", "step_size", "tree_depth", "n_steps", "acceptance_rate"} <= set(
        stats.data_vars
    )
    value = density.logp(chains.draws[1, 7])
    constant = density.exact.logpdf(density.exact.mean)
    assert float(stats["lp"].values[1, 7]) == pytest.approx(value - constant, abs=1e-9)
    assert data.attrs["status"] == chains.status.value
    assert import_arviz().rhat(data) is not None


def test_progress():
    lines = []
    nuts(Compiled(2), np.zeros(2), random_state=0, draws=50_000, chains=1, show=lines.append)
    assert lines
    assert "of 50200 draws" in lines[-1]
    assert "0 divergences" in lines[-1]


def test_starts_where_there_is_density():
    """The normal approximation reaches far over the edge; every chain begins inside."""
    density = Compiled(1, end=3.2)
    normal = laplace(Compiled(1), [0.0])
    wide = Laplace(normal.mode - 1.0, 0.0, normal.precision / 100.0, True, 0)
    with pytest.warns(ConvergenceWarning):
        chains = nuts(density, [0.0], normal=wide, random_state=0)
    assert chains.flat.max() < 3.2


def test_wrong_arguments(monkeypatch):
    density = Compiled(1)
    with pytest.raises(ValueError, match="draws=2"):
        nuts(density, [0.0], draws=2)
    with pytest.raises(ValueError, match="chains=0"):
        nuts(density, [0.0], chains=0)
    with pytest.raises(ValueError, match="target_accept"):
        nuts(density, [0.0], target_accept=1.5)
    monkeypatch.setitem(__import__("sys").modules, "nutpie", None)
    with pytest.raises(ImportError, match=r"fastlmm_vi\[bayes\]"):
        nuts(density, [0.0])
