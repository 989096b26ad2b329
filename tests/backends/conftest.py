"""The real programs, for all tests of this directory; one set of them runs for the whole session.

Without the programs, and without Go to build them, every test here is skipped, and the run ends with a line that says
so and how to get them. Where Go is there and they are not built, that is an error: ``make backends`` was forgotten.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from jobs import Job, play_failed_job
from support import collector_tiers as tiers
from support.backends import Missing, Programs, Stack, find_programs
from support.collector import HttpCollector

HERE = Path(__file__).resolve().parent


@pytest.hookimpl(tryfirst=True)  # before -m chooses by marker
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this directory needs the real programs."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.backends)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Says loudly what a skip would hide."""
    skipped = [report for report in terminalreporter.stats.get("skipped", []) if "tests/backends/" in report.nodeid]
    if skipped:
        terminalreporter.section("tests with real backends did NOT run", sep="!", red=True, bold=True)
        terminalreporter.line(f"{len(skipped)} skipped: {skipped[0].longrepr[2].removeprefix('Skipped: ')}")


@pytest.fixture(scope="session")
def programs() -> Programs:
    """Paths of ``.collector``, ``.loki``, ``.prometheus``, ``.promtool`` and ``.jaeger``."""
    try:
        return find_programs()
    except Missing as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="session")
def stack(programs: Programs, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """All of them, running, as in the quickstart."""
    running = Stack(tmp_path_factory.mktemp("stack"))
    try:
        yield running.start()
    finally:
        running.kill()


@pytest.fixture(scope="session")
def failed_job(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A real job of three nodes that failed once and is over; its telemetry is on its way into the stack."""
    return play_failed_job(stack, tmp_path_factory.mktemp("failed-job"))


@pytest.fixture
def backend() -> Iterator[HttpCollector]:
    """What everything goes to in the end, where a test counts what came: it writes down, and refuses as it is told."""
    with HttpCollector() as there:
        yield there


@pytest.fixture
def shared(tmp_path: Path) -> tiers.Secrets:
    """What nodes and gateways share: a certificate and a token."""
    return tiers.Secrets.make(tmp_path / "secrets")
