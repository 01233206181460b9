"""Whether what lies in a folder is what the lessons give: sources exactly, numbers to a tolerance."""

import io
import json
import math
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
from lxml import etree

from .build import Folder
from .lesson import lessons

RELATIVE, ABSOLUTE = 2e-3, 1e-6  # of numbers: optimisers stop within 1e-6, EM at a multiple of ten iterations
NUMBER = re.compile(r"[-+−]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
DRAWING = "{http://schemas.openxmlformats.org/drawingml/2006/main}"
MATH = "{http://schemas.openxmlformats.org/officeDocument/2006/math}"
CHART = "{http://schemas.openxmlformats.org/drawingml/2006/chart}"
SLIDES = "{http://schemas.openxmlformats.org/presentationml/2006/main}"


def differences(found: Folder, built: Folder) -> Iterator[str]:
    """Yield a line for everything in `found` that differs from `built`, which was made from scratch."""
    for path in (found.estimates, found.deck, found.handout):
        if not path.exists():
            yield f"{path.relative_to(found.root)}: missing"
            return
    if not same(_json(found.estimates), _json(built.estimates)):
        yield "estimates.json: other numbers"
    for lesson in lessons():
        for one, other in zip(found.notebooks(lesson), built.notebooks(lesson), strict=True):
            yield from _notebook_differences(one, other)
    names = {path.relative_to(folder.slides) for folder in (found, built) for path in folder.figures.glob("*/*.csv")}
    for name in sorted(names):
        pair = [folder.slides / name for folder in (found, built)]
        if not all(path.exists() for path in pair):
            yield f"slides/{name}: missing, or no lesson draws it"
        elif not same(*(path.read_text(encoding="utf-8") for path in pair)):
            yield f"slides/{name}: other numbers"
    yield from _deck_differences(found.deck, built.deck)


def same(a: Any, b: Any) -> bool:
    """Whether two pieces of text or JSON agree: words exactly, numbers to the tolerance, seconds not at all."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a if not key.endswith("seconds"))
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, str) and isinstance(b, str):
        if a == b:
            return True
        numbers = [[float(number.replace("−", "-")) for number in NUMBER.findall(text)] for text in (a, b)]
        return _words(a) == _words(b) and len(numbers[0]) == len(numbers[1]) and all(map(_close, *numbers))
    if isinstance(a, (int, float)) and isinstance(b, (int, float)) and not isinstance(a, bool):
        return _close(a, b)
    return bool(a == b)


def _words(text: str) -> str:
    """Text without numbers, and without the spaces whose count follows their widths."""
    return " ".join(NUMBER.sub("#", text).split())


def _close(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=RELATIVE, abs_tol=ABSOLUTE) or (math.isnan(a) and math.isnan(b))


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _notebook_differences(found: Path, built: Path) -> Iterator[str]:
    name = f"{found.parent.name}/{found.name}"
    if not found.exists():
        yield f"{name}: missing"
        return
    one, other = (nbformat.read(path, as_version=4) for path in (found, built))
    if [_header(cell) for cell in one.cells] != [_header(cell) for cell in other.cells]:
        yield f"{name}: its cells are not those of the source"
        return
    for cell, wanted in zip(one.cells, other.cells, strict=True):
        exact = cell.cell_type == "code"
        if not (cell.source == wanted.source if exact else same(cell.source, wanted.source)):
            yield f"{name}, cell {cell.id}: other source"
        elif exact and not same(_outputs(cell), _outputs(wanted)):
            yield f"{name}, cell {cell.id}: other output"


def _header(cell: nbformat.NotebookNode) -> tuple[str, str, str]:
    return cell.id, cell.cell_type, json.dumps(cell.metadata, sort_keys=True)


def _outputs(cell: nbformat.NotebookNode) -> list[Any]:
    """What a cell printed and showed, but for pictures' bytes and for seconds."""
    if cell.metadata.get("fastlmm_vi", {}).get("timing"):
        return [output.output_type for output in cell.outputs]
    shown: list[Any] = []
    for output in cell.outputs:
        data = output.get("data", {})
        shown.append([output.output_type, output.get("text", ""), data.get("text/plain", ""), sorted(data)])
    return shown


def _deck_differences(found: Path, built: Path) -> Iterator[str]:
    one, other = deck_pages(found), deck_pages(built)
    if len(one) != len(other):
        yield f"slides/{found.name}: {len(one)} slides, the lessons have {len(other)}"
        return
    for number, (page, wanted) in enumerate(zip(one, other, strict=True), start=1):
        if not same(page, wanted):
            yield f"slides/{found.name}, slide {number}: other content"


def deck_pages(path: Path) -> list[dict[str, Any]]:
    """Return per slide its text, formulas, alt texts, notes and charts, in the order of the deck; no geometry."""
    with zipfile.ZipFile(io.BytesIO(path.read_bytes())) as archive:
        names = [name for name in archive.namelist() if re.fullmatch(r"ppt/slides/slide\d+\.xml", name)]
        names.sort(key=lambda name: int(re.sub(r"\D", "", name)))
        return [_page(archive, name) for name in names]


def _page(archive: zipfile.ZipFile, name: str) -> dict[str, Any]:
    tree = etree.fromstring(archive.read(name))
    related: dict[str, Any] = {"notes": "", "charts": []}
    links = etree.fromstring(archive.read(name.replace("slides/", "slides/_rels/") + ".rels"))
    for target in (link.get("Target").replace("../", "ppt/") for link in links):
        if "notesSlide" in target:
            related["notes"] = _text(etree.fromstring(archive.read(target)), f"{DRAWING}t")
        elif "charts/" in target:
            related["charts"].append(_text(etree.fromstring(archive.read(target)), f"{CHART}v"))
    return {
        "text": _text(tree, f"{DRAWING}t"),
        "formulas": [_text(math, f"{MATH}t") for math in tree.iter(f"{MATH}oMathPara")],
        "alt": [shape.get("descr", "") for shape in tree.iter(f"{SLIDES}cNvPr")],
        **related,
    }


def _text(tree: etree._Element, tag: str) -> str:
    return "\n".join(node.text or "" for node in tree.iter(tag))
