"""What quickstart/loki.yaml sets is why records arrive that Loki's defaults, or other labels, would refuse."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
import uuid
from typing import Any

import pytest
from support.backends import Stack, eventually

HOUR_NS = 3600 * 10**9


def post(endpoint: str, instance: str, at_ns: int, body: str, **attributes: str) -> int:
    """Send one record by OTLP; the HTTP status."""
    said = [{"key": key.replace("__", "."), "value": {"stringValue": value}} for key, value in attributes.items()]
    resource = {"service.name": "torchrun", "service.instance.id": instance, "cluster": "late"}
    record: dict[str, Any] = {"timeUnixNano": str(at_ns), "body": {"stringValue": body}, "attributes": said}
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


def test_what_a_dead_agent_left_is_taken_a_day_later(stack: Stack) -> None:
    """It is delivered by another process, with the instance of its own: in a stream of its own, nothing is too old.

    In a stream that somebody else writes on now, which is what a configuration without this label has, it is refused.
    """
    dead, living, now_ns = uuid.uuid4().hex, uuid.uuid4().hex, time.time_ns()
    assert post(stack.loki.otlp, living, now_ns, "now") in (200, 204)
    assert post(stack.loki.otlp, dead, now_ns - 26 * HOUR_NS, "a day ago") in (200, 204)
    asked = f'{{service_instance_id="{dead}"}}'
    ((at_ns, body, _),) = eventually(lambda: stack.loki.query(asked, start_ns=now_ns - 27 * HOUR_NS))
    assert (at_ns, body) == (now_ns - 26 * HOUR_NS, "a day ago")
    assert post(stack.loki.otlp, living, now_ns - 26 * HOUR_NS, "a day ago") == 400


@pytest.mark.parametrize("kilobytes", [128, 512])
def test_the_longest_record_that_there_can_be_is_taken(stack: Stack, kilobytes: int) -> None:
    """An event of the user's own with 32 long texts: Loki's own limit, 64 kB a record, would refuse it."""
    instance, texts = (
        uuid.uuid4().hex,
        {f"torchelastic__event__metadata__k{number}": "x" * 4096 for number in range(32)},
    )
    if kilobytes > 128:  # in characters of three and four bytes
        texts = dict.fromkeys(texts, "🔥" * 4096)
    assert post(stack.otlp_http, instance, time.time_ns(), "big", **texts) == 200
    ((_, _, labels),) = eventually(lambda: stack.loki.query(f'{{service_instance_id="{instance}"}}'))
    assert labels["torchelastic_event_metadata_k31"] == texts["torchelastic__event__metadata__k31"]
