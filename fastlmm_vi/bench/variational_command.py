"""The command line's `bench variational`: variational Bayes of grouped models beside PyMC and Bambi."""

import sys
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated

import typer

from ..errors import DataError
from ..progress import stages
from . import machine, pymc_session, variational_record, variational_report
from .markers import Markers
from .variational_models import MODELS
from .variational_record import VariationalRecord

MARKERS = Markers("variational")
app = typer.Typer(help="Measure variational Bayes of grouped models, beside PyMC's and Bambi's.")


@app.callback(invoke_without_command=True)
def variational(
    context: typer.Context,
    peers: Annotated[
        Path | None,
        typer.Option(help="Folder of a virtual environment with PyMC and Bambi; made there, by pip, if it is new."),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Fits of each.")] = 3,
    only: Annotated[str, typer.Option(help="Names of models; * and ? work.")] = "*",
    out: Annotated[Path | None, typer.Option(help="File for the result.")] = None,
) -> None:
    """Find q of models with an exact posterior: seconds, ELBO, k̂, and accuracy of every marginal."""
    if context.invoked_subcommand:
        return
    if out is not None and not out.resolve().parent.is_dir():
        raise DataError(f"{out}: there is no folder {out.resolve().parent}.")
    models = [model for model in MODELS if fnmatchcase(model.name, only)]
    if not models:
        raise DataError(f"{only!r} is the name of nothing: {', '.join(each.name for each in MODELS)}; * and ? work.")
    with stages(sys.stderr.isatty()) as show:
        python = None if peers is None else pymc_session.environment(peers, show)
        run = variational_record.measure(models, range(seeds), python, show)
    typer.echo(machine.text(dict(run.machine)))
    for name, table in variational_report.tables(run).items():
        if name != "summary":
            typer.echo(f"\n{table.text()}")
    if out is not None:
        typer.echo(f"\nWritten: {variational_record.write(run, out)}")


def rendered(record: VariationalRecord) -> dict[str, str]:
    """Return everything that a document may ask for by name: the tables, and the machine."""
    lines = machine.text(dict(record.machine)).replace("\n", "\\\n")
    return {"machine": lines} | {name: table.markdown() for name, table in variational_report.tables(record).items()}


@app.command()
def document(
    record: Annotated[Path, typer.Argument(help="A file of `bench variational --out`.")],
    documents: Annotated[list[Path], typer.Argument(help="Markdown files with markers.")],
) -> None:
    """Write the tables of a stored run into documents, between their markers."""
    MARKERS.write(rendered(variational_record.read(record)), documents)
    typer.echo("Written: " + ", ".join(map(str, documents)))
