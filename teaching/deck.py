"""The deck: PowerPoint with editable equations, native charts and tables, notes and alt texts on every slide."""

import io
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from lxml import etree
from pptx import Presentation
from pptx.chart.data import XyChartData
from pptx.dml.color import RGBColor
from pptx.enum.chart import XL_CHART_TYPE, XL_LEGEND_POSITION, XL_MARKER_STYLE
from pptx.enum.shapes import PP_PLACEHOLDER
from pptx.enum.text import MSO_ANCHOR, PP_ALIGN
from pptx.oxml.ns import qn
from pptx.util import Emu, Inches, Pt

from . import artists, equations
from .layout import SMALLEST, Box, Frame, LayoutError, column_widths, place, row_height
from .slides import Code, Equations, Picture, Run, Slide, Table, Text

INK = RGBColor(0x1B, 0x2A, 0x41)
ACCENT = RGBColor(0x00, 0x72, 0xB2)
QUIET = RGBColor(0x6B, 0x72, 0x80)
COLORS = [RGBColor.from_string(c) for c in ("0072B2", "D55E00", "009E73", "CC79A7", "E69F00", "56B4E9")]
GREEK = {"sigma": "σ", "beta": "β", "gamma": "γ", "omega": "ω", "lambda": "λ", "theta": "θ", "mu": "μ", "tau": "τ"}
LETTERS = {**{f"\\{name}": letter for name, letter in GREEK.items()}, "^2": "²", "_β": "ᵦ", "_e": "ₑ"}
OPENING = {PP_PLACEHOLDER.CENTER_TITLE: (2.4, 1.2), PP_PLACEHOLDER.SUBTITLE: (3.7, 1.0)}  # top and height, inches
CHART_POINTS = 150  # at most, per series of a native chart
TEMPLATE_SMALLEST = 12  # text size down to which a lecturer's own, smaller template may force a slide
MC = "http://schemas.openxmlformats.org/markup-compatibility/2006"
A14 = "http://schemas.microsoft.com/office/drawing/2010/main"


def write(slides: tuple[Slide, ...], figures: Path, path: Path, template: Path | None = None) -> list[str]:
    """Write the deck and return the titles of slides whose text the template forced below 18 points.

    Parameters
    ----------
    slides : tuple of Slide
    figures : Path
        Folder with the figures' pictures and source data, `LESSON/FIGURE.png` and `.csv`.
    path : Path
        The deck to write.
    template : Path, optional
        A .pptx or .potx whose layouts are used; its own slides are left out.
    """
    deck = _wide_default() if template is None else _opened(template)
    title_layout, body_layout = _layouts(deck)
    lines = [e for slide in slides for e in slide.elements if isinstance(e, Equations)]
    maths = equations.office_math(formula for line in lines for formula in line.formulas)
    small: list[str] = []
    for number, slide in enumerate(slides, start=1):
        page = deck.slides.add_slide(title_layout if slide.is_title else body_layout)
        page.shapes.title.text = slide.title
        if slide.is_title:
            _subtitle(page, slide)
        else:
            for box in _boxes(deck, body_layout, slide, template, small):
                _add(page, box, figures / slide.lesson.name, maths)
            _footer(page, slide, number, deck)
        page.notes_slide.notes_text_frame.text = notes(slide)
    deck.core_properties.title = slides[0].title
    deck.core_properties.author = deck.core_properties.last_modified_by = "fastlmm_vi"
    deck.core_properties.comments = ""
    path.parent.mkdir(parents=True, exist_ok=True)
    deck.save(path)
    return small


def where(slide: Slide) -> str:
    """Return the foot of a slide: its part of the deck and the lesson it belongs to."""
    return f"{slide.part.capitalize()} · lesson {slide.lesson.number}: {slide.lesson.title}"


