"""The handout: a PDF page per slide, the slide above, the speaker's notes below."""

import textwrap
from pathlib import Path
from typing import Any

import matplotlib.image
from matplotlib.backends.backend_pdf import FigureCanvasPdf, PdfPages
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from .deck import notes
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
SCALE = 7.27 / SLIDE[0]  # of a slide on the page
LEFT, TOP = 0.5, 0.6  # of the slide on the page


def write(slides: tuple[Slide, ...], figures: Path, path: Path) -> None:
    """Write the handout; `figures` holds the pictures, `LESSON/FIGURE.png`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with PdfPages(path, metadata={"Title": slides[0].title, "Creator": "fastlmm_vi", "CreationDate": None}) as pdf:
        for number, slide in enumerate(slides, start=1):
            figure = Figure(figsize=PAGE)
            FigureCanvasPdf(figure)
            page = _Page(figure)
            page.rectangle(Frame(0, 0, *SLIDE), edge="0.6")
            if slide.is_title:
                _title(page, slide)
            else:
                page.text((Run(slide.title, bold=True),), 0.6, 0.45, 30)
                for box in place(slide, BODY):
                    _draw(page, box, figures / slide.lesson.name)
                page.text((Run(f"Lesson {slide.lesson.number} · {slide.lesson.title}"),), 0.6, 6.95, 18, color="0.4")
                page.text((Run(str(number)),), 12.4, 6.95, 18, color="0.4")
            _notes(figure, slide)
            pdf.savefig(figure)


class _Page:
    """Draws on the slide's part of an A4 page, in the slide's inches from its upper left corner."""

    def __init__(self, figure: Figure) -> None:
        self.figure = figure

    def at(self, x: float, y: float) -> tuple[float, float]:
        return (LEFT + SCALE * x) / PAGE[0], 1.0 - (TOP + SCALE * y) / PAGE[1]

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


def _notes(figure: Figure, slide: Slide) -> None:
    y = 1.0 - (TOP + SCALE * SLIDE[1] + 0.35) / PAGE[1]
    for paragraph in notes(slide).split("\n\n"):
        lines = textwrap.wrap(paragraph, 96)
        figure.text(
            LEFT / PAGE[0], y, "\n".join(lines), size=9.5, va="top", linespacing=1.35, color="0.15", parse_math=False
        )
        y -= (len(lines) * 9.5 * 1.35 + 7) / 72 / PAGE[1]
