"""Where everything stands on a slide: sizes measured, boxes that do not overlap, text never below 18 points.

All lengths are inches, text sizes points. Text is measured in a face wider than those that slides use.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from matplotlib.font_manager import FontProperties
from matplotlib.mathtext import MathTextParser
from matplotlib.textpath import TextToPath

from .lesson import LessonError
from .slides import Code, Element, Equations, Picture, Run, Slide, Table, Text

SMALLEST = 18
LARGEST = {Text: 26, Equations: 30, Table: 22, Code: 20}
LINE = 1.2  # height of a line of text, in sizes
GAP = 0.16  # least space between two boxes
BULLET = 0.3  # indent of a bullet's text
LOWEST_PICTURE = 2.9
PICTURE_SHARE = 0.62  # of the width, where text stands beside a picture
NARROWER = 0.93  # width of the faces that slides use, relative to DejaVu Sans, on the safe side
MATH_WIDTH = 1.22  # office programs set formulas wider than mathtext
BETWEEN = 0.7  # inches between two formulas side by side


class LayoutError(LessonError):
    """A slide that holds more than fits."""


@dataclass(frozen=True)
class Frame:
    """A rectangle."""

    left: float
    top: float
    width: float
    height: float


BODY = Frame(0.6, 1.3, 12.13, 5.5)  # of the library's own look, below the title


@dataclass(frozen=True)
class Box:
    """An element, or one formula of several side by side, in its place; `size` is its text's (0 for pictures)."""

    element: Element | str
    frame: Frame
    size: int


def place(slide: Slide, frame: Frame, smallest: int = SMALLEST) -> list[Box]:
    """Return the slide's elements in their places within `frame`.

    Equations, tables and code take the full width, in the order of the source; a picture stands below them, left of the
    text or, if it is wide, above it.
    """
    pictures = [e for e in slide.elements if isinstance(e, Picture)]
    texts = [e for e in slide.elements if isinstance(e, Text)]
    if not pictures:
        return _stack(slide, slide.elements, frame, smallest)
    above = [e for e in slide.elements if isinstance(e, (Equations, Table, Code))]
    below = texts if pictures[0].kind == "wide" else []
    room = Frame(frame.left, frame.top, frame.width, frame.height - LOWEST_PICTURE)
    sized = _heights(slide, [*above, *below], room, smallest)
    head, foot = sized[: len(above)], sized[len(above) :]
    top = sum(height + GAP for _, height, _ in head)
    height = frame.height - top - sum(height + GAP for _, height, _ in foot)
    beside = texts if pictures[0].kind != "wide" else []
    width = frame.width * PICTURE_SHARE if beside else frame.width
    middle = Frame(frame.left, frame.top + top, width - GAP, height)
    boxes = [*_pile(head, frame, spread=False), Box(pictures[0], middle, 0)]
    if beside:
        right = Frame(frame.left + width, middle.top, frame.width - width, height)
        boxes += _stack(slide, beside, right, smallest)
    return boxes + _pile(foot, Frame(frame.left, middle.top + height + GAP, frame.width, 0.0), spread=False)


def picture_sizes(pages: Sequence[Slide]) -> dict[tuple[str, str], tuple[float, float]]:
    """Return width and height of every picture of the deck, by lesson and figure."""
    boxes = [(slide, box) for slide in pages if not slide.is_title for box in place(slide, BODY)]
    return {
        (slide.lesson.name, box.element.figure): (box.frame.width, box.frame.height)
        for slide, box in boxes
        if isinstance(box.element, Picture)
    }


def _stack(slide: Slide, elements: Sequence[Element], frame: Frame, smallest: int) -> list[Box]:
    return _pile(_heights(slide, elements, frame, smallest), frame, spread=True)


def _heights(
    slide: Slide, elements: Sequence[Element], frame: Frame, smallest: int
) -> list[tuple[Element, float, int]]:
    """Each element with its height and size: the largest sizes at which all of them fit."""
    for shrink in range(0, max(LARGEST.values()) - smallest + 1):
        sized = []
        for element in elements:
            size = max(smallest, LARGEST[type(element)] - shrink)
            while size > smallest and measure(element, size, frame.width)[0] > frame.width:
                size -= 1
            sized.append((element, *measure(element, size, frame.width), size))
        too_wide = [element for element, width, _, _ in sized if width > frame.width]
        if too_wide:
            raise LayoutError(
                f"{_where(slide)}: {too_wide[0]} is wider than {frame.width:.1f} inches at {smallest} points."
            )
        if sum(height for _, _, height, _ in sized) + GAP * (len(sized) - 1) <= frame.height:
            return [(element, height, size) for element, _, height, size in sized]
    raise LayoutError(f"{_where(slide)}: holds more than {frame.height:.1f} inches of height at {smallest} points.")


