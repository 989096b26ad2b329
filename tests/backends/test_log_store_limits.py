"""The settings of the log stores: without them VictoriaLogs or Loki would reject or discard what agents send."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
import uuid
from typing import Any

import pytest

from tests.support.backends import LogStore, Loki, Stack, eventually

HOUR_NS = 3600 * 10**9
SERVICE = "service.instance.id"


def post(endpoint: str, instance: str, at_ns: int, body: str, **attributes: str) -> int:
    """Send one record as OTLP JSON; the HTTP status."""
    pairs = [{"key": key.replace("__", "."), "value": {"stringValue": value}} for key, value in attributes.items()]
    resource = {"service.name": "torchrun", SERVICE: instance, "cluster": "late"}
    record: dict[str, Any] = {"timeUnixNano": str(at_ns), "body": {"stringValue": body}, "attributes": pairs}
    of = [{"key": key, "value": {"stringValue": value}} for key, value in resource.items()]
    logs = {"resourceLogs": [{"resource": {"attributes": of}, "scopeLogs": [{"logRecords": [record]}]}]}
    request = urllib.request.Request(
        f"{endpoint}/v1/logs", json.dumps(logs).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def test_victorialogs_stores_late_deliveries_up_to_its_retention(stack: Stack) -> None:
    """An orphaned spool is delivered days later. VictoriaLogs' default, 7 days, would discard what is older."""
    instance, now_ns = uuid.uuid4().hex, time.time_ns()
    for hours in (26, 20 * 24):
        assert post(stack.otlp_http, instance, now_ns - hours * HOUR_NS, f"{hours} hours ago") == 200
    query = stack.victorialogs.selector({SERVICE: instance})
    found = eventually(lambda: two(stack.victorialogs.query(query, start_ns=now_ns - 29 * 24 * HOUR_NS)))
    assert [(at, body) for at, body, _ in found] == [
        (now_ns - hours * HOUR_NS, f"{hours} hours ago") for hours in (20 * 24, 26)
    ]


def two(found: list[Any]) -> list[Any]:
    """The answer, once it is complete."""
    return found if len(found) == 2 else []


def test_victorialogs_accepts_and_discards_what_is_beyond_its_limits(stack: Stack) -> None:
    """It answers 200 to a record that is too old or too far ahead: only its own counters show the loss."""
    before, now_ns = stack.victorialogs.dropped(), time.time_ns()
    for hours in (-31 * 24, 3 * 24):
        assert post(stack.otlp_http, uuid.uuid4().hex, now_ns + hours * HOUR_NS, "beyond") == 200

    def dropped() -> bool:
        now = stack.victorialogs.dropped()
        return all(now[reason] > before[reason] for reason in ("too_small_timestamp", "too_big_timestamp"))

    eventually(dropped)


def test_loki_accepts_the_records_of_an_orphaned_spool_a_day_later(loki: Loki) -> None:
    """Another process delivers them with the original instance: in a stream of its own, nothing is too old.

    In a stream to which another process writes, as in a configuration without this label, they are rejected.
    """
    dead, living, now_ns = uuid.uuid4().hex, uuid.uuid4().hex, time.time_ns()
    assert post(loki.otlp, living, now_ns, "now") in (200, 204)
    assert post(loki.otlp, dead, now_ns - 26 * HOUR_NS, "a day ago") in (200, 204)
    query = f'{{service_instance_id="{dead}"}}'
    ((at_ns, body, _),) = eventually(lambda: loki.query(query, start_ns=now_ns - 27 * HOUR_NS))
    assert (at_ns, body) == (now_ns - 26 * HOUR_NS, "a day ago")
    assert post(loki.otlp, living, now_ns - 26 * HOUR_NS, "a day ago") == 400


@pytest.mark.parametrize("kilobytes", [128, 512])
def test_the_largest_possible_record_is_stored(stack: Stack, logs: LogStore, kilobytes: int) -> None:
    """A user's event with 32 long texts: Loki's default limit, 64 kB a record, would reject it."""
    instance, texts = (
        uuid.uuid4().hex,
        {f"torchelastic__event__metadata__k{number}": "x" * 4096 for number in range(32)},
    )
    if kilobytes > 128:  # in characters of three and four bytes
        texts = dict.fromkeys(texts, "🔥" * 4096)
    assert post(stack.otlp_http, instance, time.time_ns(), "big", **texts) == 200
    ((_, _, fields),) = eventually(lambda: logs.query(logs.selector({SERVICE: instance})))
    for key, text in texts.items():
        assert fields[logs.field(key.replace("__", "."))] == text
