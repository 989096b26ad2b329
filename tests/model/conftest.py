"""The tests of this directory call functions of data: no threads, processes, sockets, files or interpreter shutdown.

The standard library that they use (json, re, dataclasses, enum) is tested on the oldest and the newest Python.
"""

from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent


@pytest.hookimpl(tryfirst=True)  # before -m selects by marker
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks every test of this directory."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.pure)
