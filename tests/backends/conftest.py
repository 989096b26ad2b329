"""The real programs, for all tests of this directory; one set of them runs for the whole session of a worker.

Without the programs, and without Go to build them, every test here is skipped; without a Loki on PATH, which this
project does not build, the tests that only Loki can answer are. The run then ends with a section that lists what did
NOT run and the remedy. If Go is present and the programs are not built, that is an error: run ``make backends``.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.backends.jobs import Job, play_failed_job
from tests.support import collector_tiers as tiers
from tests.support.backends import LogStore, Loki, Missing, Programs, Stack, find_programs
from tests.support.collector import HttpCollector

HERE = Path(__file__).resolve().parent
NO_LOKI = "no loki on PATH (under the AGPL, so this project does not build it); install one to run these"


FAILED_JOB = ("dashboards", "logs_arrive", "metrics_arrive", "runbook_queries", "traces_arrive")
"""Files that use the job of :func:`failed_job`."""
SHARED: dict[str, tuple[str, ...]] = {
    "alerts_fire": (),
    "collector_kafka": (),
    "dashboards_of_any_size": ("1", "1000"),
    "dashboards_variables": (),
    "metrics_too_old": (),
    "tiers_to_real_backends": ("gateway", "kafka"),
}
"""Files whose tests share expensive fixtures, with the parameters of those fixtures, as in the ids of the tests."""
_ID = re.compile(r".*/test_(\w+)\.py::\w+(?:\[(.*)\])?")


def shared_fixtures(nodeid: str) -> str:
    """The name of the expensive fixtures that a test uses, or else the test itself."""
    found = _ID.fullmatch(nodeid)
    file, parameters = (found[1], (found[2] or "").split("-")) if found else ("", [])
    if file in FAILED_JOB:
        return "failed_job"
    if file not in SHARED:
        return nodeid
    return "-".join([file, *(each for each in SHARED[file] if each in parameters)])


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With ``--dist loadgroup``: one worker for all tests that share expensive fixtures; the largest groups first.

    By the ids of tests: pytest-xdist 3.8.0 ignores its own mark ``xdist_group`` under pytest 9.2, which has the id of a
    test in another attribute.
    """
    if config.getoption("dist") != "loadgroup":
        return None
    from xdist.scheduler import LoadScopeScheduling

    class ByFixtures(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return shared_fixtures(nodeid)

    return ByFixtures(config, log)


@pytest.hookimpl(tryfirst=True)  # before -m chooses by marker
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this directory needs the real programs."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.backends)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Lists what was skipped, with the number of tests for each reason."""
    skipped = [report for report in terminalreporter.stats.get("skipped", []) if "tests/backends/" in report.nodeid]
    if skipped:
        ran = len(terminalreporter.stats.get("passed", [])) + len(terminalreporter.stats.get("failed", []))
        title = f"{len(skipped)} tests with real backends did NOT run, {ran} did"
        terminalreporter.section(title, sep="!", red=True, bold=True)
    for reason, number in Counter(report.longrepr[2].removeprefix("Skipped: ") for report in skipped).items():
        terminalreporter.line(f"{number} skipped: {reason}")


@pytest.fixture(scope="session")
def programs() -> Programs:
    """Paths of ``.collector``, ``.victorialogs``, ``.vmalert``, ``.prometheus``, ``.promtool`` and ``.jaeger``."""
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


def loki_of(stack: Stack) -> Loki:
    """The stack's Loki; skips the test if there is none on PATH."""
    if stack.loki is None:
        pytest.skip(NO_LOKI)
    return stack.loki


@pytest.fixture(scope="session")
def loki(stack: Stack) -> Loki:
    """Loki, which receives the same log records as VictoriaLogs."""
    return loki_of(stack)


@pytest.fixture(scope="session", params=["victorialogs", "loki"])
def logs(request: pytest.FixtureRequest, stack: Stack) -> LogStore:
    """Each store of log records in turn."""
    return stack.victorialogs if request.param == "victorialogs" else loki_of(stack)


@pytest.fixture(scope="session")
def failed_job(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A real job of three nodes that failed once and is over; its telemetry is on its way into the stack."""
    return play_failed_job(stack, tmp_path_factory.mktemp("failed-job"))


@pytest.fixture
def backend() -> Iterator[HttpCollector]:
    """A receiver behind the Collectors, for tests that count what arrives; it rejects as a test sets it."""
    with HttpCollector() as there:
        yield there


@pytest.fixture
def shared(tmp_path: Path) -> tiers.Secrets:
    """The certificate and the token of nodes and gateways."""
    return tiers.Secrets.make(tmp_path / "secrets")