def _pile(sized: list[tuple[Element, float, int]], frame: Frame, *, spread: bool) -> list[Box]:
    spare = frame.height - sum(height for _, height, _ in sized)
    gap = min(0.6, spare / (len(sized) + 1)) if spread else GAP
    boxes, top = [], frame.top + (min(gap, 0.3) if spread else 0.0)
    for element, height, size in sized:
        whole = Frame(frame.left, top, frame.width, height)
        boxes += _side_by_side(element, whole, size) if isinstance(element, Equations) else [Box(element, whole, size)]
        top += height + gap
    return boxes


def _side_by_side(element: Equations, frame: Frame, size: int) -> list[Box]:
    """Each formula in a box of just its size, the row centred."""
    sizes = [formula_size(formula, size) for formula in element.formulas]
    left = frame.left + (frame.width - measure(element, size, frame.width)[0]) / 2
    boxes = []
    for formula, (width, height) in zip(element.formulas, sizes, strict=True):
        boxes.append(Box(formula, Frame(left, frame.top + (frame.height - height) / 2, width, height), size))
        left += width + BETWEEN
    return boxes


def measure(element: Element, size: int, width: float) -> tuple[float, float]:
    """Width and height that an element needs at a text size, if text may wrap at `width`."""
    if isinstance(element, Equations):
        sizes = [formula_size(formula, size) for formula in element.formulas]
        return sum(w for w, _ in sizes) + BETWEEN * (len(sizes) - 1), max(h for _, h in sizes) + 0.1
    if isinstance(element, Code):
        return max(map(len, element.lines)) * 0.62 * size / 72 + 0.3, len(element.lines) * LINE * size / 72 + 0.25
    if isinstance(element, Table):
        return sum(column_widths(element, size)), len(element.rows) * row_height(size)
    assert isinstance(element, Text)
    indent = BULLET if element.bullets else 0.0
    lines = [wrap(paragraph, size, width - indent - 0.2) for paragraph in element.paragraphs]
    longest = max(text_width((word,), size) for p in element.paragraphs for word in _words(p))
    return longest + indent + 0.2, sum(len(each) * LINE * size + 0.4 * size for each in lines) / 72 + 0.1


def wrap(paragraph: tuple[Run, ...], size: float, width: float) -> list[list[Run]]:
    """Break a paragraph into lines no wider than `width`."""
    lines: list[list[Run]] = [[]]
    for word in _words(paragraph):
        if lines[-1] and text_width((*lines[-1], word), size) > width:
            lines.append([])
        lines[-1].append(word)
    return lines


def _words(paragraph: tuple[Run, ...]) -> list[Run]:
    """The paragraph in pieces that may be followed by a line break, spaces kept at their ends."""
    return [
        Run(piece, run.bold, run.shift)
        for run in paragraph
        for piece in run.text.replace(" ", " \0").split("\0")
        if piece
    ]


@lru_cache(maxsize=10_000)
def text_width(pieces: tuple[Run, ...], size: float) -> float:
    """Width of runs set in one line."""
    return sum(_plain_width(run.text, size * (0.7 if run.shift else 1.0), run.bold) for run in pieces)


@lru_cache(maxsize=10_000)
def _plain_width(text: str, size: float, bold: bool) -> float:
    face = FontProperties(family="DejaVu Sans", size=size, weight="bold" if bold else "normal")
    # A closing bar keeps the width of spaces at the end.
    with_bar, bar = (TextToPath().get_text_width_height_descent(t, face, ismath=False)[0] for t in (text + "|", "|"))
    return NARROWER * (with_bar - bar) / 72


def displayed(latex: str) -> str:
    """The formula with fractions as large as office programs set them, for mathtext."""
    return f"${latex.replace(chr(92) + 'frac', chr(92) + 'dfrac')}$"


@lru_cache(maxsize=1000)
def formula_size(latex: str, size: int) -> tuple[float, float]:
    """Width and height of a formula, as office programs set it: a line is never lower than its letters could be."""
    look = FontProperties(size=size, math_fontfamily="stix")
    width, height, depth, *_ = MathTextParser("path").parse(displayed(latex), dpi=72, prop=look)
    return MATH_WIDTH * width / 72, max(1.04 * (height + depth), 1.5 * size) / 72


def column_widths(table: Table, size: int) -> list[float]:
    """Width of each column: its widest cell and the margins."""
    return [max(text_width(cell, size) for cell in column) + 0.4 for column in zip(*table.rows, strict=True)]


def row_height(size: int) -> float:
    """Height of a table's row."""
    return 1.9 * size / 72


def _where(slide: Slide) -> str:
    return f"{slide.lesson.path.name}, slide {slide.title!r}"
