"""Posteriors as ArviZ holds them: an InferenceData (ArviZ 0.23) or a DataTree (ArviZ 1)."""

import warnings
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

GROUPS = (
    "posterior",
    "posterior_predictive",
    "log_likelihood",
    "sample_stats",
    "warmup_posterior",
    "warmup_sample_stats",
    "observed_data",
    "constant_data",
)
OF_DATA = ("observed_data", "constant_data")


def import_arviz() -> ModuleType:
    """Return ArviZ.

    Raises
    ------
    ImportError
        If it is not installed; the message names the extra.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # its first import of a day announces version 1
            import arviz
    except ImportError as error:
        raise ImportError('This needs ArviZ: pip install "fastlmm_vi[bayes]".') from error
    return arviz


def inference_data(
    groups: Mapping[str, Mapping[str, ArrayLike]],
    *,
    coords: Mapping[str, Sequence[Any]] | None = None,
    dims: Mapping[str, Sequence[str]] | None = None,
    attributes: Mapping[str, Any] | None = None,
) -> Any:
    """Return draws and data as ArviZ's container of the installed version.

    Parameters
    ----------
    groups : mapping of str to mapping of str to array-like
        Arrays by group and name: `posterior`, `posterior_predictive`, `log_likelihood`, `sample_stats` and their warmup of
        shape (chain, draw, *dims), `observed_data` and `constant_data` of shape (*dims).
    coords : mapping of str to sequence, optional
        Labels along every dimension.
    dims : mapping of str to sequence of str, optional
        Dimensions of every array, without chain and draw.
    attributes : mapping, optional
        Of the whole, in its `attrs`.

    Returns
    -------
    arviz.InferenceData (0.23) or xarray.DataTree (1)

    Raises
    ------
    ImportError
        If ArviZ is not installed.
    ValueError
        If a group is not known, or an array does not fit its dimensions.
    """
    az = import_arviz()
    labels = {name: list(of) for name, of in (coords or {}).items()}
    names = {name: list(of) for name, of in (dims or {}).items()}
    arrays = {group: {name: np.asarray(x) for name, x in named.items()} for group, named in groups.items()}
    for group, named in arrays.items():
        for name, values in named.items():
            _check(group, name, values, names, labels)
    attributes = dict(attributes or {})
    if az.__version__.startswith("0."):
        return az.from_dict(**arrays, coords=labels, dims=names, attrs=attributes, save_warmup=True)
    return az.from_dict(arrays, coords=labels, dims=names, attrs={"/": attributes}, save_warmup=True)


def _check(group: str, name: str, values: Any, dims: Mapping[str, list[str]], coords: Mapping[str, Any]) -> None:
    if group not in GROUPS:
        raise ValueError(f"Group {group!r} is not known: choose of {', '.join(GROUPS)}.")
    first = () if group in OF_DATA else ("chain", "draw")
    own = dims.get(name, [])
    shape = values.shape[len(first) :]
    if values.ndim < len(first) or (name in dims and len(own) != len(shape)):
        raise ValueError(f"{group}[{name!r}] has shape {values.shape}: expected ({', '.join([*first, *own])}).")
    for dim, size in zip(own, shape, strict=False):
        if dim in coords and len(coords[dim]) != size:
            raise ValueError(
                f"{group}[{name!r}] has {size} entries along {dim!r}, whose coords have {len(coords[dim])} labels."
            )