def notes(slide: Slide) -> str:
    """Return the speaker notes: what to say, a question with its answer, minutes, sources of numbers, the lesson."""
    lines = [f"{name}: {text}" for name, text in slide.notes.items()]
    if slide.entries:
        lines.append(f"Numbers: estimates.json, {', '.join(slide.entries)}")
    source = f"teaching/lessons/{slide.lesson.path.name}"
    return "\n\n".join([*lines, f"Lesson {slide.lesson.number}: {slide.lesson.title} ({source})"])


def _boxes(deck: Any, layout: Any, slide: Slide, template: Path | None, small: list[str]) -> list[Box]:
    frame = _body(deck, layout)
    try:
        return place(slide, frame)
    except LayoutError:
        if template is None:
            raise
    small.append(slide.title)
    return place(slide, frame, TEMPLATE_SMALLEST)


def _wide_default() -> Any:
    """Return the library's own 16:9 look, made of the plain default template."""
    deck = Presentation()
    stretch = Inches(13.333) / deck.slide_width
    deck.slide_width, deck.slide_height = Inches(13.333), Inches(7.5)
    for part in [deck.slide_master, *list(deck.slide_layouts)]:
        for shape in list(part.placeholders):
            if shape.element.spPr.find(qn("a:xfrm")) is not None:
                shape.left, shape.width = Emu(round(shape.left * stretch)), Emu(round(shape.width * stretch))
    title = next(s for s in deck.slide_master.placeholders if s.placeholder_format.type == PP_PLACEHOLDER.TITLE)
    title.left, title.top, title.width, title.height = Inches(0.6), Inches(0.35), Inches(12.13), Inches(0.8)
    style = deck.slide_master.element.find(qn("p:txStyles")).find(qn("p:titleStyle")).find(qn("a:lvl1pPr"))
    style.set("algn", "l")
    look = style.find(qn("a:defRPr"))
    look.set("sz", "3200")
    look.set("b", "1")
    fill = look.find(qn("a:solidFill"))
    fill.clear()
    etree.SubElement(fill, qn("a:srgbClr"), val=str(INK))
    for shape in list(deck.slide_layouts[0].placeholders):
        if shape.placeholder_format.type in OPENING:
            top, height = OPENING[shape.placeholder_format.type]
            shape.left, shape.top, shape.width, shape.height = (Inches(v) for v in (0.9, top, 11.5, height))
            if shape.placeholder_format.type == PP_PLACEHOLDER.SUBTITLE:
                shape.element.find(".//" + qn("a:lvl1pPr")).set("algn", "l")
    return deck


def _opened(template: Path) -> Any:
    """Open a .pptx or .potx and take its slides out, leaving its layouts."""
    content = io.BytesIO()
    with zipfile.ZipFile(template) as source, zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            part = source.read(name)
            if name == "[Content_Types].xml":
                part = part.replace(b"presentationml.template.main+xml", b"presentationml.presentation.main+xml")
            target.writestr(name, part)
    deck = Presentation(content)
    ids = deck.slides._sldIdLst
    for entry in list(ids):
        deck.part.drop_rel(entry.get(qn("r:id")))
        ids.remove(entry)
    return deck


def _layouts(deck: Any) -> tuple[Any, Any]:
    """The layout for the first slide, and the one with a title and no other placeholder to fill."""
    passive = {PP_PLACEHOLDER.DATE, PP_PLACEHOLDER.FOOTER, PP_PLACEHOLDER.SLIDE_NUMBER}

    def kinds(layout: Any) -> set[Any]:
        return {shape.placeholder_format.type for shape in layout.placeholders} - passive

    titled = [layout for layout in deck.slide_layouts if PP_PLACEHOLDER.TITLE in kinds(layout)]
    if not titled:
        raise LayoutError("The template has no layout with a title: add one with a title alone.")
    opening = [layout for layout in deck.slide_layouts if PP_PLACEHOLDER.CENTER_TITLE in kinds(layout)]
    body = min(titled, key=lambda layout: len(kinds(layout)))
    return (opening or [body])[0], body


