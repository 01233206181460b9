r"""A lesson's source, read: its cells, its gaps, its slides; and the two notebooks written from it.

The source is Python in percent format. What a cell is for stands in its header:

    # %% [markdown]                 text of both notebooks; ⟦3.1: \gamma⟧ in a formula is a gap of the derivation
    # %%                            code of both notebooks
    # %% gap="3.1"                  code with a gap: ### SOLUTION … ### WRONG why … ### END
    # %% check="3.1"                code that tells whether gap 3.1 is filled right
    # %% figure="ridge"             code that draws one picture, which slides may show
    # %% data=true                  code that prints numbers about the data: each is in estimates.json
    # %% timing=true                code that prints seconds: its output is not compared
    # %% [markdown] slide="model"   a slide of that part of the deck; in no notebook

«fits.em.loglik:.3f» in text and slides is replaced by that entry of estimates.json.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

LESSONS = Path(__file__).parent / "lessons"

FIRST_CELL = """\
# On Colab, or wherever the library is missing, this installs it; elsewhere it does nothing.
SOURCE = "fastlmm_vi[plot]"  # or the address of a clone: "fastlmm_vi[plot] @ git+https://..."

import importlib.util
import subprocess
import sys

if importlib.util.find_spec("fastlmm_vi") is None:
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", SOURCE], check=True)

%config InlineBackend.figure_format = "retina"
"""

BLOCK = re.compile(r"^(?P<indent>[ ]*)### SOLUTION\n(?P<body>.*?)^[ ]*### END[ ]*\n?", re.DOTALL | re.MULTILINE)
WRONG = re.compile(r"^[ ]*### WRONG(?P<why>.*)\n", re.MULTILINE)
FORMULA_GAP = re.compile(r"⟦(?P<name>[\w.]+):\s*(?P<latex>.*?)⟧", re.DOTALL)
PLACEHOLDER = re.compile(r"«(?P<path>[\w.-]+)(?::(?P<spec>[^»]*))?»")


class LessonError(ValueError):
    """A source that is not what this module's description says, with the place."""


@dataclass(frozen=True)
class Cell:
    """One cell of the source; `options` is its header."""

    kind: str  # "markdown" or "code"
    source: str
    options: Mapping[str, Any]


@dataclass(frozen=True)
class Gap:
    """A cell that students fill in: its solution, its blank, and wrong fillings with what is wrong in each."""

    name: str
    solution: str
    blank: str
    wrong: Mapping[str, str]


@dataclass(frozen=True)
class Lesson:
    """One source file."""

    path: Path

    @property
    def name(self) -> str:
        """File name without ending, `03_em`."""
        return self.path.stem

    @property
    def number(self) -> str:
        """The two digits of the file name."""
        return self.name[:2]

    @cached_property
    def cells(self) -> tuple[Cell, ...]:
        """All cells in order."""
        read = jupytext.read(self.path, fmt="py:percent")
        kept = {"gap", "check", "figure", "data", "timing", "slide"}
        return tuple(
            Cell(cell.cell_type, cell.source, {k: v for k, v in cell.metadata.items() if k in kept})
            for cell in read.cells
        )

    @property
    def title(self) -> str:
        """The first heading of the first cell."""
        return self.cells[0].source.splitlines()[0].removeprefix("# ")

    @property
    def summary(self) -> str:
        """The first paragraph after the heading."""
        return " ".join(self.cells[0].source.split("\n\n")[1].split())

    @cached_property
    def gaps(self) -> Mapping[str, Gap]:
        """Gaps of code by name, in order."""
        code = [cell for cell in self.cells if cell.kind == "code"]
        found: dict[str, Gap] = {}
        for cell, following in zip(code, [*code[1:], None], strict=True):
            if "gap" in cell.options:
                gap = _gap(self, cell)
                if following is None or following.options.get("check") != gap.name or gap.name in found:
                    raise LessonError(
                        f"{self.path.name}: gap {gap.name} is not followed by its check, or is there twice."
                    )
                found[gap.name] = gap
        return found

    def slides(self) -> Iterator[Cell]:
        """The slide cells in order."""
        return (cell for cell in self.cells if "slide" in cell.options)

    def notebook(
        self, *, student: bool, numbers: Mapping[str, Any] | None, data: str | None = None
    ) -> nbformat.NotebookNode:
        """Return the notebook without outputs.

        `numbers` fill the text (None leaves it unfilled); `data` is the file that lessons on the data read instead of
        the twin.
        """
        cells = [_stamp(new_code_cell(FIRST_CELL.rstrip()), self, 0, {})]
        for cell in self.cells:
            if "slide" in cell.options:
                continue
            if cell.kind == "markdown":
                text = cell.source if numbers is None else fill(cell.source, numbers, self.path.name)
                new = new_markdown_cell(_formula_gaps(text, student=student))
            elif "gap" in cell.options:
                gap = self.gaps[cell.options["gap"]]
                new = new_code_cell(gap.blank if student else gap.solution)
            else:
                new = new_code_cell(_with_data(cell.source, data))
            cells.append(_stamp(new, self, len(cells), cell.options))
        kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
        return new_notebook(cells=cells, metadata={"kernelspec": kernel, "language_info": {"name": "python"}})


