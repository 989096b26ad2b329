"""A batch as the pipeline limits it (512 records, 512 KiB of event JSON) is at most 1 MiB encoded."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from opentelemetry.exporter.otlp.proto.common._log_encoder import encode_logs

from torchelastic_otel import semconv
from torchelastic_otel.export.batch_worker import MAX_BATCH_BYTES
from torchelastic_otel.export.otel.limits import log_limits
from torchelastic_otel.export.otel.logs import log_record
from torchelastic_otel.model.event import ElasticEvent, Origin, StoredEvent

RECORDS, JSON_BYTES, ENCODED_BYTES = 512, MAX_BATCH_BYTES, 1024 * 1024
ORIGIN = Origin(
    id="f" * 32,
    host_name="h" * 253,
    pid=4_000_000,
    started_ns=2**63,
    environment={"OTEL_RESOURCE_ATTRIBUTES": ",".join(f"key{n}={'v' * 4096}" for n in range(8))},
)
LATE = 2**63 - 1


def event(body: str = "", **attributes: object) -> ElasticEvent:
    """An event whose numbers are as long as they can be on the wire."""
    name = "torchelastic.rendezvous.redundancy_list_removed"
    return ElasticEvent(name, "null", body, LATE, LATE, LATE, attributes=attributes)  # type: ignore[arg-type]


SHAPES: dict[str, Callable[[int], ElasticEvent]] = {
    "ascii body": lambda size: event("x" * size),
    "emoji body": lambda size: event("\U0001f525" * (size // 12)),
    "body of quotes": lambda size: event('"' * (size // 2)),
    "many of our names with negative numbers": lambda size: event(
        "", **{f"{semconv.WORKER_RANK}.{n}": -1 for n in range(min(127, size // 37))}
    ),
    "lists of empty texts": lambda size: event("", **{semconv.NODES_REMOVED_IDS: ("",) * (size // 4)}),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("records", [1, 16, RECORDS])
def test_the_encoded_batch_is_at_most_one_mebibyte(shape: str, records: int) -> None:
    """Receivers refuse above 4 MiB (gRPC) or less; a limit in JSON must hold on the wire too."""
    made = SHAPES[shape](JSON_BYTES // records - 220)
    assert len(made.to_json()) * records <= JSON_BYTES, "the shape must be within the pipeline's limit"
    limits = log_limits({}, pytest.fail)
    batch = [log_record(StoredEvent(2**40 + number, made, ORIGIN), limits) for number in range(records)]
    assert encode_logs(batch).ByteSize() <= ENCODED_BYTES