def _body(deck: Any, layout: Any) -> Frame:
    """The room below the layout's title."""
    title = next(s for s in layout.placeholders if s.placeholder_format.type == PP_PLACEHOLDER.TITLE)
    left, top, width = (Emu(v).inches for v in (title.left, title.top + title.height, title.width))
    return Frame(left, top + 0.15, width, Emu(deck.slide_height).inches - 0.7 - top - 0.15)


def _subtitle(page: Any, slide: Slide) -> None:
    text = " ".join(run.text for e in slide.elements if isinstance(e, Text) for p in e.paragraphs for run in p)
    others = [s for s in page.placeholders if s.placeholder_format.type == PP_PLACEHOLDER.SUBTITLE]
    if others:
        others[0].text = text


def _footer(page: Any, slide: Slide, number: int, deck: Any) -> None:
    """The lesson on the left, the slide's number on the right."""
    width, height = Emu(deck.slide_width).inches, Emu(deck.slide_height).inches
    left = _textbox(page, Frame(0.6, height - 0.58, width - 2.2, 0.45)).text_frame.paragraphs[0]
    _write_runs(left, (Run(where(slide)),), SMALLEST, QUIET)
    right = _textbox(page, Frame(width - 1.6, height - 0.58, 1.0, 0.45)).text_frame.paragraphs[0]
    right.alignment = PP_ALIGN.RIGHT
    _write_runs(right, (Run(str(number)),), SMALLEST, QUIET)


def _add(page: Any, box: Box, figures: Path, maths: Mapping[str, Any]) -> None:
    element = box.element
    assert not isinstance(element, Equations)
    if isinstance(element, Text):
        _add_text(page, element, box)
    elif isinstance(element, Code):
        _add_code(page, element, box)
    elif isinstance(element, Table):
        _add_table(page, element, box)
    elif isinstance(element, str):
        _add_formula(page, element, box, maths[element])
    elif element.kind == "chart":
        _add_chart(page, element, box, figures / f"{element.figure}.csv")
    else:
        _add_picture(page, element, box, figures / f"{element.figure}.png")


def _textbox(page: Any, frame: Frame) -> Any:
    shape = page.shapes.add_textbox(*(Inches(v) for v in (frame.left, frame.top, frame.width, frame.height)))
    shape.text_frame.word_wrap = True
    return shape


def _write_runs(paragraph: Any, runs: tuple[Run, ...], size: int, color: RGBColor = INK) -> None:
    for run in runs:
        piece = paragraph.add_run()
        piece.text = run.text
        piece.font.size, piece.font.bold, piece.font.color.rgb = Pt(size), run.bold or None, color
        if run.shift:
            piece.font._element.set("baseline", "30000" if run.shift > 0 else "-25000")


def _add_text(page: Any, element: Text, box: Box) -> None:
    frame = _textbox(page, box.frame).text_frame
    for k, runs in enumerate(element.paragraphs):
        paragraph = frame.paragraphs[0] if k == 0 else frame.add_paragraph()
        paragraph.space_after = Pt(0.4 * box.size)
        if element.bullets:
            properties = paragraph._p.get_or_add_pPr()
            properties.set("marL", str(Inches(0.3)))
            properties.set("indent", str(-Inches(0.3)))
            etree.SubElement(properties, qn("a:buFont"), typeface="Arial")
            etree.SubElement(properties, qn("a:buChar"), char="•")
        _write_runs(paragraph, runs, box.size)


def _add_code(page: Any, element: Code, box: Box) -> None:
    shape = _textbox(page, box.frame)
    shape.fill.solid()
    shape.fill.fore_color.rgb = RGBColor(0xF3, 0xF4, 0xF6)
    for k, line in enumerate(element.lines):
        paragraph = shape.text_frame.paragraphs[0] if k == 0 else shape.text_frame.add_paragraph()
        _write_runs(paragraph, (Run(line or " "),), box.size)
        for run in paragraph.runs:
            run.font.name = "Consolas"


