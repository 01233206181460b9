"""Tables of a stored run in Markdown documents, between markers, so that no figure in them is typed by hand."""

import re
from collections.abc import Mapping

from ..errors import DataError
from . import grouped_report
from .grouped_record import GroupedRecord

BEGIN, END = "<!-- grouped benchmark: {name} -->", "<!-- end of grouped benchmark -->"
PLACE = re.compile(rf"({BEGIN.format(name='(?P<name>[a-z ]+)')}\n).*?({END})", re.DOTALL)


def rendered(record: GroupedRecord) -> dict[str, str]:
    """Return everything that a document may ask for by name: the tables, and the machine."""
    lines = grouped_report.conditions(record.timed).replace("\n", "\\\n")
    return {"machine": lines} | {name: table.markdown() for name, table in grouped_report.tables(record).items()}


def names(document: str) -> list[str]:
    """Return the names in the markers of a document."""
    return [match["name"] for match in PLACE.finditer(document)]


def insert(document: str, texts: Mapping[str, str]) -> str:
    r"""Return the document with the texts between their markers.

    Raises
    ------
    DataError
        If a marker asks for what is not there.

    Examples
    --------
    >>> from fastlmm_vi.bench.grouped_document import insert
    >>> page = "<!-- grouped benchmark: fits -->\nold\n<!-- end of grouped benchmark -->"
    >>> print(insert(page, {"fits": "new"}))
    <!-- grouped benchmark: fits -->
    new
    <!-- end of grouped benchmark -->
    """
    missing = [name for name in names(document) if name not in texts]
    if missing:
        raise DataError(f"There is no {', '.join(missing)} in this run: it has {', '.join(texts)}.")
    return PLACE.sub(lambda match: f"{match[1]}{texts[match['name']]}\n{match[3]}", document)
