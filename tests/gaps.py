"""Every wrong filling of every gap of a lesson, tried in this process against the gap's check."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from teaching.lesson import Lesson


class Trial(NamedTuple):
    """One wrong filling: its gap, what is wrong with it, and what the check raised (None: it was not caught)."""

    gap: str
    why: str
    raised: BaseException | None


def trials(lesson: Lesson) -> Iterator[Trial]:
    """Run the lesson's code; at every gap try its wrong fillings and its blank first, each on a copy of the names."""
    names: dict[str, Any] = {"__name__": "__main__"}
    pending = None
    for cell in lesson.cells:
        if cell.kind != "code":
            continue
        source = _plain_python(cell.source)
        if "gap" in cell.options:
            pending, before = lesson.gaps[cell.options["gap"]], dict(names)
            source = pending.solution
        elif "check" in cell.options:
            assert pending is not None
            for why, filling in {**pending.wrong, "left blank": pending.blank}.items():
                yield Trial(pending.name, why, _raised(filling, source, dict(before)))
        exec(compile(source, f"{lesson.name}.py", "exec"), names)


def _raised(filling: str, check: str, names: dict[str, Any]) -> BaseException | None:
    try:
        exec(compile(filling, "filling", "exec"), names)
        exec(compile(check, "check", "exec"), names)
    except (AssertionError, NotImplementedError) as error:
        return error
    return None


def _plain_python(source: str) -> str:
    return "\n".join(line for line in source.splitlines() if not line.startswith("%"))