def _add_table(page: Any, element: Table, box: Box) -> None:
    rows, columns = len(element.rows), len(element.rows[0])
    widths = column_widths(element, box.size)
    spare = max(0.0, min(box.frame.width, 1.6 * sum(widths)) - sum(widths)) / columns
    size = (Inches(v) for v in (box.frame.left, box.frame.top, sum(widths) + spare * columns, box.frame.height))
    shape = page.shapes.add_table(rows, columns, *size)
    lines = ("; ".join("".join(run.text for run in cell) for cell in row) for row in element.rows)
    _describe(shape, "Table, row by row: " + " / ".join(lines))
    for column, width in zip(shape.table.columns, widths, strict=True):
        column.width = Inches(width + spare)
    for i, cells in enumerate(element.rows):
        shape.table.rows[i].height = Inches(row_height(box.size))
        for j, runs in enumerate(cells):
            cell = shape.table.cell(i, j)
            cell.vertical_anchor = MSO_ANCHOR.MIDDLE
            cell.margin_top = cell.margin_bottom = Inches(0.03)
            paragraph = cell.text_frame.paragraphs[0]
            paragraph.alignment = PP_ALIGN.LEFT if j == 0 else PP_ALIGN.RIGHT
            look = RGBColor(0xFF, 0xFF, 0xFF) if i == 0 else INK
            _write_runs(paragraph, runs, box.size, look)


def _add_picture(page: Any, element: Picture, box: Box, png: Path) -> None:
    shape = page.shapes.add_picture(str(png), 0, 0)
    scale = min(Inches(box.frame.width) / shape.width, Inches(box.frame.height) / shape.height)
    shape.width, shape.height = Emu(round(shape.width * scale)), Emu(round(shape.height * scale))
    shape.left = Inches(box.frame.left) + (Inches(box.frame.width) - shape.width) // 2
    shape.top = Inches(box.frame.top) + (Inches(box.frame.height) - shape.height) // 2
    _describe(shape, element.alt)


def _add_chart(page: Any, element: Picture, box: Box, source: Path) -> None:
    """A native XY chart of the figure's lines; its numbers open in the office program's own table."""
    axes, table = artists.read(source)
    if set(table["panel"]) != {1}:
        raise LayoutError(f"{source}: a native chart shows one panel; use figure: instead of chart:.")
    content = XyChartData()
    lines = table[table["kind"].isin(["line", "rule"]) & (table["series"] != "")].groupby("series", sort=False)
    x = table.loc[table["kind"] == "line", "x"]
    ends = [float(x.min()), float(x.max())]
    drawings = {_plain(str(name)): _points(rows, ends) for name, rows in lines}
    for name, points in drawings.items():
        series = content.add_series(name)
        for x, y in points:
            series.add_data_point(x, y)
    frame = (Inches(v) for v in (box.frame.left, box.frame.top, box.frame.width, box.frame.height))
    shape = page.shapes.add_chart(XL_CHART_TYPE.XY_SCATTER_LINES_NO_MARKERS, *frame, content)
    _describe(shape, element.alt)
    chart = shape.chart
    chart.font.size, chart.font.color.rgb = Pt(SMALLEST), INK
    chart.has_title = False
    chart.has_legend = len(content) > 1
    if chart.has_legend:
        chart.legend.position, chart.legend.include_in_layout = XL_LEGEND_POSITION.BOTTOM, False
        chart.legend.font.size = Pt(SMALLEST)
    for k, series in enumerate(chart.plots[0].series):
        series.format.line.color.rgb, series.format.line.width = COLORS[k % len(COLORS)], Pt(2.5)
        series.marker.style, series.smooth = XL_MARKER_STYLE.NONE, False
    drawn = np.array([point for points in drawings.values() for point in points], dtype=float)
    for k, (letter, axis) in enumerate((("x", chart.category_axis), ("y", chart.value_axis))):
        _dress(axis, axes[1, letter], drawn[:, k])


