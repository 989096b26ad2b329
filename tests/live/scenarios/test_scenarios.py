"""Every scenario of the table, with real torchrun on loopback, on every torch that is promised.

What always holds: a scenario is played once; each of its signals is held against the truth; all that is wrong is told.
"""

from __future__ import annotations

import pytest

from tests.live.environments import ENVIRONMENTS, Environment
from tests.live.scenarios.actual import Seen
from tests.live.scenarios.check_failures import check_failures
from tests.live.scenarios.check_logs import check_logs
from tests.live.scenarios.check_metrics import check_metrics
from tests.live.scenarios.check_nodes import check_nodes
from tests.live.scenarios.check_spans import check_spans
from tests.live.scenarios.check_timeline import check_timeline
from tests.live.scenarios.findings import Case
from tests.live.scenarios.runner import Theatre
from tests.live.scenarios.table import SCENARIOS, Scenario

pytestmark = [pytest.mark.live, pytest.mark.torch]
PLAYED = [
    pytest.param(scenario, torch, id=f"{scenario.name.replace(' ', '-').replace(',', '')}-torch-{torch.torch}")
    for torch in ENVIRONMENTS
    for scenario in SCENARIOS
    if not scenario.only or torch.torch in scenario.only
]


@pytest.mark.parametrize(("scenario", "torch"), PLAYED)
def test_what_is_told_is_what_happened(scenario: Scenario, torch: Environment, theatre: Theatre) -> None:
    """The person on call gets logs, traces, metrics and the timeline, and each of them is right."""
    with theatre.played(scenario, torch) as (stage, exits):
        assert exits == dict(scenario.truth.exits)
        case = Case(stage, scenario.truth, Seen.of(stage, scenario.flushed))
        for check in (check_logs, check_failures, check_spans, check_metrics, check_timeline, check_nodes):
            check(case)
        assert not case.wrong, "\n".join(case.wrong)
