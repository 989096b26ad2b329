"""Three signals out of one spool: who gets which rows, who is told which numbers, and what is adopted."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.support.batch_workers import BOUND, DELIVERED, event, origin
from tests.support.collector import wait_until
from tests.support.metric_snapshots import snapshot
from tests.support.spans import OTHER_TRACE, TRACE, span
from torchelastic_otel import semconv
from torchelastic_otel.export.backoff import BatchConfig
from torchelastic_otel.export.config import ExportConfig
from torchelastic_otel.export.destinations import Exporter, Registry
from torchelastic_otel.export.metric_checkpoints import EXPORTERS_KEY
from torchelastic_otel.export.metric_delta import MetricBatch
from torchelastic_otel.export.pipeline import Pipeline
from torchelastic_otel.export.result import Disposition, ExportResult
from torchelastic_otel.model.event import ElasticEvent
from torchelastic_otel.model.metric import Snapshot
from torchelastic_otel.model.signals import Signal
from torchelastic_otel.processing.metrics import MetricState, update
from torchelastic_otel.processing.metrics.self_metrics import ExportCounters
from torchelastic_otel.processing.processor import METRICS_KEY, ORIGIN_KEY, SPANS
from torchelastic_otel.spool import store

S = 1_000_000_000
PACE = BatchConfig(delay_ns=0, min_backoff_ns=1_000_000, max_backoff_ns=5_000_000, blocked_delay_ns=5_000_000)
TERMS = ExportConfig(logs=PACE, traces=PACE, metrics=PACE)


class Receiver:
    """A sender of any signal that remembers what it was given.

    Attributes:
        answer: What it answers.
        items: What was taken.
    """

    delta_kinds: frozenset[Any] = frozenset()

    def __init__(self, answer: ExportResult = DELIVERED) -> None:
        self.answer = answer
        self.items: list[Any] = []

    def send(self, batch: Any) -> ExportResult:
        """See ``Sender``."""
        if self.answer.disposition is Disposition.DELIVERED:
            self.items += [batch] if isinstance(batch, MetricBatch) else batch
        return self.answer

    def cancel(self) -> None:
        """See ``Sender``."""

    def close(self) -> None:
        """See ``Sender``."""


class Numbers:
    """Numbers that never change."""

    def collect(self) -> Snapshot:
        """See ``metrics_route.Numbers``."""
        return snapshot(1, failures=1)

    def commit(self, snapshot: Snapshot) -> bool:
        """See ``metrics_route.Numbers``."""
        return False

    def should_collect(self) -> bool:
        """See ``metrics_route.Numbers``."""
        return False


class Stand:
    """A pipeline on a real registry, whose exporters are receivers by the names of their cursors.

    Args:
        answers: What receivers answer from the start, by the names of their cursors.
        options: Of the pipeline.
    """

    def __init__(self, answers: Mapping[str, ExportResult], **options: Any) -> None:
        self.receivers = {cursor: Receiver(answer) for cursor, answer in answers.items()}
        self.registry = Registry(lambda group: {})
        self.registry.register("elsewhere", "memory")
        self.registry.set_default_exporters(self.registry.exporters("otlp"))
        self.spool = store.create_in_memory(BOUND)
        options = {"config": TERMS, "adoption_interval_s": 0.02, "metric_source": Numbers, **options}
        self.pipeline = Pipeline(self.make_sender, self.registry.exporters_of, **options)
        self.pipeline.add(self.spool, origin("own"))
        self.pipeline.subscribe(("null", "dynamic_rendezvous"))
        self.pipeline.start()

    def make_sender(self, exporter: Exporter) -> Receiver:
        """One for each cursor."""
        return self[exporter.cursor]

    def __getitem__(self, cursor: str) -> Receiver:
        return self.receivers.setdefault(cursor, Receiver())

    def keep(self, *rows: tuple[str, str]) -> None:
        """Append, and wake."""
        self.pipeline.subscribe({destination for destination, _ in rows})
        self.spool.append(rows)
        self.pipeline.wake()


Make = Callable[..., Stand]


@pytest.fixture(name="make")
def _make() -> Iterator[Make]:
    stands: list[Stand] = []

    def make(answers: Mapping[str, ExportResult] | None = None, **options: Any) -> Stand:
        stands.append(Stand(answers or {}, **options))
        return stands[-1]

    yield make
    for stand in stands:
        assert stand.pipeline.stop(10 * S)


def heartbeat() -> tuple[str, str]:
    """One beat."""
    return "dynamic_rendezvous", ElasticEvent(semconv.RENDEZVOUS_KEEP_ALIVE_SENT, "null", "beat", 1, 2).to_json()


def bodies(receiver: Receiver) -> list[str]:
    """The bodies of the events that came."""
    return [delivery.event.body for delivery in receiver.items]


def test_spans_go_to_the_exporter_of_traces_and_events_to_that_of_logs(make: Make) -> None:
    """One spool, one order, two ways out; both cursors get to the end."""
    stand = make()
    stand.keep(event("1"), (SPANS, span("a").to_json()), event("2"), (SPANS, span("b").to_json()))
    assert stand.pipeline.flush(10 * S)
    assert bodies(stand["otlp"]) == ["1", "2"]
    assert [delivery.span.name for delivery in stand["otlp traces"].items] == ["a", "b"]
    assert {delivery.origin.id for delivery in stand["otlp traces"].items} == {"own"}
    cursors = stand.spool.cursors()
    assert (cursors["otlp"].delivered, cursors["otlp traces"].delivered) == (2, 2)


def test_only_where_torchs_own_destinations_lead_are_spans_and_numbers_told(make: Make) -> None:
    """A program that records an event of its own elsewhere has not asked for torch's spans there."""
    stand = make()
    stand.keep(event("1", "elsewhere"), (SPANS, span().to_json()))
    assert stand.pipeline.flush(10 * S)
    assert bodies(stand["memory"]) == ["1"]
    assert stand.spool.cursors().keys() == {"otlp", "otlp traces", "memory"}
    assert {state.name for state in stand.pipeline.states} == {"otlp", "otlp traces", "otlp metrics", "memory"}


