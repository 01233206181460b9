"""A grouped fit as a file: its columns of the data, θ̂ and how it was found; no pickle."""

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..errors import DataError
from ..result import Status
from .cross_products import CrossProducts
from .expression import deparse, parse
from .model_frame import WEIGHTS, build
from .variables import State

if TYPE_CHECKING:
    from .result import MixedFit

KIND = "grouped"
PLAIN = ("formula", "method", "deviance", "notes", "n_iter", "n_evaluations", "undetermined")


def save(fit: "MixedFit", path: str | Path) -> Path:
    """See `MixedFit.save`."""
    design = fit.data.design
    header: dict[str, Any] = {name: getattr(fit, name) for name in PLAIN}
    header |= {"kind": KIND, "status": fit.status.value, "timings": dict(fit.timings), "columns": list(design.columns)}
    header |= {"weights": design.weights_name, "n_missing": design.n_missing, "unused_levels": design.unused_levels}
    # The response of a refit is in no column.
    arrays: dict[str, Any] = {"theta": fit.standard_theta, "y": design.y, "state": _state_text(design.state)}
    arrays["path_theta"] = np.array([theta for theta, _ in fit.path])
    arrays["path_deviance"] = np.array([value for _, value in fit.path])
    header["index"] = [name if isinstance(name, str | int | None) else str(name) for name in design.index.names]
    for i in range(design.index.nlevels):
        arrays |= _arrays(f"index{i}", pd.Series(design.index.get_level_values(i)), "the index of data")
    for i, (name, column) in enumerate(design.columns.items()):
        arrays |= _arrays(f"column{i}", column, f"column {name!r}")
    path = Path(path)
    with path.open("wb") as file:
        np.savez(file, header=json.dumps(header), **arrays)
    return path


def load(path: str | Path) -> dict[str, Any]:
    """Return the fields of the fit that `save` wrote; the cross products are made again from its columns."""
    with np.load(Path(path), allow_pickle=False) as archive:
        header: dict[str, Any] = json.loads(str(archive["header"]))
        state = _state(str(archive["state"]))
        series = {name: _column(archive, f"column{i}") for i, name in enumerate(header["columns"])}
        index = _index([_column(archive, f"index{i}") for i in range(len(header["index"]))], header["index"])
        steps = zip(archive["path_theta"], archive["path_deviance"].tolist(), strict=True)
        fields = {"standard_theta": archive["theta"], "path": tuple(steps)}
        y = archive["y"]
    frame = pd.DataFrame(series, index=index)
    weights: Any = header.pop("weights")
    weights = frame[WEIGHTS] if weights == WEIGHTS else weights
    design = build(header["formula"], frame, weights=weights, state=state)
    design = replace(design, y=y, n_missing=header["n_missing"], unused_levels=header["unused_levels"])
    fields |= {name: header[name] for name in PLAIN} | {"timings": header["timings"]}
    fields |= {"status": Status(header["status"]), "notes": tuple(header["notes"])}
    fields |= {"undetermined": tuple(header["undetermined"])}
    return fields | {"data": CrossProducts.of(design)}


def _state_text(state: State) -> str:
    """What scale(), poly() … found, as JSON by their calls; numbers to the bit."""
    return json.dumps({deparse(call): found for call, found in state.items()}, default=lambda array: array.tolist())


def _state(text: str) -> State:
    """The reverse: poly() has entries by number, which JSON turned into text."""
    calls = json.loads(text, object_hook=lambda found: {int(k) if k.isdigit() else k: v for k, v in found.items()})
    return {parse(call): found for call, found in calls.items()}


def _arrays(key: str, column: "pd.Series[Any]", name: str) -> dict[str, NDArray[Any]]:
    """A column as arrays without objects: of a Categorical, its codes and the labels that occur."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        column = column.cat.remove_unused_categories()
        labels = column.cat.categories.to_series()
        codes = {f"{key}_codes": column.cat.codes.to_numpy(), f"{key}_ordered": np.array(column.cat.ordered)}
        return codes | _arrays(f"{key}_labels", labels, name)
    if isinstance(column.dtype, pd.DatetimeTZDtype):
        return {f"{key}_utc": column.dt.tz_convert(None).to_numpy(), f"{key}_zone": np.array(str(column.dt.tz))}
    values = column.infer_objects().to_numpy()
    if values.dtype == object and pd.api.types.infer_dtype(column) == "string":
        values = values.astype(str)
    if values.dtype == object:
        raise DataError(f"{name} holds objects that no file without pickle can keep: turn them into numbers or text.")
    return {key: values}


def _column(archive: Any, key: str) -> Any:
    """The reverse of `_arrays`."""
    if f"{key}_codes" in archive:
        labels = pd.Index(_column(archive, f"{key}_labels"))
        return pd.Categorical.from_codes(archive[f"{key}_codes"], labels, ordered=bool(archive[f"{key}_ordered"]))
    if f"{key}_utc" in archive:
        return pd.DatetimeIndex(archive[f"{key}_utc"], tz="UTC").tz_convert(str(archive[f"{key}_zone"]))
    return archive[key]


def _index(levels: list[Any], names: list[Any]) -> pd.Index:
    """One or more levels as an index."""
    return pd.Index(levels[0], name=names[0]) if len(levels) == 1 else pd.MultiIndex.from_arrays(levels, names=names)
