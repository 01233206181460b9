"""Tables of a stored run of grouped models for Markdown documents."""

from . import grouped_report
from .grouped_record import GroupedRecord
from .markers import Markers

MARKERS = Markers("grouped")


def rendered(record: GroupedRecord) -> dict[str, str]:
    """Return everything that a document may ask for by name: the tables, and the machine."""
    lines = grouped_report.conditions(record.timed).replace("\n", "\\\n")
    return {"machine": lines} | {name: table.markdown() for name, table in grouped_report.tables(record).items()}
