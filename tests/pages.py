"""What the tests of the derivations share: names in a page are those of code that exists."""

import importlib
from functools import cached_property

import pytest


def check_exists(path):
    """Fail unless the dotted path leads to a function, method or property."""
    parts = path.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for part in parts[cut:]:
            found = getattr(found, part)
        assert callable(found) or isinstance(found, (property, cached_property))
        return
    pytest.fail(f"{path} does not exist")
