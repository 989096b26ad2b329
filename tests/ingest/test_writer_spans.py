"""On the writer thread: spans and what else follows from events, kept beside them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.writers import BOUND, Landing, fact, keep, spans
from torchelastic_otel import semconv
from torchelastic_otel.ingest.writer import MAX_RAW, Writer
from torchelastic_otel.model.event import ElasticEvent, Origin
from torchelastic_otel.processing.processor import ORIGIN_KEY, SPANS, process_remaining

LIFE = [
    fact(semconv.AGENT_STARTED, 1, agent_id="a"),
    fact(semconv.AGENT_PHASE_ENTERED, 2, phase="rendezvous"),
    fact(semconv.RUN_IDENTIFIED, 3, run_nonce="5" * 32, inferred_from="own_view"),
    fact(semconv.AGENT_PHASE_ENTERED, 4, phase="assign_ranks", rendezvous_round=0),
    fact(semconv.AGENT_PHASE_ENTERED, 5, phase="running"),
    fact(semconv.AGENT_PHASE_ENTERED, 6, phase="detect"),
    fact(semconv.WORKER_FAILED, 6, error_file="a secret", worker_rank=0),
    fact(semconv.AGENT_PHASE_ENTERED, 7, phase="stop"),
    # the span of the workers ends with the stop, and is emitted when no report of a failure can follow
    fact(semconv.AGENT_PHASE_ENTERED, 8, phase="ended"),
]


@pytest.mark.parametrize("at_once", [1, 3, 100])
def test_spans_stand_beside_the_events_they_come_from(tmp_path: Path, at_once: int) -> None:
    """Traces are a projection of the same stream, with cursors of their own."""
    landing = Landing(tmp_path)
    writer = Writer(landing)
    for begin in range(0, len(LIFE), at_once):
        assert keep(writer, LIFE[begin : begin + at_once]) == 0
    names = [span.name.removeprefix("torchelastic.") for span in spans(landing)]
    assert names == ["rendezvous", "assign_ranks", "round", "workers", "training", "stop_workers"]
    assert SPANS in landing.destinations


def test_what_a_hook_takes_away_is_not_in_the_spans_either(tmp_path: Path) -> None:
    """Promise 8: the text of an error is on the span of the workers that failed."""

    def redact(event: ElasticEvent) -> ElasticEvent:
        attributes = {
            name: value.replace("secret", "***") if isinstance(value, str) else value
            for name, value in event.attributes.items()
        }
        return replace(event, body=event.body.replace("secret", "***"), attributes=attributes)

    landing = Landing(tmp_path)
    keep(Writer(landing, redact), LIFE)
    assert [span.error for span in spans(landing) if span.name == semconv.SPAN_WORKERS] == [
        "Worker rank 0 (local rank None, pid None) failed: a ***"
    ]
    for spool in landing.spools:
        spool.close()
    assert not any(b"secret" in path.read_bytes() for path in tmp_path.iterdir())


def test_with_a_hook_a_killed_agents_spans_are_still_ended(tmp_path: Path) -> None:
    """Its rows are never raw: what is known of it has to be kept with them."""
    landing = Landing(tmp_path)
    writer = Writer(landing, lambda event: event)
    for each in LIFE[:5]:
        keep(writer, [each])
    (spool,) = landing.spools
    spool.put_meta(ORIGIN_KEY, Origin("0" * 32, "h", 1, 0).to_json())
    before = len(spans(landing))
    assert process_remaining(spool) == 0
    told = spans(landing)[before:]
    assert [span.name.removeprefix("torchelastic.") for span in told] == ["workers", "training"]
    assert {span.error for span in told} == {"the agent's process disappeared without reporting an end"}


def test_a_text_too_long_to_be_kept_raw_is_read_behind_what_came_before_it(tmp_path: Path) -> None:
    """A worker's traceback is what is long, and its failure is the one that must not overtake its detection."""
    landing = Landing(tmp_path)
    writer = Writer(landing)
    writer.append(LIFE[:6])
    writer.append([fact(semconv.WORKER_FAILED, 6, error_file="x" * (MAX_RAW + 1), worker_rank=0)])
    writer.append(LIFE[7:])
    writer.process()
    names = [event.name for _, event in landing.rows()]
    assert names.count(semconv.WORKER_FAILED) == 1
    (workers,) = [span for span in spans(landing) if span.name == semconv.SPAN_WORKERS]
    assert [event.name for event in workers.events] == [semconv.WORKER_FAILED]
    assert workers.error is not None


def test_a_spool_that_is_full_of_spans_and_events_stays_on_disk(tmp_path: Path) -> None:
    """Promise 6: what follows from events takes room too, and must not drive the spool into memory."""
    landing = Landing(tmp_path)
    writer = Writer(landing)
    at = 10
    for number in range(300):
        phases = ("rendezvous", "assign_ranks", "running", "detect", "stop")
        story = [
            fact(semconv.AGENT_PHASE_ENTERED, at + step, phase=phase, rendezvous_round=number)
            for step, phase in enumerate(phases)
        ]
        failed = [fact(semconv.WORKER_FAILED, at + 3, error_file="e" * 900, worker_rank=rank) for rank in range(8)]
        assert keep(writer, [*(LIFE[:3] if not number else ()), *story[:4], *failed, story[4]]) == 0
        at += 10
    assert [spool.path for spool in landing.spools] == [tmp_path / "a.spool"]
    files = [path for path in tmp_path.iterdir() if not path.name.endswith("-shm")]
    assert sum(path.stat().st_size for path in files) <= BOUND
    assert landing.spools[0].cursors()["x"].dropped > 0
    assert len(spans(landing)) > 50
