"""The tests of ``collector-config`` check files, which are the same for every Python.

They need tools of the dependency group ``config``. An environment without these does not collect them and warns.
"""

import warnings
from importlib.util import find_spec
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
MISSING = [name for name in ("yaml", "kubernetes_validate") if find_spec(name) is None]
collect_ignore_glob = ["*"] if MISSING else []
if MISSING:
    warnings.warn(f"collector-config is NOT checked here: {', '.join(MISSING)} not installed", stacklevel=1)


@pytest.hookimpl(tryfirst=True)  # before -m selects by marker
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks every test of this directory."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.config)