def _dress(axis: Any, seen: artists.Axis, values: Any) -> None:
    """Title, tick labels and limits: powers of ten around the values, or the figure's own limits rounded outwards."""
    axis.has_major_gridlines = False
    axis.tick_labels.font.size = Pt(SMALLEST)
    axis.has_title = bool(seen.label)
    if seen.label:
        axis.axis_title.text_frame.text = _plain(seen.label)
        font = axis.axis_title.text_frame.paragraphs[0].runs[0].font
        font.size, font.bold = Pt(SMALLEST), False
    if seen.scale == "log":
        low, high = 10.0 ** np.floor(np.log10(values.min())), 10.0 ** np.ceil(np.log10(values.max()))
        axis._element.find(qn("c:scaling")).insert(0, etree.Element(qn("c:logBase"), val="10"))
    else:
        step = _step(seen.high - seen.low)
        low, high = step * np.floor(seen.low / step), step * np.ceil(seen.high / step)
        axis.major_unit = step
    axis.minimum_scale, axis.maximum_scale = float(low), float(high)
    axis._element.find(qn("c:crosses")).set("val", "min")
    axis.tick_labels.number_format = "0E+0" if seen.scale == "log" and (high > 1e5 or low < 1e-3) else "General"
    axis.tick_labels.number_format_is_linked = False


def _step(span: float) -> float:
    """A round distance between tick marks, about five of them."""
    power = 10.0 ** np.floor(np.log10(span / 5.0))
    return float(power * min((1.0, 2.0, 5.0, 10.0), key=lambda m: abs(np.log(span / 5.0 / (m * power)))))


def _points(rows: Any, ends: list[float]) -> Any:
    """The points of a series, thinned; a rule runs from end to end of the lines."""
    if rows["kind"].iloc[0] == "rule":
        return np.column_stack([ends, rows["y"].to_numpy()[:2]])
    x, y = rows[["x", "y"]].dropna().to_numpy(dtype=float).T
    return np.column_stack(artists.thinned(x, y, CHART_POINTS))


def _plain(label: str) -> str:
    """An axis label without mathtext."""
    for latex, letter in LETTERS.items():
        label = label.replace(latex, letter)
    return re.sub(r"[${}\\]", "", label)


def _describe(shape: Any, alt: str) -> None:
    shape._element.xpath(".//p:cNvPr")[0].set("descr", alt)


def _add_formula(page: Any, latex: str, box: Box, math: etree._Element) -> None:
    """A text box with nothing but the formula; where Office Math is unknown, its picture. Both carry the LaTeX."""
    shape = _textbox(page, box.frame)
    shape.name = f"Formula {shape.shape_id}"
    text = shape.text_frame
    text.word_wrap, text.vertical_anchor = False, MSO_ANCHOR.MIDDLE
    text.margin_left = text.margin_right = text.margin_top = text.margin_bottom = 0
    paragraph = text.paragraphs[0]._p
    holder = etree.SubElement(paragraph, f"{{{A14}}}m", nsmap={"a14": A14})
    holder.append(equations.sized(math, box.size))
    etree.SubElement(paragraph, qn("a:endParaRPr"), lang="en-US", sz=str(100 * box.size))
    frame = (Inches(v) for v in (box.frame.left, box.frame.top, box.frame.width, box.frame.height))
    fallback = page.shapes.add_picture(io.BytesIO(equations.picture(latex, box.size)), *frame)

    both = etree.Element(f"{{{MC}}}AlternateContent", nsmap={"mc": MC})
    shape._element.addprevious(both)
    choice = etree.SubElement(both, f"{{{MC}}}Choice", nsmap={"a14": A14})
    choice.set("Requires", "a14")
    for parent, chosen in ((choice, shape), (etree.SubElement(both, f"{{{MC}}}Fallback"), fallback)):
        _describe(chosen, latex)
        parent.append(chosen._element)
