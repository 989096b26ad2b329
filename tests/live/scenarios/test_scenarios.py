"""Every scenario of the table, with real torchrun on loopback, on every supported torch.

Guarantees: a scenario runs once; each signal is compared with what is expected; all differences are reported at once.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.live.environments import ENVIRONMENTS, Environment
from tests.live.scenarios.actual import Actual, flush
from tests.live.scenarios.check_failures import check_failures
from tests.live.scenarios.check_logs import check_logs
from tests.live.scenarios.check_metrics import check_metrics
from tests.live.scenarios.check_nodes import check_nodes
from tests.live.scenarios.check_spans import check_spans
from tests.live.scenarios.check_timeline import check_timeline
from tests.live.scenarios.cluster import running_cluster
from tests.live.scenarios.findings import Case
from tests.live.scenarios.table import SCENARIOS, Scenario

pytestmark = [pytest.mark.live, pytest.mark.torch]
RUNS = [
    pytest.param(scenario, torch, id=f"{scenario.name.replace(' ', '-').replace(',', '')}-torch-{torch.torch}")
    for torch in ENVIRONMENTS
    for scenario in SCENARIOS
    if not scenario.only or torch.torch in scenario.only
]


@pytest.mark.parametrize(("scenario", "torch"), RUNS)
def test_what_is_told_is_what_happened(scenario: Scenario, torch: Environment, tmp_path: Path) -> None:
    """Logs, traces, metrics and the timeline of a run each report what happened in it."""
    assert torch.complete, f"no torch {torch.torch} in {torch.folder}: run `make environments` (some GB, once)"
    with running_cluster(torch, tmp_path) as cluster:
        scenario.script(cluster)
        assert cluster.exit_statuses() == dict(scenario.expected.exits)
        for name in scenario.flushed:
            flush(cluster, name)
        case = Case(cluster, scenario.expected, Actual.of(cluster, scenario.flushed))
    for check in (check_logs, check_failures, check_spans, check_metrics, check_timeline, check_nodes):
        check(case)
    assert not case.problems, "\n".join(case.problems)
