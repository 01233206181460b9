"""The command line's `bench`: the side-by-side table of your own machine, what changed in it, and how times grow.

The grouped models' are in `grouped_command` and `variational_command`.
"""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from ..errors import DataError
from ..progress import stages
from . import cases, grouped_command, growth, record, report, variational_command
from .case import Problem
from .measure import ROUNDS, measure

app = typer.Typer(help="Measure every method on this machine, beside yardsticks and peers.")
app.add_typer(grouped_command.app, name="grouped")
app.add_typer(variational_command.app, name="variational")


@app.callback(invoke_without_command=True)
def bench(
    context: typer.Context,
    n: Annotated[int | None, typer.Option(min=2, help="Observations. Default: as in --against, or 1000.")] = None,
    p: Annotated[int | None, typer.Option(min=1, help="Features. Default: as in --against, or 6000.")] = None,
    c: Annotated[int | None, typer.Option(min=0, help="Covariates. Default: as in --against, or 30.")] = None,
    jobs: Annotated[
        int | None, typer.Option(help="Threads of the BLAS; -1 is all cores. Default: as in --against, or 1.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds; peers that take seconds get one.")] = ROUNDS,
    only: Annotated[str, typer.Option(help="Names of cases; * and ? work.")] = "*",
    peers: Annotated[bool, typer.Option(help="Other people's software, where installed.")] = True,
    out: Annotated[Path | None, typer.Option(help="File for the result, as pytest-benchmark writes it.")] = None,
    against: Annotated[Path | None, typer.Option(help="An earlier file, of this or of pytest-benchmark.")] = None,
) -> None:
    """Measure every case against its yardstick in the same run; say what changed since an earlier run."""
    if context.invoked_subcommand:
        return
    earlier = None if against is None else record.read(against)
    if out is not None and not out.resolve().parent.is_dir():
        raise DataError(f"{out}: there is no folder {out.resolve().parent}.")
    sizes = Problem() if earlier is None else earlier.problem()
    given = {"n": n, "p": p, "c": c, "jobs": jobs}
    problem = replace(sizes, **{key: value for key, value in given.items() if value is not None})
    chosen = cases.select(only, peers)
    with stages(sys.stderr.isatty()) as show:
        now = measure(chosen, problem, rounds, show)
    typer.echo(report.table(now))
    missing = sorted({case.package for case in cases.CASES if case.package and not cases.version(case)})
    if peers and missing:
        typer.echo(f'Not installed: {", ".join(missing)} (pip install "fastlmm_vi[bench]").')
    if earlier is not None:
        typer.echo(f"\nAgainst {against}\n\n{report.against(earlier, now)}")
    if out is not None:
        typer.echo(f"\nWritten: {record.write(now, out)}")


@app.command(name="growth")
def grow(
    out: Annotated[Path, typer.Option(help="Folder for growth.csv and growth.png.")] = Path("growth"),
    quick: Annotated[
        bool, typer.Option("--quick", help="Small sizes, a few seconds; fitted exponents mean little.")
    ] = False,
    jobs: Annotated[int, typer.Option(help="Threads of the BLAS; -1 is all cores.")] = 1,
) -> None:
    """Measure how times grow with n and with p, and set the fitted exponents beside those of the operation counts."""
    out.mkdir(parents=True, exist_ok=True)
    with stages(sys.stderr.isatty()) as show:
        table = growth.run(growth.QUICK if quick else growth.FULL, jobs, show)
    typer.echo(growth.text(growth.exponents(table)))
    typer.echo("\nWritten: " + ", ".join(map(str, growth.write(table, out))))
