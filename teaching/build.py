"""Everything made from the lessons: estimates.json, both notebooks of each, the data of every picture, deck and handout.

A product is made again only when something it is made of has changed: each has a key, the hash of its sources, kept in
`.build.json` beside the products (not committed).
"""

import hashlib
import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fastlmm_vi_kernels
import nbformat
from nbclient.exceptions import CellExecutionError

import fastlmm_vi
from fastlmm_vi import datasets, study
from fastlmm_vi.errors import DataError, FitWarning

from . import deck as decks
from . import execute as execution
from . import handout
from .layout import picture_sizes
from .lesson import Lesson, LessonError, lessons
from .slides import slides

HERE = Path(__file__).parent
Report = Callable[[str], None]


def silent(text: str) -> None:
    """Report nothing."""


@dataclass(frozen=True)
class Folder:
    """Where the products of one build lie."""

    root: Path

    @property
    def estimates(self) -> Path:
        """The numbers of the study, the one source of every number about the data."""
        return self.root / "estimates.json"

    def notebooks(self, lesson: Lesson) -> tuple[Path, Path]:
        """The solution and the student notebook."""
        folder, name = self.root / "notebooks", f"{lesson.name}.ipynb"
        return folder / "solution" / name, folder / "student" / name

    @property
    def slides(self) -> Path:
        """Deck, handout and figures."""
        return self.root / "slides"

    @property
    def deck(self) -> Path:
        """The PowerPoint file in the library's own look."""
        return self.slides / "fastlmm_vi.pptx"

    def deck_on(self, template: Path | None) -> Path:
        """The PowerPoint file on a template."""
        return self.deck if template is None else self.slides / f"fastlmm_vi_on_{template.stem}.pptx"

    @property
    def handout(self) -> Path:
        """The PDF with the notes."""
        return self.slides / "fastlmm_vi_handout.pdf"

    @property
    def figures(self) -> Path:
        """Picture and source data of every figure, `LESSON/FIGURE.png` and `.csv`."""
        return self.slides / "figures"

    def keys(self) -> dict[str, str]:
        """Key of every product as last made."""
        path = self.root / ".build.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

    def remember(self, name: str, key: str) -> None:
        """Note that a product was made from sources of this key."""
        (self.root / ".build.json").write_text(
            json.dumps({**self.keys(), name: key}, indent=1) + "\n", encoding="utf-8"
        )


def build(
    folder: Folder, *, data: Path | None = None, only: tuple[str, ...] = (), report: Report = silent
) -> list[str]:
    """Make what is out of date and return the names of what was made.

    Parameters
    ----------
    folder : Folder
    data : Path, optional
        A file in the layout of XYZ_MoM.txt in place of the twin.
    only : tuple of str
        Numbers of lessons, e.g. ("03",); no deck is made then.
    report : callable
        Told what is being done.

    Raises
    ------
    DataError
        If not every fit exists for these data.
    LessonError
        If a source cannot be read, a cell of it fails, or a slide holds more than fits.
    """
    chosen = _chosen(only)
    library = _hash(_sources(fastlmm_vi), _sources(fastlmm_vi_kernels))
    numbers, made = _estimates(folder, data, library, report)
    source = None if data is None else str(data.resolve())
    sizes = picture_sizes(slides(lessons(), numbers))
    for lesson in chosen:
        shown = {figure: size for (name, figure), size in sizes.items() if name == lesson.name}
        solution, student = (lesson.notebook(student=kind, numbers=numbers, data=source) for kind in (False, True))
        for cell in student.cells:
            cell.source = _beside(cell.source, data)
        sources = nbformat.writes(solution), nbformat.writes(student), repr(shown), library
        key = _hash(*sources, *_code("execute", "artists"))
        if folder.keys().get(lesson.name) == key and all(path.exists() for path in folder.notebooks(lesson)):
            continue
        _execute(solution, lesson, _emptied(folder.figures / lesson.name), shown, report)
        for cell in solution.cells:
            cell.source = _beside(cell.source, data)
            for output in cell.get("outputs", []):
                if "text" in output:
                    output.text = _beside(output.text, data)
        for notebook, path in zip((solution, student), folder.notebooks(lesson), strict=True):
            _write(notebook, path)
        folder.remember(lesson.name, key)
        made.append(lesson.name)
    if not only and deck(folder, report=report):
        made.append("slides")
    return made


