"""Texts in Markdown documents between markers, so that no figure in them is typed by hand."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ..errors import DataError


@dataclass(frozen=True)
class Markers:
    r"""Pairs of comments around what a benchmark writes into documents.

    Parameters
    ----------
    benchmark : str
        The word before "benchmark" in the comments.

    Examples
    --------
    >>> from fastlmm_vi.bench.markers import Markers
    >>> page = "<!-- grouped benchmark: fits -->\nold\n<!-- end of grouped benchmark -->"
    >>> print(Markers("grouped").insert(page, {"fits": "new"}))
    <!-- grouped benchmark: fits -->
    new
    <!-- end of grouped benchmark -->
    """

    benchmark: str

    @cached_property
    def _place(self) -> re.Pattern[str]:
        begin, end = (
            f"<!-- {self.benchmark} benchmark: (?P<name>[a-z ]+) -->",
            f"<!-- end of {self.benchmark} benchmark -->",
        )
        return re.compile(rf"({begin}\n).*?({end})", re.DOTALL)

    def names(self, document: str) -> list[str]:
        """Return the names in the markers of a document."""
        return [match["name"] for match in self._place.finditer(document)]

    def insert(self, document: str, texts: Mapping[str, str]) -> str:
        """Return the document with the texts between their markers.

        Raises
        ------
        DataError
            If a marker asks for what is not there.
        """
        missing = [name for name in self.names(document) if name not in texts]
        if missing:
            raise DataError(f"There is no {', '.join(missing)} in this run: it has {', '.join(texts)}.")
        return self._place.sub(lambda match: f"{match[1]}{texts[match['name']]}\n{match[3]}", document)

    def write(self, texts: Mapping[str, str], documents: Iterable[Path]) -> None:
        """Write the texts into documents."""
        for path in documents:
            path.write_text(self.insert(path.read_text(encoding="utf-8"), texts), encoding="utf-8")
