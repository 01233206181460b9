"""The command line's `bench grouped`: fits from formulas beside statsmodels and lme4, their pieces, units, and growth."""

import sys
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated

import typer

from ..errors import DataError
from ..progress import stages
from . import (
    grouped_contenders,
    grouped_document,
    grouped_fits,
    grouped_growth,
    grouped_measure,
    grouped_pieces,
    grouped_record,
    grouped_report,
    grouped_units,
    lme4,
)
from .grouped_record import GroupedRecord
from .measure import ROUNDS

app = typer.Typer(help="Measure fits of grouped models, beside statsmodels and lme4.")


@app.callback(invoke_without_command=True)
def grouped(
    context: typer.Context,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds.")] = ROUNDS,
    only: Annotated[
        str, typer.Option(help="Names of rows, as fit_cake, InstEval_design, units_*; * and ? work.")
    ] = "*",
    peers: Annotated[bool, typer.Option(help="statsmodels and lme4, where installed.")] = True,
    out: Annotated[Path | None, typer.Option(help="File for the result.")] = None,
) -> None:
    """Measure whole fits and their pieces, and fit the same data in other units."""
    if context.invoked_subcommand:
        return
    if out is not None and not out.resolve().parent.is_dir():
        raise DataError(f"{out}: there is no folder {out.resolve().parent}.")
    check(only)
    with lme4.session(peers) as R, stages(sys.stderr.isatty()) as show:
        run = measure(only, rounds, R, peers, show)
    typer.echo(grouped_report.conditions(run.timed))
    for table in grouped_report.tables(run).values():
        typer.echo(f"\n{table.text()}")
    if peers and (absent := missing(run)):
        typer.echo(f"\nNot installed: {', '.join(absent)}.")
    if out is not None:
        typer.echo(f"\nWritten: {grouped_record.write(run, out)}")


def check(only: str) -> None:
    """Refuse a pattern that is the name of nothing."""
    known = [
        *map(grouped_fits.name, grouped_fits.MODELS),
        *(piece.name for piece in grouped_pieces.PIECES),
        *(change.name for change in grouped_units.CHANGES),
    ]
    if not any(fnmatchcase(name, only) for name in known):
        raise DataError(f"{only!r} is the name of nothing: {', '.join(known)}; * and ? work.")


def measure(
    only: str, rounds: int, R: lme4.Session | None, peers: bool, report: grouped_measure.Report = grouped_measure.silent
) -> GroupedRecord:
    """Measure everything whose name matches."""

    def wanted(name: str) -> bool:
        return fnmatchcase(name, only)

    contenders = grouped_contenders.contenders(R, peers)
    report("data")
    models = [model for model in grouped_fits.MODELS if wanted(grouped_fits.name(model))]
    pieces = [piece for piece in grouped_pieces.PIECES if wanted(piece.name)]
    changes = [change for change in grouped_units.CHANGES if wanted(change.name)]
    jobs = [*grouped_fits.jobs(contenders, models), *grouped_pieces.jobs(R, pieces)]
    rows = grouped_measure.measure(jobs, rounds, report)
    units = grouped_units.measure(contenders, changes, report=report) if changes else []
    packages = {contender.name: contender.version for contender in contenders}
    return GroupedRecord(timed=grouped_measure.record(rows, packages, R), units=units)


def missing(run: GroupedRecord) -> list[str]:
    """Return whom the run has not met."""
    ways = {
        grouped_contenders.STATSMODELS: 'statsmodels (pip install "fastlmm_vi[bench]")',
        grouped_contenders.LME4: "lme4 (an R with it, as Rscript)",
    }
    return [way for name, way in ways.items() if name not in run.timed.machine["versions"]]


@app.command(name="growth")
def grow(
    out: Annotated[Path, typer.Option(help="Folder for grouped_growth.csv and grouped_growth.png.")] = Path("growth"),
    quick: Annotated[
        bool, typer.Option("--quick", help="Small sizes, a few seconds; fitted exponents mean little.")
    ] = False,
    record: Annotated[
        Path | None, typer.Option(help="A file of `bench grouped --out`, to write the result into.")
    ] = None,
) -> None:
    """Measure how times and memory grow with the data, and set the fitted exponents beside those of theory."""
    if record is not None:
        grouped_record.read(record)
    out.mkdir(parents=True, exist_ok=True)
    with stages(sys.stderr.isatty()) as show:
        rows = grouped_growth.run(grouped_growth.QUICK if quick else grouped_growth.FULL, show)
    typer.echo(f"{grouped_report.growth(rows).text()}\n\n{grouped_report.exponents(rows).text()}")
    paths = grouped_growth.write(rows, out) + ([grouped_record.add_growth(rows, record)] if record else [])
    typer.echo("\nWritten: " + ", ".join(map(str, paths)))


@app.command()
def document(
    record: Annotated[Path, typer.Argument(help="A file of `bench grouped --out`.")],
    documents: Annotated[list[Path], typer.Argument(help="Markdown files with markers.")],
) -> None:
    """Write the tables of a stored run into documents, between their markers."""
    grouped_document.MARKERS.write(grouped_document.rendered(grouped_record.read(record)), documents)
    typer.echo("Written: " + ", ".join(map(str, documents)))
