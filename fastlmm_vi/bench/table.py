"""A table that is printed on a terminal and in Markdown alike."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Table:
    """Cells of text: the first `left` columns are names, and so is the last where `remarks`; the others are numbers.

    Examples
    --------
    >>> from fastlmm_vi.bench.table import Table
    >>> table = Table(title="Times", header=("case", "ms"), rows=(("a", "10"), ("bc", "9")), note="On one core.")
    >>> print(table.text())
    Times
      case  ms
      a     10
      bc     9
    On one core.
    >>> print(table.markdown())
    | case | ms |
    |---|---:|
    | a | 10 |
    | bc | 9 |
    <BLANKLINE>
    On one core.
    """

    title: str
    header: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    note: str = ""
    left: int = 1
    remarks: bool = False

    def text(self) -> str:
        """For a terminal."""
        widths = [max(map(len, column)) for column in zip(self.header, *self.rows, strict=True)]
        lines = [self.title]
        for row in (self.header, *self.rows):
            cells = [
                cell.ljust(width) if self._is_text(j) else cell.rjust(width)
                for j, (cell, width) in enumerate(zip(row, widths, strict=True))
            ]
            lines.append(f"  {'  '.join(cells)}".rstrip())
        return "\n".join([*lines, *([self.note] if self.note else [])])

    def markdown(self) -> str:
        """For a document; the title is left to its author."""
        rule = "|".join("---" if self._is_text(j) else "---:" for j in range(len(self.header)))
        lines = [f"| {' | '.join(self.header)} |", f"|{rule}|"]
        lines += [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in self.rows]
        return "\n".join([*lines, *(["", self.note] if self.note else [])])

    def _is_text(self, column: int) -> bool:
        return column < self.left or (self.remarks and column == len(self.header) - 1)
