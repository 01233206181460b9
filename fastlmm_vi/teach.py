"""The command line's `teach`: lessons, their notebooks and the deck, for those who have the repository."""

import importlib
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Annotated, Any

import typer

from .errors import DataError
from .progress import stages

app = typer.Typer(no_args_is_help=True, help="Lessons: list them, build notebooks and slides, grade.")

Data = Annotated[
    Path | None,
    typer.Option(help="A file in the layout of XYZ_MoM.txt. Default: the seeded twin of the course's data."),
]
Out = Annotated[
    Path | None,
    typer.Option(help="The folder of this build. Default: the repository's teaching/; with --data, ./teaching_NAME."),
]


@app.command(name="list")
def list_lessons() -> None:
    """List the lessons."""
    lesson = _machinery("lesson")
    for each in lesson.lessons():
        typer.echo(f"{each.number}  {each.title}  ({len(each.gaps)} gaps)\n    {each.summary}")


@app.command()
def build(
    data: Data = None,
    out: Out = None,
    only: Annotated[
        list[str] | None, typer.Option(help="Number of a lesson, e.g. 03; may be repeated. No deck.")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Build elsewhere from scratch, compare, and fail if anything differs.")
    ] = False,
) -> None:
    """Execute every lesson, write both notebooks of each, deck and handout; only what is out of date."""
    builder = _machinery("build")
    if check and (data or out or only):
        raise DataError("--check compares all that is in teaching/ with its sources: give it without other options.")
    if check:
        _check(builder)
        return
    folder = _folder(builder, data, out)
    with stages(True) as report:
        made = builder.build(folder, data=data, only=tuple(only or ()), report=report)
    typer.echo(f"{folder.root}: {'made ' + ', '.join(made) if made else 'everything is up to date'}.")


@app.command()
def deck(
    data: Data = None,
    out: Out = None,
    template: Annotated[Path | None, typer.Option(help="A .pptx or .potx of your own: its layouts are used.")] = None,
) -> None:
    """Make the deck and its handout from the built notebooks, on your own template if you give one."""
    builder = _machinery("build")
    if template is not None and not template.exists():
        raise DataError(f"{template}: there is no such template.")
    if template is not None and not zipfile.is_zipfile(template):
        raise DataError(f"{template} is not a PowerPoint file (.pptx or .potx).")
    folder = _folder(builder, data, out)
    with stages(True) as report:
        if data is not None:
            builder.build(folder, data=data, report=report)
        builder.deck(folder, template=template, report=report)
    typer.echo(f"{folder.deck_on(template)}\n{folder.handout}")


@app.command()
def grade(
    notebooks: Annotated[list[Path], typer.Argument(help="Students' notebooks.")],
    data: Data = None,
    out: Annotated[Path | None, typer.Option(help="Write the table as CSV, too.")] = None,
) -> None:
    """Count the gaps that students filled right, and say what is wrong. It runs their code: use a machine you can spare."""
    if data is not None and not data.exists():
        raise DataError(f"{data}: there is no such file.")
    if out is not None and not out.resolve().parent.is_dir():
        raise DataError(f"{out}: there is no folder {out.resolve().parent}.")
    grading = _machinery("grade")
    with stages(True) as report:
        table = grading.grade(notebooks, data, report)
    for row in table.to_dict("records"):
        typer.echo(f"{row['passed']}/{row['gaps']}  {row['file']}  {row['lesson']}")
        for note in filter(None, row["not passed"].split("; ")):
            typer.echo(f"      {note}")
    if out is not None:
        table.to_csv(out, index=False)
    if (table["gaps"] == 0).any():
        sys.exit(1)


def _check(builder: Any) -> None:
    checker = _machinery("check")
    with tempfile.TemporaryDirectory() as scratch, stages(True) as report:
        built = builder.Folder(Path(scratch))
        builder.build(built, report=report)
        report("comparing")
        found = list(checker.differences(builder.Folder(builder.HERE), built))
    for line in found:
        typer.echo(line, err=True)
    if found:
        typer.echo("Run `fastlmm-vi teach build` and commit what it makes.", err=True)
        sys.exit(1)
    typer.echo("Notebooks, figures' data and deck are what the lessons give.")


def _folder(builder: Any, data: Path | None, out: Path | None) -> Any:
    if data is not None and not data.exists():
        raise DataError(f"{data}: there is no such file.")
    if out is None:
        out = builder.HERE if data is None else Path.cwd() / f"teaching_{data.stem}"
    return builder.Folder(out)


def _machinery(name: str) -> Any:
    """Import a module of the repository's `teaching` folder."""
    try:
        return importlib.import_module(f"teaching.{name}")
    except ModuleNotFoundError as error:
        if error.name in ("teaching", f"teaching.{name}"):
            raise DataError(
                "The lessons come with the repository, not with the installed package: clone it, and in the clone run "
                'pip install -e ".[teach]".'
            ) from error
        raise DataError(f'teach needs {error.name}: pip install -e ".[teach]".') from error
