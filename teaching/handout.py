"""The handout: a PDF of two slides a page, the speaker's notes below each."""

import textwrap
from pathlib import Path
from typing import Any

import matplotlib.image
from matplotlib.backends.backend_pdf import FigureCanvasPdf, PdfPages
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from .deck import notes, where
from .layout import (
    BODY,
    BULLET,
    LINE,
    NARROWER,
    Box,
    Frame,
    column_widths,
    displayed,
    place,
    row_height,
    text_width,
    wrap,
)
from .slides import Code, Picture, Run, Slide, Table, Text

INK = "#1B2A41"
PAGE = (8.27, 11.69)  # A4
SLIDE = (13.333, 7.5)
SCALE = 6.2 / SLIDE[0]  # of a slide on the page
LEFT, TOP = 0.6, 0.35  # of the upper slide on the page
NOTES_SIZE, NOTES_WIDTH = 8.5, 112  # points, and letters a line


def write(slides: tuple[Slide, ...], figures: Path, path: Path) -> None:
    """Write the handout; `figures` holds the pictures, `LESSON/FIGURE.png`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with PdfPages(path, metadata={"Title": slides[0].title, "Creator": "fastlmm_vi", "CreationDate": None}) as pdf:
        for first in range(0, len(slides), 2):
            figure = Figure(figsize=PAGE)
            FigureCanvasPdf(figure)
            for half, slide in enumerate(slides[first : first + 2]):
                page = _Page(figure, TOP + half * PAGE[1] / 2)
                _draw_slide(page, slide, first + half + 1, figures)
                page.notes(slide)
            pdf.savefig(figure)


def _draw_slide(page: "_Page", slide: Slide, number: int, figures: Path) -> None:
    page.rectangle(Frame(0, 0, *SLIDE), edge="0.6")
    if slide.is_title:
        _title(page, slide)
        return
    page.text((Run(slide.title, bold=True),), 0.6, 0.45, 30)
    for box in place(slide, BODY):
        _draw(page, box, figures / slide.lesson.name)
    page.text((Run(where(slide)),), 0.6, 6.95, 18, color="0.4")
    page.text((Run(str(number)),), 12.4, 6.95, 18, color="0.4")


class _Page:
    """Draws a slide and its notes on half of an A4 page, in the slide's inches from its upper left corner."""

    def __init__(self, figure: Figure, top: float) -> None:
        self.figure, self.top = figure, top

    def at(self, x: float, y: float) -> tuple[float, float]:
        return (LEFT + SCALE * x) / PAGE[0], 1.0 - (self.top + SCALE * y) / PAGE[1]

    def text(
        self, runs: tuple[Run, ...], x: float, y: float, size: float, *, color: str = INK, mono: bool = False
    ) -> None:
        """One line of runs, its top at y."""
        for run in runs:
            shrink, raised = (0.7, {1: -0.3, -1: 0.15}[run.shift]) if run.shift else (1.0, 0.0)
            left, baseline = self.at(x, y + (0.95 + raised) * size / 72)
            self.figure.text(
                left,
                baseline,
                run.text,
                size=size * SCALE * shrink * NARROWER,
                color=color,
                family="DejaVu Sans Mono" if mono else "DejaVu Sans",
                weight="bold" if run.bold else "normal",
                va="baseline",
                parse_math=False,
            )
            x += text_width((run,), size)

    def rectangle(self, frame: Frame, *, edge: str = "none", face: str = "none") -> None:
        left, bottom = self.at(frame.left, frame.top + frame.height)
        width, height = SCALE * frame.width / PAGE[0], SCALE * frame.height / PAGE[1]
        self.figure.add_artist(
            Rectangle((left, bottom), width, height, ec=edge, fc=face, transform=self.figure.transFigure)
        )

    def notes(self, slide: Slide) -> None:
        """The speaker's notes, below the slide."""
        y = 1.0 - (self.top + SCALE * SLIDE[1] + 0.12) / PAGE[1]
        for paragraph in notes(slide).split("\n\n"):
            lines = textwrap.wrap(paragraph, NOTES_WIDTH)
            text = self.figure.text(LEFT / PAGE[0], y, "\n".join(lines), size=NOTES_SIZE, va="top", color="0.15")
            text.set(linespacing=LINE, parse_math=False)
            y -= (len(lines) * LINE + 0.5) * NOTES_SIZE / 72 / PAGE[1]


def _title(page: _Page, slide: Slide) -> None:
    page.text((Run(slide.title, bold=True),), 0.9, 2.6, 40)
    for element in slide.elements:
        assert isinstance(element, Text)
        page.text(element.paragraphs[0], 0.9, 3.6, 26)


def _draw(page: _Page, box: Box, figures: Path) -> None:
    element, frame = box.element, box.frame
    if isinstance(element, Text):
        _draw_text(page, element, box)
    elif isinstance(element, Code):
        page.rectangle(frame, face="0.95")
        for k, line in enumerate(element.lines):
            page.text((Run(line),), frame.left + 0.15, frame.top + 0.1 + k * LINE * box.size / 72, box.size, mono=True)
    elif isinstance(element, str):
        x, y = page.at(frame.left + frame.width / 2, frame.top + frame.height / 2)
        size = box.size * SCALE
        page.figure.text(x, y, displayed(element), size=size, ha="center", va="center", math_fontfamily="stix")
    elif isinstance(element, Table):
        _draw_table(page, element, box)
    elif isinstance(element, Picture):
        _draw_picture(page, frame, figures / f"{element.figure}.png")


def _draw_text(page: _Page, element: Text, box: Box) -> None:
    indent = BULLET if element.bullets else 0.0
    y = box.frame.top + 0.05
    for paragraph in element.paragraphs:
        if element.bullets:
            page.text((Run("•"),), box.frame.left + 0.1, y, box.size)
        for line in wrap(paragraph, box.size, box.frame.width - indent - 0.2):
            page.text(tuple(line), box.frame.left + 0.1 + indent, y, box.size)
            y += LINE * box.size / 72
        y += 0.4 * box.size / 72


def _draw_table(page: _Page, element: Table, box: Box) -> None:
    widths, height = column_widths(element, box.size), row_height(box.size)
    for i, cells in enumerate(element.rows):
        x, y = box.frame.left, box.frame.top + i * height
        page.rectangle(Frame(x, y, sum(widths), height), face="#0072B2" if i == 0 else "0.97" if i % 2 else "0.92")
        look = "white" if i == 0 else INK
        for cell, width in zip(cells, widths, strict=True):
            page.text(cell, x + 0.1, y + 0.35 * box.size / 72, box.size, color=look)
            x += width


def _draw_picture(page: _Page, frame: Frame, png: Path) -> None:
    image = matplotlib.image.imread(png)
    height, width = image.shape[:2]
    scale = min(frame.width / width, frame.height / height)
    w, h = width * scale, height * scale
    left, bottom = page.at(frame.left + (frame.width - w) / 2, frame.top + (frame.height + h) / 2)
    ax: Any = page.figure.add_axes((left, bottom, SCALE * w / PAGE[0], SCALE * h / PAGE[1]))
    ax.imshow(image, aspect="auto", interpolation="lanczos")
    ax.set_axis_off()