def lessons() -> tuple[Lesson, ...]:
    """All lessons, in order."""
    return tuple(Lesson(path) for path in sorted(LESSONS.glob("[0-9][0-9]_*.py")))


def fill(text: str, numbers: Mapping[str, Any], where: str) -> str:
    """Replace every «path:format» by that entry of `numbers`."""

    def value(match: re.Match[str]) -> str:
        entry: Any = numbers
        for key in match["path"].split("."):
            try:
                entry = entry[int(key) if isinstance(entry, list) else key]
            except (KeyError, IndexError, TypeError, ValueError) as error:
                raise LessonError(f"{where}: estimates.json has no entry {match['path']}.") from error
        return format(entry, match["spec"] or "").replace("-", "−" if isinstance(entry, (int, float)) else "-")

    return PLACEHOLDER.sub(value, text)


def _gap(lesson: Lesson, cell: Cell) -> Gap:
    name = cell.options["gap"]
    blocks = list(BLOCK.finditer(cell.source + "\n"))
    if len(blocks) != 1:
        raise LessonError(f"{lesson.path.name}: gap {name} needs one ### SOLUTION … ### END, not {len(blocks)}.")
    block = blocks[0]
    parts = WRONG.split(block["body"])
    if len(parts) < 3:
        raise LessonError(f"{lesson.path.name}: gap {name} has no ### WRONG filling, so its check is not tested.")
    before, after = (cell.source + "\n")[: block.start()], (cell.source + "\n")[block.end() :]
    indent = block["indent"]
    message = f"gap {name} is still open: write your lines here, in place of this one"
    blank = f'{indent}raise NotImplementedError("{message}")\n'
    whys, fillings = (part.strip() for part in parts[1::2]), parts[2::2]
    return Gap(
        name=name,
        solution=(before + parts[0] + after).rstrip(),
        blank=(before + blank + after).rstrip(),
        wrong={why: (before + filling + after).rstrip() for why, filling in zip(whys, fillings, strict=True)},
    )


def _formula_gaps(text: str, *, student: bool) -> str:
    if student:
        return FORMULA_GAP.sub(r"\\boxed{\\;?_{\\;\\text{gap \g<name>}}\\;}", text)
    return FORMULA_GAP.sub(lambda match: rf"\boxed{{{match['latex']}}}", text)


def _with_data(source: str, data: str | None) -> str:
    """Set the variable DATA of a lesson on the data to the file's path."""
    return (
        source if data is None else re.sub(r"^DATA = None\b", lambda _: f"DATA = {data!r}", source, flags=re.MULTILINE)
    )


def _stamp(
    cell: nbformat.NotebookNode, lesson: Lesson, position: int, options: Mapping[str, Any]
) -> nbformat.NotebookNode:
    cell["id"] = f"lesson-{lesson.number}-{position:03d}"
    if options:
        cell["metadata"]["fastlmm_vi"] = dict(options)
    return cell