def test_heartbeats_are_no_logs_and_hold_nothing_up(make: Make) -> None:
    """They are acknowledged without being sent: neither delivered nor lost, and not pending."""
    stand = make()
    stand.keep(event("1"), heartbeat(), event("2"), heartbeat())
    assert stand.pipeline.flush(10 * S)
    assert bodies(stand["otlp"]) == ["1", "2"]
    state = stand.spool.cursors()["otlp"]
    assert (state.position, state.pending, state.delivered) == (4, 0, 2)
    assert (state.rejected, state.quarantined, state.dropped) == (0, 0, 0)


def test_heartbeats_are_logs_where_they_are_asked_for(make: Make) -> None:
    """Somebody looks for the network that fails now and then."""
    stand = make(config=ExportConfig(logs=PACE, heartbeats=True))
    stand.keep(event("1"), heartbeat())
    assert stand.pipeline.flush(10 * S)
    assert bodies(stand["otlp"]) == ["1", "beat"]


def test_a_trace_that_is_not_sampled_is_acknowledged_and_not_sent(make: Make) -> None:
    """The sampler decides by trace; nothing of it stays behind in the spool."""
    stand = make(config=ExportConfig(logs=PACE, traces=PACE, sampler=lambda trace_id: trace_id == TRACE))
    stand.keep((SPANS, span("a").to_json()), (SPANS, span("b", trace_id=OTHER_TRACE).to_json()))
    assert stand.pipeline.flush(10 * S)
    assert [delivery.span.name for delivery in stand["otlp traces"].items] == ["a"]


def test_a_row_that_is_no_span_is_set_aside_and_costs_no_other(make: Make) -> None:
    """A damaged row is one row."""
    stand = make()
    stand.keep((SPANS, "{}"), (SPANS, span("a").to_json()))
    assert stand.pipeline.flush(10 * S)
    assert [delivery.span.name for delivery in stand["otlp traces"].items] == ["a"]
    assert stand.spool.cursors()["otlp traces"].quarantined == 1


def test_a_traces_exporter_that_is_away_holds_up_no_log(make: Make) -> None:
    """Each signal at its own pace."""
    stand = make()
    stand["otlp traces"].answer = ExportResult(Disposition.RETRY, "away")
    stand.keep((SPANS, span().to_json()), event("1"))
    assert not stand.pipeline.flush(10 * S)
    assert bodies(stand["otlp"]) == ["1"]