def deck(folder: Folder, *, template: Path | None = None, report: Report = silent) -> bool:
    """Make deck and handout from the built figures and numbers if they are out of date; say whether that was so."""
    if not folder.estimates.exists():
        raise FileNotFoundError(f"{folder.estimates} is not there: run `fastlmm-vi teach build` first.")
    pages = slides(lessons(), json.loads(folder.estimates.read_text(encoding="utf-8")))
    for name, figure in picture_sizes(pages):
        if not (folder.figures / name / f"{figure}.png").exists():
            raise FileNotFoundError(
                f"The picture {figure} of lesson {name} is not there: run `fastlmm-vi teach build` first."
            )
    drawn = (path.read_bytes() for path in sorted(folder.figures.glob("*/*.*")))
    look = b"" if template is None else template.read_bytes()
    key = _hash(repr(pages), *drawn, look, *_code("slides", "layout", "equations", "artists", "deck", "handout"))
    path = folder.deck_on(template)
    if folder.keys().get(path.name) == key and path.exists() and folder.handout.exists():
        return False
    report("deck")
    for title in decks.write(pages, folder.figures, path, template):
        warnings.warn(
            f"Slide {title!r} has text below 18 points: the template leaves little room.", FitWarning, stacklevel=2
        )
    report("handout")
    handout.write(pages, folder.figures, folder.handout)
    folder.remember(path.name, key)
    return True


def _execute(
    notebook: nbformat.NotebookNode,
    lesson: Lesson,
    figures: Path,
    sizes: dict[str, tuple[float, float]],
    report: Report,
) -> None:
    try:
        execution.execute(notebook, figures, sizes, lambda text: report(f"{lesson.name}, {text}"))
    except CellExecutionError as error:
        raise LessonError(f"{lesson.path.name}: a cell failed.\n{error}") from error


def _beside(source: str, data: Path | None) -> str:
    """Text with the data's name alone: whoever opens the notebook has the file beside it, wherever that is."""
    return source if data is None else source.replace(str(data.resolve()), data.name)


def _emptied(folder: Path) -> Path:
    """The folder, made if need be, without the pictures and tables of an earlier build."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in (*folder.glob("*.csv"), *folder.glob("*.png")):
        old.unlink()
    return folder


def _estimates(folder: Folder, data: Path | None, library: str, report: Report) -> tuple[dict[str, Any], list[str]]:
    """The study's numbers: those on disk if they are of this data and library, else new ones."""
    report("data")
    xyz = datasets.make_xyz_twin() if data is None else datasets.read_xyz(data)
    key = _hash(xyz.sha256, xyz.source, library)
    if folder.keys().get("estimates") == key and folder.estimates.exists():
        return json.loads(folder.estimates.read_text(encoding="utf-8")), []
    numbers = study.run(xyz, lambda text: report(f"study, {text}")).to_dict()
    if data is not None:
        numbers["data"]["source"] = data.name
    _usable(numbers)
    folder.root.mkdir(parents=True, exist_ok=True)
    study.write_json(numbers, folder.estimates)
    folder.remember("estimates", key)
    return numbers, ["estimates"]


def _usable(numbers: Mapping[str, Any]) -> None:
    """Refuse data on which a lens has nothing to show."""
    failed = {name: why for block in numbers["failed"].values() for name, why in block.items()}
    reasons = list(failed.values())
    if not failed:
        fits = numbers["fits"]
        reasons += [
            f"the {name} estimate of σ²_β is 0." for name in ("newton", "mfvi") if fits[name]["sigma2_beta"] == 0.0
        ]
        reasons += [f"{name}: {fit['status']}" for name, fit in fits.items() if not fit["converged"]]
    if reasons:
        raise DataError(
            f"{numbers['data']['source']}: the lessons compare all fits, and not all exist for this data: {reasons[0]}"
        )


def _chosen(only: tuple[str, ...]) -> tuple[Lesson, ...]:
    every = lessons()
    unknown = sorted(set(only) - {lesson.number for lesson in every})
    if unknown:
        raise ValueError(f"There is no lesson {unknown[0]}; there are {', '.join(lesson.number for lesson in every)}.")
    return tuple(lesson for lesson in every if not only or lesson.number in only)


def _settled(numbers: Any) -> Any:
    """The numbers without those of time."""
    if isinstance(numbers, dict):
        return {key: _settled(value) for key, value in numbers.items() if not key.endswith("seconds")}
    return [_settled(value) for value in numbers] if isinstance(numbers, list) else numbers


def _write(notebook: nbformat.NotebookNode, path: Path) -> None:
    nbformat.validate(notebook)
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, path)


def _sources(package: Any) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(Path(package.__file__).parent.rglob("*.py")))


def _code(*names: str) -> tuple[bytes, ...]:
    return tuple((HERE / f"{name}.py").read_bytes() for name in names)


def _hash(*parts: bytes | str) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode() if isinstance(part, str) else part)
        digest.update(b"\0")
    return digest.hexdigest()
