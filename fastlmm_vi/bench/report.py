"""A run, and the comparison of two, as text."""

from . import machine
from .change import Change, changes, differences, obstacles
from .record import Record, Row

WIDTH = 34


def table(record: Record) -> str:
    """Return the machine and, question by question, the cases side by side."""
    rows = list(record.rows.values())
    sizes = rows[0].info
    lines = [machine.text(dict(record.machine))]
    threads = f"{sizes['jobs']} thread{'s' * (sizes['jobs'] > 1)}"
    lines += [f"n = {sizes['n']}, p = {sizes['p']}, c = {sizes['c']}, {threads}, kernels compiled before"]
    for question in dict.fromkeys(row.question for row in rows):
        lines += ["", f"{question:<{WIDTH}}{'median ms':>12}{'min ms':>12}{'ratio':>9}  {'yardstick':<12}{'error':>9}"]
        lines += [_line(record, row) for row in rows if row.question == question]
    lines += [
        "",
        "ratio: fastest round over the yardstick's, in this run. error: relative, of σ²_β (sweeps: of E[β]) at the optimum",
        "of the same criterion. Times are for one sweep and one read where a run has several.",
    ]
    return "\n".join(lines)


def _line(record: Record, row: Row) -> str:
    ratio, error, version = record.ratio(row.name), row.info["error"], row.info["package_version"]
    return (
        f"  {row.name:<{WIDTH - 2}}{1e3 * row.seconds('median'):>12.3f}{1e3 * row.seconds():>12.3f}"
        + (f"{ratio:>9.3f}  {row.info['yardstick']:<12}" if ratio is not None else " " * 23)
        + (f"{error:>9.1e}" if error is not None else " " * 9)
        + (f"  {row.info['package']} {version}" if version else "")
        + ("  (one round)" if row.stats["rounds"] == 1 else "")
    ).rstrip()


def against(then: Record, now: Record) -> str:
    """Return what changed between two runs: ratios only, judged where they can be compared."""
    found, blocked = changes(then, now), obstacles(then, now)
    lines = [f"{'Ratio to the yardstick':<{WIDTH}}{'then':>9}{'now':>9}{'change':>9}{'noise':>9}"]
    lines += [_change(change, judged=not blocked) for change in found]
    lines += ["", _conclusion(found, blocked)]
    lines += [f"Also different: {text}" for text in differences(then, now)]
    for title, one, other in (("Only then", then, now), ("Only now", now, then)):
        names = [name for name in one.rows if name not in other.rows]
        lines += [f"{title}: {', '.join(names)}"] if names else []
    return "\n".join(lines)


def _change(change: Change, *, judged: bool) -> str:
    line = (
        f"  {change.name:<{WIDTH - 2}}{change.then:>9.3f}{change.now:>9.3f}{change.relative:>+9.1%}{change.noise:>9.1%}"
    )
    return f"{line}  {change.verdict.upper() if judged else ''}".rstrip()


def _conclusion(found: list[Change], blocked: list[str]) -> str:
    if blocked:
        return f"Not comparable, and not judged: {'; '.join(blocked)}."
    parts = []
    for verdict in ("slower", "faster"):
        names = [change.name for change in found if change.verdict == verdict]
        parts += [f"{len(names)} {verdict} ({', '.join(names)})"] if names else []
    beyond = ", ".join(parts) or "nothing"
    return (
        f"Beyond the noise: {beyond}. Noise: how far the fastest quarter of the rounds spreads (case and\n"
        "yardstick, then and now), at least 5 %; a single round counts as 30 %."
    )
