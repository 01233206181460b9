"""What a method may ask of the data at one γ = σ²_β / σ²_e, whatever form K = X Xᵀ was brought to.

With V = I + γK, Q the orthonormal covariates and y the response (its least-squares fit on them removed), everything is
made of F(γ) = min_a (y − Qa)ᵀ V⁻¹ (y − Qa), log|V| and A = Qᵀ V⁻¹ Q (docs/derivation.md, sections 4 to 6).
"""

from typing import NamedTuple, Protocol

from ..result import Array


class Criterion(NamedTuple):
    """What is maximised over γ: −½ [f log σ̂²_e(γ) + a log-determinant].

    `h` None is the log-likelihood (log|V|) or, with `reml`, the restricted one (+ log|A|, f = n − c). An array is the
    ELBO: Σ log(1 + γ h_j) in place of log|V|, h the diagonal of XᵀX or the eigenvalues of its diagonal blocks.
    """

    name: str
    h: Array | None = None
    reml: bool = False


LIKELIHOOD = Criterion("log-likelihood")
RESTRICTED = Criterion("restricted log-likelihood", reml=True)


def elbo(h: Array) -> Criterion:
    """The mean-field ELBO with q(β) at its optimum."""
    return Criterion("ELBO", h)


class Point(NamedTuple):
    """A criterion at one γ with a and σ²_e at their optimum there; derivatives are in γ."""

    gamma: float
    value: float
    slope: float
    curvature: float
    sigma2_e: float

    @property
    def sigma2_beta(self) -> float:
        """σ²_β = γ σ²_e."""
        return self.gamma * self.sigma2_e


class Effects(NamedTuple):
    """Generalised least squares at one γ: a(γ) and its derivative, A⁻¹ = Cov(a) / σ²_e, F and its derivative."""

    a: Array
    a_slope: Array
    covariance: Array
    rss: float
    rss_slope: float


class Basis(Protocol):
    """One response and its covariates where V⁻¹ is cheap at every γ."""

    @property
    def n(self) -> int:
        """Observations."""
        ...

    @property
    def c(self) -> int:
        """Covariates, the intercept counted."""
        ...

    @property
    def extremes(self) -> tuple[float, float]:
        """Smallest positive and largest eigenvalue by which criteria bend; (0, 0) where X leaves no trace in them."""
        ...

    @property
    def nullity(self) -> int:
        """Dimension of the null space of K."""
        ...

    @property
    def covered(self) -> bool:
        """Whether the covariates reach all of that null space: no direction of it is orthogonal to them."""
        ...

    @property
    def trace(self) -> float:
        """Trace of K."""
        ...

    @property
    def explained(self) -> float:
        """The trace of MK, M projecting off the covariates: what one unit of σ²_β adds to E‖My‖²."""
        ...

    def at(self, criterion: Criterion, gamma: float) -> Point:
        """The criterion at γ."""
        ...

    def rises(self, criterion: Criterion, gamma: float) -> bool:
        """Whether the criterion's slope at γ is positive: what a scan asks, often for less than `at`."""
        ...

    def effects(self, gamma: float) -> Effects:
        """Generalised least squares at γ."""
        ...

    def loglik(self, sigma2_beta: float, sigma2_e: float, a: Array) -> float:
        """Log-likelihood with β integrated out, at any (a, σ²_β, σ²_e)."""
        ...

    def gap(self, h: Array, gamma: float) -> float:
        """Log-likelihood − ELBO at γ with q(β) at its optimum: ½ [Σ log(1 + γ h_j) − log|V|]."""
        ...
