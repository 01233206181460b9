"""The command line: `fastlmm-vi reproduce`, `fastlmm-vi fit`, `fastlmm-vi teach` and `fastlmm-vi bench`."""

import sys
import warnings
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

from . import __version__, datasets, study, tables, teach
from .bench.command import app as bench
from .errors import DataError, FitWarning, UnboundedLikelihoodError
from .progress import stages
from .wide.estimator import WideLMM

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)
app.add_typer(teach.app, name="teach")
app.add_typer(bench, name="bench")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"fastlmm_vi {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print it.")
    ] = False,
) -> None:
    """Linear mixed models that are wide, fast and honest about their uncertainty."""


@app.command()
def reproduce(
    data: Annotated[
        str | None,
        typer.Option(help="A file in the layout of XYZ_MoM.txt, or xyz_mom to download it. Default: the twin."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for estimates.json, trace.csv, posterior.csv and figures.")] = Path(
        "study"
    ),
    seed: Annotated[int, typer.Option(help="Seed of the twin.")] = 0,
) -> None:
    """Run the whole study: EM, ML and REML by Newton, mean-field VI, the posterior by quadrature, and their comparison."""
    out.mkdir(parents=True, exist_ok=True)
    with stages(sys.stderr.isatty()) as report:
        report("data")
        xyz = _study_data(data, seed)
        result = study.run(xyz, report)
        report("files and figures")
        paths = study.write(result, out)
    typer.echo(study.tables(result))
    if data == "xyz_mom":
        typer.echo("\nPublished for this file (neither at its optimum to more digits)\n")
        typer.echo(pd.DataFrame(datasets.PUBLISHED).T.to_string())
    typer.echo("\nWritten: " + ", ".join(str(path) for path in paths))
    if not any(path.suffix == ".png" for path in paths):
        typer.echo('No figures: they need every fit above, and matplotlib (pip install "fastlmm_vi[plot]").')


@app.command()
def fit(
    file: Annotated[Path, typer.Argument(help="Text with a header (any separator), .parquet or .npz (y, Z, X).")],
    method: Annotated[str, typer.Option(help="newton, em or mfvi.")] = "newton",
    reml: Annotated[bool, typer.Option("--reml", help="Restricted maximum likelihood (newton).")] = False,
    y: Annotated[str | None, typer.Option(help="Response column. Default: the first.")] = None,
    covariates: Annotated[str, typer.Option(help="Covariate columns: names or prefixes, comma-separated.")] = "Z.",
    features: Annotated[str, typer.Option(help="Feature columns: names or prefixes, comma-separated.")] = "X.",
    intercept: Annotated[bool, typer.Option(help="Add a constant to the covariates.")] = True,
    standardize: Annotated[bool, typer.Option("--standardize", help="Centre and scale the features.")] = False,
    theta_by: Annotated[str | None, typer.Option(help="mfvi: variances by elbo (default) or loglik.")] = None,
    solver: Annotated[str | None, typer.Option(help="mfvi: auto (default), sweep or collapsed.")] = None,
    block_size: Annotated[int, typer.Option(help="mfvi: neighbouring features in one factor of q(β).")] = 1,
    precision: Annotated[str, typer.Option(help="float64, float32-gram or float32.")] = "float64",
    n_jobs: Annotated[int | None, typer.Option(help="Threads: one by default, -1 all cores.")] = None,
    max_iter: Annotated[int | None, typer.Option(help="em, mfvi: largest number of iterations.")] = None,
    tol: Annotated[float | None, typer.Option(help="em, mfvi: tolerance.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for estimates.json, trace.csv, posterior.csv.")] = None,
) -> None:
    """Fit one model to one file and print its summary."""
    if method != "mfvi" and (theta_by or solver):
        raise DataError(f"--theta-by and --solver go with --method mfvi, not {method}.")
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
    paths: list[Path] = []
    with stages(sys.stderr.isatty()) as report:
        report("data")
        names, values = tables.read_table(file)
        data = datasets.split(names, values, file, y=y, covariates=covariates, features=features)
        report(method)
        model = WideLMM(
            method,
            reml=reml,
            fit_intercept=intercept,
            standardize=standardize,
            theta_by=theta_by or "elbo",
            solver=solver or "auto",
            block_size=block_size,
            precision=precision,
            n_jobs=n_jobs,
            max_iter=max_iter,
            tol=tol,
        )
        Z = pd.DataFrame(data.Z, columns=list(data.Z_names)) if data.Z_names else None
        result = model.fit(data.X, data.y, Z).fit_
        if out is not None:
            report("files")
            name = "reml" if reml else method
            content = {"data": study.describe(data), "fits": {name: study.estimates(result)}}
            paths.append(study.write_json({"version": __version__, **content}, out / "estimates.json"))
            paths.append(study.write_trace({name: result}, out / "trace.csv"))
            paths.append(study.write_posterior({name: result}, data.X_names, out / "posterior.csv"))
    typer.echo(_columns(names, data))
    typer.echo(result.summary())
    if paths:
        typer.echo("\nWritten: " + ", ".join(map(str, paths)))


def _columns(names: tuple[str, ...], data: datasets.XYZ) -> str:
    """Say what each column of the file was taken for."""
    used = {data.y_name, *data.Z_names, *data.X_names}
    rest = [name for name in names if name not in used]
    parts = [
        f"response {data.y_name}",
        f"covariates {_few(data.Z_names)}",
        f"features {_few(data.X_names)}",
        f"not used {_few(tuple(rest))}",
    ]
    return f"{data.source}: " + "; ".join(parts)


def _few(names: tuple[str, ...]) -> str:
    if len(names) <= 4:
        return ", ".join(names) or "none"
    return f"{names[0]}, {names[1]}, … {names[-1]} ({len(names)})"


def _study_data(data: str | None, seed: int) -> datasets.XYZ:
    if data is None:
        return datasets.make_xyz_twin(seed)
    if data == "xyz_mom":
        return datasets.load_xyz_mom(download=True)
    return datasets.split(*tables.read_table(data), data)


def main() -> None:
    """Run the command line; bad data end in one message on standard error and exit code 2."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # σ² on a terminal or in a file that has no Greek
    warnings.simplefilter("ignore")
    warnings.simplefilter("always", FitWarning)
    warnings.showwarning = lambda message, *_, **__: typer.echo(f"fastlmm-vi: {message}", err=True)
    try:
        app()
    except (DataError, UnboundedLikelihoodError, ValueError, OSError) as error:
        typer.echo(f"fastlmm-vi: {error}", err=True)
        sys.exit(2)
