"""What can go wrong, as exceptions and warnings that name the cause and the way out."""

from sklearn.exceptions import ConvergenceWarning as _SklearnConvergenceWarning


class DataError(ValueError):
    """The data cannot be used as given; the message names the argument or the place in the file, and the cure."""


class FormulaError(ValueError):
    """The formula is not one of lme4's language; the message quotes the place and says what to write instead."""


class UnboundedLikelihoodError(ValueError):
    """The criterion grows without end as σ²_e goes to 0 and has no interior maximum that could be returned."""


class IntegrationError(ValueError):
    """A density has no finite integral that could be found: it is improper, or its tails are too heavy for a grid."""


class FitWarning(UserWarning):
    """A fit ended in a state that its user must know of: an unbounded likelihood, a signal lost, digits drowned."""


class ConvergenceWarning(_SklearnConvergenceWarning):
    """A fit stopped before its optimum; the message says how far away it is. Also a scikit-learn warning."""
