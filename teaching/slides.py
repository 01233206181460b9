r"""The slides written in the lessons, read: one title, a few elements, notes.

After the line `# The message, as a title` come, each a paragraph of its own:

    text, or - bullets                with **bold**, ^{superscript}, _{subscript}
    $$ one line of LaTeX $$           what pandoc and matplotlib's mathtext both understand; \qquad parts two formulas
    ![alt text](figure:NAME)          a picture of the lesson's notebook, the text beside it
    ![alt text](wide:NAME)            the same across the slide, the text below
    ![alt text](chart:NAME)           its lines as a native chart, the text beside it
    | a | table |                     with a header and a line of dashes
    ``` … ```                         a few lines of code
    ---                               then Say:, Ask:, Answer:, Minutes: for the notes
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .lesson import PLACEHOLDER, Lesson, LessonError, fill

PARTS = ("model", "derivations", "algorithms", "results", "comparison", "learned")
NOTES = ("Say", "Ask", "Answer", "Minutes")


@dataclass(frozen=True)
class Run:
    """Letters of one appearance."""

    text: str
    bold: bool = False
    shift: int = 0  # 1 superscript, −1 subscript


@dataclass(frozen=True)
class Text:
    """Paragraphs, all bullets or none."""

    paragraphs: tuple[tuple[Run, ...], ...]
    bullets: bool


@dataclass(frozen=True)
class Equations:
    r"""Formulas side by side, written as one line with \qquad between them."""

    formulas: tuple[str, ...]


@dataclass(frozen=True)
class Picture:
    """A figure of the lesson: a picture beside the text, one across the slide, or a native chart beside the text."""

    alt: str
    figure: str
    kind: str  # figure, wide or chart


@dataclass(frozen=True)
class Table:
    """Rows of cells, the header first, in bold."""

    rows: tuple[tuple[tuple[Run, ...], ...], ...]


@dataclass(frozen=True)
class Code:
    """Lines of code."""

    lines: tuple[str, ...]


Element = Text | Equations | Picture | Table | Code


@dataclass(frozen=True)
class Slide:
    """One slide of one lesson."""

    lesson: Lesson
    part: str
    title: str
    elements: tuple[Element, ...]
    notes: Mapping[str, str]  # Say, Ask, Answer, Minutes
    entries: tuple[str, ...]  # of estimates.json, shown or said

    @property
    def is_title(self) -> bool:
        """Whether it opens the deck: the first slide of the first lesson."""
        return (
            self.part == PARTS[0]
            and self.lesson.number == "01"
            and next(self.lesson.slides()).source.startswith(f"# {self.title}\n")
        )


def slides(lessons: tuple[Lesson, ...], numbers: Mapping[str, Any]) -> tuple[Slide, ...]:
    """Return all slides in the order of the deck: by part, then by lesson."""
    found = [
        _read(lesson, cell.options["slide"], cell.source, numbers) for lesson in lessons for cell in lesson.slides()
    ]
    return tuple(sorted(found, key=lambda slide: (PARTS.index(slide.part), slide.lesson.number)))


def runs(text: str) -> tuple[Run, ...]:
    """Split marked text: **bold**, ^{superscript}, _{subscript}."""
    found: list[Run] = []
    bold = False
    for piece in re.split(r"(\*\*|[\^_]\{[^}]*\})", text):
        if piece == "**":
            bold = not bold
        elif re.fullmatch(r"[\^_]\{[^}]*\}", piece):
            found.append(Run(piece[2:-1], bold, 1 if piece[0] == "^" else -1))
        elif piece:
            found.append(Run(piece, bold))
    return tuple(found)


def _read(lesson: Lesson, part: str, source: str, numbers: Mapping[str, Any]) -> Slide:
    where = f"{lesson.path.name}, slide {source.splitlines()[0]!r}"
    if part not in PARTS:
        raise LessonError(f"{where}: its part {part!r} is none of {', '.join(PARTS)}.")
    body, _, rest = fill(source, numbers, where).partition("\n---\n")
    head, _, body = body.partition("\n")
    if not head.startswith("# "):
        raise LessonError(f"{where}: the first line must be '# ' and the title.")
    name = "|".join(NOTES)
    notes = dict(re.findall(rf"^({name}):\s*(.*?)(?=\n\n(?:{name}):|\Z)", rest, re.DOTALL | re.MULTILINE))
    missing = [name for name in NOTES if not notes.get(name, "").strip()]
    if missing:
        raise LessonError(f"{where}: the notes lack {', '.join(missing)}.")
    elements = tuple(_element(block, where) for block in _blocks(body))
    said = {name: " ".join(notes[name].split()) for name in NOTES}
    entries = tuple(dict.fromkeys(match["path"] for match in PLACEHOLDER.finditer(source)))
    return Slide(lesson, part, head[2:].strip(), elements, said, entries)


def _blocks(body: str) -> list[str]:
    code = re.compile(r"```.*?```", re.DOTALL)
    blocks, at = [], 0
    for match in code.finditer(body):
        blocks += body[at : match.start()].split("\n\n")
        blocks.append(match[0])
        at = match.end()
    blocks += body[at:].split("\n\n")
    return [block.strip("\n") for block in blocks if block.strip()]


def _element(block: str, where: str) -> Element:
    if block.startswith("```"):
        return Code(tuple(block.splitlines()[1:-1]))
    if block.startswith("$$"):
        latex = block.strip().removeprefix("$$").removesuffix("$$").strip()
        if "\n" in latex or "$" in latex:
            raise LessonError(f"{where}: an equation is one line between $$ and $$, and a paragraph of its own.")
        return Equations(tuple(part.strip() for part in latex.split(r"\qquad")))
    if picture := re.fullmatch(
        r"!\[(?P<alt>[^\]]+)\]\((?P<kind>figure|wide|chart):(?P<name>\w+)\)", block.replace("\n", " ")
    ):
        return Picture(picture["alt"], picture["name"], picture["kind"])
    if block.startswith("|"):
        lines = [re.split(r"(?<!\\)\|", line.strip().strip("|")) for line in block.splitlines()]
        rows = [tuple(cell.strip().replace(r"\|", "|") for cell in line) for line in lines]
        if len({len(row) for row in rows}) != 1:
            raise LessonError(f"{where}: the rows of the table are of different length.")
        head, body = (f"**{cell}**" for cell in rows[0]), rows[2:]
        return Table(tuple(tuple(runs(cell) for cell in row) for row in (head, *body)))
    if block.startswith("- "):
        items = re.split(r"\n- ", block.removeprefix("- "))
        return Text(tuple(runs(" ".join(item.split())) for item in items), bullets=True)
    if block.startswith(("#", "!", "<", ">")):
        raise LessonError(f"{where}: cannot read {block.splitlines()[0]!r}.")
    return Text((runs(" ".join(block.split())),), bullets=False)