def test_a_flush_tells_the_numbers_once_more(make: Make) -> None:
    """At exit: what was counted since the last interval."""
    stand = make()
    assert stand.pipeline.flush(10 * S)
    told = len(stand["otlp metrics"].items)
    assert told >= 1
    assert stand.pipeline.flush(10 * S)
    assert len(stand["otlp metrics"].items) > told
    assert stand["otlp metrics"].items[-1].origin.id == "own"


def test_delivery_counts_itself_by_destination_and_signal(make: Make) -> None:
    """Every exporter has its numbers from the start; the age is that of the oldest row that somebody has not got."""
    stand = make()
    assert set(stand.pipeline.self_metrics(0).exports) == {("otlp", signal) for signal in Signal}
    stand["otlp traces"].answer = ExportResult(Disposition.RETRY, "away")
    late = span()
    stand.keep(event("1"), (SPANS, late.to_json()))
    stand.pipeline.flush(10 * S)
    numbers = stand.pipeline.self_metrics(late.end_ns + 5 * S)
    assert numbers.exports["otlp", Signal.LOGS] == ExportCounters(delivered=1)
    assert numbers.exports["otlp", Signal.TRACES] == ExportCounters()
    assert numbers.exports["otlp", Signal.METRICS].delivered > 0
    assert numbers.spool_age_ns == 5 * S
    assert numbers.spool_bytes == stand.spool.size > 0
    stand["otlp traces"].answer = DELIVERED
    assert stand.pipeline.flush(10 * S)
    assert stand.pipeline.self_metrics(late.end_ns + 9 * S).spool_age_ns == 0


def leave(directory: Path, *, pending: bool, metrics: bool = True) -> Path:
    """What an agent left that was killed: a failure counted, an event and a span delivered or not."""
    path = directory / "dead.spool"
    spool = store.create(path, BOUND)
    spool.put_meta(ORIGIN_KEY, origin("dead").to_json())
    tally = update(
        MetricState(1), ElasticEvent(semconv.RUN_IDENTIFIED, "null", "r", 1, 2, 3, attributes={semconv.RUN_ID: "run-1"})
    )
    spool.put_meta(METRICS_KEY, tally.to_json())
    spool.put_meta(EXPORTERS_KEY, json.dumps(["otlp metrics"] if metrics else []))
    spool.subscribe({"otlp": ["null"], "otlp traces": [SPANS]})
    if pending:
        spool.append([event("1"), (SPANS, span().to_json())])
    spool.close()
    return path


@pytest.mark.parametrize("pending", [True, False])
def test_of_a_dead_process_everything_is_delivered_with_its_own_resource(
    make: Make, tmp_path: Path, pending: bool
) -> None:
    """Also where only its numbers are left to tell."""
    leave(tmp_path, pending=pending)
    stand = make(directory=tmp_path, metric_source=lambda: None)
    assert wait_until(lambda: (tmp_path / "dead.delivered").exists())
    assert bodies(stand["otlp"]) == ["1"] * pending
    assert [delivery.origin.id for delivery in stand["otlp traces"].items] == ["dead"] * pending
    assert {measured.origin.id for measured in stand["otlp metrics"].items} == {"dead"}
    [adopted] = stand.pipeline.adopted()
    assert (adopted.metric_exporters, adopted.pending_after) == (("otlp metrics",), 0)


def test_numbers_that_cannot_be_told_now_keep_the_spool_for_later(make: Make, tmp_path: Path) -> None:
    """The collector is away: the next look tries again."""
    left = leave(tmp_path, pending=False)
    stand = make(
        {"otlp metrics": ExportResult(Disposition.RETRY, "away")}, directory=tmp_path, metric_source=lambda: None
    )
    assert wait_until(lambda: bool(stand.pipeline.adopted()))
    assert left.exists()
    stand["otlp metrics"].answer = DELIVERED
    assert wait_until(lambda: not left.exists())


def test_numbers_that_nobody_was_to_be_told_are_nobodys(make: Make, tmp_path: Path) -> None:
    """`OTEL_METRICS_EXPORTER=none` in that job."""
    left = leave(tmp_path, pending=True, metrics=False)
    stand = make(directory=tmp_path, metric_source=lambda: None)
    assert wait_until(lambda: not left.exists())
    assert stand["otlp metrics"].items == []
