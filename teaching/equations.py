"""LaTeX as Office Math, which stays editable, and as a picture, for programs that cannot show it."""

import copy
import io
import re
import tempfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

import pypandoc
from lxml import etree
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from .layout import displayed, formula_size

A = "http://schemas.openxmlformats.org/drawingml/2006/main"
M = "http://schemas.openxmlformats.org/officeDocument/2006/math"


class EquationError(ValueError):
    """LaTeX that pandoc does not turn into Office Math."""


def office_math(formulas: Iterable[str]) -> dict[str, etree._Element]:
    """Return the `m:oMathPara` of every formula; one run of pandoc, a slide for each."""
    distinct = list(dict.fromkeys(formulas))
    text = "\n\n".join(f"## {k}\n\n$${_for_pandoc(latex)}$$" for k, latex in enumerate(distinct))
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "equations.pptx"
        pypandoc.convert_text(text, "pptx", format="markdown+tex_math_dollars", outputfile=str(target))
        with zipfile.ZipFile(target) as archive:
            pages = [archive.read(f"ppt/slides/slide{k + 1}.xml") for k in range(len(distinct))]
    found = {}
    for latex, page in zip(distinct, pages, strict=True):
        maths = etree.fromstring(page).findall(f".//{{{M}}}oMathPara")
        if len(maths) != 1:
            raise EquationError(f"pandoc does not read the formula {latex!r}.")
        found[latex] = _upright_words(maths[0])
    return found


def _for_pandoc(latex: str) -> str:
    r"""Words as operators, kept in one piece; | as \mid; a raised (…) as \left(…\right), whose pair LibreOffice needs."""
    latex = latex.replace(r"\mathrm{", r"\operatorname{")
    latex = latex.replace("^*", r"^\star")  # a raised * is an error to it
    latex = re.sub(r"(?<!\\left)(?<!\\right)(?<!\\)\|", r"\\mid ", latex)  # LibreOffice reads | as "or"
    opened: list[int] = []
    marks: dict[int, str] = {}
    for at, letter in enumerate(latex):
        if letter == "(":
            opened.append(at)
        elif letter == ")":
            start = opened.pop()
            if latex[at + 1 : at + 2] in ("^", "_") and not latex[:start].endswith("\\left"):
                marks |= {start: "\\left(", at: "\\right)"}
    return "".join(marks.get(at, letter) for at, letter in enumerate(latex))


def _upright_words(math: etree._Element) -> etree._Element:
    """Mark words such as KL and tr as text, which every program sets upright and unspaced."""
    for run in math.iter(f"{{{M}}}r"):
        look, text = run.find(f"{{{M}}}rPr"), run.findtext(f"{{{M}}}t") or ""
        if look is not None and len(text) > 1 and text.isalpha():
            for old in list(look):
                look.remove(old)
            etree.SubElement(look, f"{{{M}}}nor")
    return math


def sized(math: etree._Element, size: int) -> etree._Element:
    """Return a copy whose every run is set in Cambria Math at `size` points."""
    math = copy.deepcopy(math)
    for run in math.iter(f"{{{M}}}r"):
        look = etree.Element(f"{{{A}}}rPr", lang="en-US", sz=str(100 * size))
        etree.SubElement(look, f"{{{A}}}latin", typeface="Cambria Math")
        run.insert(list(run).index(run.find(f"{{{M}}}t")), look)
    return math


def picture(latex: str, size: int) -> bytes:
    """Return the formula as a PNG that fills its box."""
    figure = Figure(figsize=formula_size(latex, size))
    FigureCanvasAgg(figure)
    figure.text(0.5, 0.5, displayed(latex), size=size, ha="center", va="center", math_fontfamily="stix")
    file = io.BytesIO()
    figure.savefig(file, dpi=200, transparent=True)
    return file.getvalue()
