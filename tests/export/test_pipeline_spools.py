"""All routes of a process and their spools: adoption, fan-out, failing disks, flush and stop."""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.batch_workers import BOUND, DELIVERED, TestSender, event, fill, origin
from tests.support.collector import wait_until
from torchelastic_otel.errors import SpoolError
from torchelastic_otel.export.backoff import BatchConfig
from torchelastic_otel.export.batch_worker import BatchExportWorker
from torchelastic_otel.export.config import ExportConfig
from torchelastic_otel.export.destinations import Exporter
from torchelastic_otel.export.pipeline import Pipeline
from torchelastic_otel.export.result import Disposition, ExportResult
from torchelastic_otel.export.sources import SpoolSource
from torchelastic_otel.processing.processor import ORIGIN_KEY, encode_record
from torchelastic_otel.spool import adoption, store

S = 1_000_000_000
PACE = BatchConfig(delay_ns=0, min_backoff_ns=1_000_000, max_backoff_ns=5_000_000, blocked_delay_ns=5_000_000)
TERMS = ExportConfig(logs=PACE, traces=PACE, metrics=PACE)

Make = Callable[..., Pipeline]


class Registry:
    """Destinations and exporters of a test, and their senders."""

    def __init__(self, **destinations: tuple[str, ...]) -> None:
        self.destinations = destinations
        self.senders: dict[str, TestSender] = {}

    def exporters_of(self, name: str) -> tuple[Exporter, ...]:
        """As the real one."""
        return tuple(Exporter(exporter) for exporter in self.destinations[name])

    def make_sender(self, exporter: Exporter) -> TestSender:
        """One for each name."""
        return self[exporter.name]

    def __getitem__(self, name: str) -> TestSender:
        return self.senders.setdefault(name, TestSender())


@pytest.fixture
def pipelines() -> Iterator[list[Pipeline]]:
    """Pipelines to stop at the end."""
    made: list[Pipeline] = []
    yield made
    for pipeline in made:
        assert pipeline.stop(10 * S)


def start(
    pipelines: list[Pipeline],
    registry: Registry,
    directory: Path | None = None,
    *,
    spool: store.Spool | None = None,
    interval_s: float = 0.02,
    at_each_look: Callable[[], object] | None = None,
) -> Pipeline:
    """A running pipeline with a spool in memory, or this one."""
    pipeline = Pipeline(
        registry.make_sender,
        registry.exporters_of,
        config=TERMS,
        directory=directory,
        max_bytes=BOUND,
        adoption_interval_s=interval_s,
        on_scan=at_each_look,
    )
    pipelines.append(pipeline)
    pipeline.add(store.create_in_memory(BOUND) if spool is None else spool, origin("own"))
    pipeline.subscribe(("null",))
    pipeline.start()
    return pipeline


def hanging(go: threading.Event) -> Callable[[list[str]], ExportResult]:
    """A receiver that answers when it is let."""

    def answer(bodies: list[str]) -> ExportResult:
        go.wait(60)
        return DELIVERED

    return answer


def leave(directory: Path, name: str, *bodies: str, exporters: tuple[str, ...] = ("x",)) -> Path:
    """What a dead process left."""
    spool = store.create(directory / f"{name}.spool", BOUND)
    spool.put_meta(ORIGIN_KEY, origin(name).to_json())
    fill(spool, *bodies, exporters=exporters)
    spool.close()
    return directory / f"{name}.spool"


def test_what_dead_processes_left_is_delivered_and_becomes_history(pipelines: list[Pipeline], tmp_path: Path) -> None:
    """Promise 3: as theirs, in order for each."""
    for number in range(12):  # more than are taken over at once
        leave(tmp_path, f"dead{number}", "1", "2", "3")
    registry = Registry(null=("x",))
    pipeline = start(pipelines, registry, tmp_path)
    assert registry["x"].wait_for_taken(36)
    assert wait_until(lambda: len(list(tmp_path.glob("*.delivered"))) == 12)
    for number in range(12):
        own = [uid for uid in registry["x"].taken if uid.startswith(f"dead{number}-")]
        assert own == [f"dead{number}-{sequence}" for sequence in (1, 2, 3)]
    adopted = pipeline.adopted()
    assert len(adopted) == 12
    assert {(each.pending_before, each.pending_after) for each in adopted} == {(3, 0)}
    assert pipeline.adopted() == []


def test_what_nobody_here_can_deliver_is_left_as_it_is(pipelines: list[Pipeline], tmp_path: Path) -> None:
    """Another job on the node, with another destination: its next agent will."""
    theirs = leave(tmp_path, "theirs", "1", exporters=("y",))
    leave(tmp_path, "ours", "1")
    registry = Registry(null=("x",))
    start(pipelines, registry, tmp_path)
    assert registry["x"].wait_for_taken(1)
    assert wait_until(lambda: (tmp_path / "ours.delivered").exists())
    assert theirs.exists()
    assert wait_until(lambda: not adoption.is_owned(theirs))


def test_a_spool_that_owes_two_exporters_is_kept_until_both_have_it(pipelines: list[Pipeline], tmp_path: Path) -> None:
    """Fan-out survives the process too; one that is away starves no other."""
    leave(tmp_path, "dead", "1", "2", exporters=("x", "y"))
    registry = Registry(null=("x", "y"))
    registry["y"].answer = ExportResult(Disposition.RETRY, "away")
    start(pipelines, registry, tmp_path)
    assert registry["x"].wait_for_taken(2)
    assert registry["y"].wait_for_batches(3)
    assert not (tmp_path / "dead.delivered").exists()
    registry["y"].answer = DELIVERED
    assert registry["y"].wait_for_taken(2)
    assert wait_until(lambda: (tmp_path / "dead.delivered").exists())
    assert registry["x"].taken == registry["y"].taken == ["dead-1", "dead-2"]


def test_what_was_shown_while_it_lived_is_not_shown_again(pipelines: list[Pipeline], tmp_path: Path) -> None:
    """A console line of a process that died yesterday is noise today."""
    leave(tmp_path, "dead", "1", exporters=("console_line", "x"))
    registry = Registry(null=("console_line", "x"))
    start(pipelines, registry, tmp_path)
    assert wait_until(lambda: (tmp_path / "dead.delivered").exists())
    assert registry["x"].taken == ["dead-1"]
    assert registry["console_line"].taken == []


def test_damaged_spools_are_set_aside_and_keep_no_other_waiting(
    pipelines: list[Pipeline], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Promise 6: damage seen at once, when adopted, and when read; each with one warning, and then never again."""
    (tmp_path / "garbage.spool").write_bytes(b"garbage" * 1_000)
    bad_origin = leave(tmp_path, "bad-origin", "1")
    spool = store.open_file(bad_origin, BOUND)
    spool.put_meta(ORIGIN_KEY, "not an origin")
    spool.close()
    torn = leave(tmp_path, "torn", *["x" * 1_000] * 500)
    with torn.open("r+b") as file:
        file.seek(4_096 * 60)
        file.write(os.urandom(4_096 * 50))
    for number, path in enumerate((tmp_path / "garbage.spool", bad_origin, torn)):
        os.utime(path, (number, number))  # they come first
    leave(tmp_path, "good", "1")
    registry = Registry(null=("x",))
    with caplog.at_level(logging.WARNING):
        start(pipelines, registry, tmp_path)
        assert wait_until(lambda: "good-1" in registry["x"].taken)
        assert wait_until(lambda: len(list(tmp_path.glob("*.corrupt"))) == 3)
        assert wait_until(lambda: (tmp_path / "good.delivered").exists())
    assert not list(tmp_path.glob("*.spool"))
    assert wait_until(lambda: not list(tmp_path.glob("*.lock")))
    assert len([r for r in caplog.records if "quarantined as" in r.message]) == 3


def test_two_pipelines_of_one_process_do_not_adopt_the_same_spool(pipelines: list[Pipeline], tmp_path: Path) -> None:
    """POSIX locks do not exclude within a process."""
    for number in range(6):
        leave(tmp_path, f"dead{number}", "1", "2")
    registries = [Registry(null=("x",)) for _ in range(2)]
    for registry in registries:
        start(pipelines, registry, tmp_path)
    assert wait_until(lambda: len(list(tmp_path.glob("*.delivered"))) == 6)
    taken = registries[0]["x"].taken + registries[1]["x"].taken
    assert sorted(taken) == sorted(f"dead{number}-{sequence}" for number in range(6) for sequence in (1, 2))


def test_a_stop_leaves_what_was_adopted_to_the_next(pipelines: list[Pipeline], tmp_path: Path) -> None:
    """Promise 5: nothing of a dead process' delays the exit of a living one."""
    path = leave(tmp_path, "dead", "1")
    registry = Registry(null=("x",))
    registry["x"].answer = ExportResult(Disposition.RETRY, "away")
    pipeline = start(pipelines, registry, tmp_path)
    assert registry["x"].wait_for_batches(2)
    assert pipeline.stop(10 * S)
    assert path.exists()
    assert not adoption.is_owned(path)


def test_what_an_exporter_is_sending_is_not_closed_and_not_sent_again(
    pipelines: list[Pipeline], tmp_path: Path
) -> None:
    """The collector is back, and slow: what it takes is acknowledged, however often the maintenance thread scans."""
    leave(tmp_path, "dead", "1", "2")
    registry, go, asked = Registry(null=("x",)), threading.Event(), threading.Event()
    looks = threading.Semaphore(0)
    registry["x"].answer = ExportResult(Disposition.RETRY, "away")
    start(pipelines, registry, tmp_path, at_each_look=looks.release)
    assert registry["x"].wait_for_batches(1)

    def slow(bodies: list[str]) -> ExportResult:
        asked.set()
        go.wait(60)
        return DELIVERED

    registry["x"].answer = slow
    assert asked.wait(60)
    assert all(looks.acquire(timeout=60) for _ in range(5 + looks._value))
    go.set()
    assert wait_until(lambda: (tmp_path / "dead.delivered").exists())
    assert registry["x"].taken == ["dead-1", "dead-2"]


def test_a_stop_lets_an_exporter_acknowledge_what_it_is_sending(pipelines: list[Pipeline], tmp_path: Path) -> None:
    """Else the next agent on the node would tell it again."""
    path = leave(tmp_path, "dead", "1")
    registry, go = Registry(null=("x",)), threading.Event()
    registry["x"].answer = hanging(go)
    pipeline = start(pipelines, registry, tmp_path)
    assert registry["x"].wait_for_batches(1)
    stopping = threading.Thread(target=pipeline.stop, args=(120 * S,))
    stopping.start()
    assert not wait_until(lambda: not adoption.is_owned(path), 0.5)
    go.set()
    stopping.join(60)
    assert not stopping.is_alive()
    assert wait_until(lambda: (tmp_path / "dead.delivered").exists())


def test_what_gets_nowhere_is_not_opened_again_at_once(pipelines: list[Pipeline], tmp_path: Path) -> None:
    """A large spool costs a second of a processor each time, and a collector may be away for a night."""
    path = leave(tmp_path, "dead", "1")
    registry = Registry(null=("x",))
    registry["x"].answer = ExportResult(Disposition.RETRY, "away")
    start(pipelines, registry, tmp_path, interval_s=3_600)
    assert registry["x"].wait_for_batches(1)
    assert wait_until(lambda: not adoption.is_owned(path))
    assert not wait_until(lambda: adoption.is_owned(path), 1.0)


def test_a_spool_that_cannot_be_settled_now_is_let_go_of_and_tried_again(
    pipelines: list[Pipeline], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A disk that is full, or a person with a shell: a lock that stays would keep every other agent from it, too."""
    path = leave(tmp_path, "dead")
    spool = store.open_file(path, BOUND)
    spool.append([("null", encode_record("{}", 1, 1))], unprocessed=True)
    spool.close()
    leave(tmp_path, "other", "1")
    registry = Registry(null=("x",))
    somebody = sqlite3.connect(path, isolation_level=None)
    somebody.execute("BEGIN IMMEDIATE")
    start(pipelines, registry, tmp_path)
    assert wait_until(lambda: "cannot be adopted" in caplog.text)
    assert registry["x"].wait_for_taken(1)
    assert registry["x"].taken == ["other-1"]
    somebody.execute("ROLLBACK")
    somebody.close()
    assert wait_until(lambda: (tmp_path / "dead.delivered").exists())
    assert registry["x"].taken == ["other-1", "dead-1"]


def test_a_spool_that_fails_between_two_exporters_is_closed_when_neither_is_at_it(
    pipelines: list[Pipeline], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The first exporter has begun by then: what it sends is acknowledged, and the second one gets it later."""
    leave(tmp_path, "dead", "1", exporters=("x", "y"))
    add, failed = BatchExportWorker.add, threading.Event()

    def fails_once(route: BatchExportWorker, source: SpoolSource) -> None:
        if source.origin.id == "dead" and len(began) == 1 and not failed.is_set():
            failed.set()
            raise SpoolError("disk I/O error")
        began.append(route.name)
        add(route, source)

    began: list[str] = []
    monkeypatch.setattr(BatchExportWorker, "add", fails_once)
    adopting = Registry(null=("x", "y"))
    pipeline = Pipeline(
        adopting.make_sender, adopting.exporters_of, config=TERMS, directory=tmp_path, adoption_interval_s=0.02
    )
    pipelines.append(pipeline)
    pipeline.subscribe(("null",))
    pipeline.start()
    assert wait_until(lambda: (tmp_path / "dead.delivered").exists())
    assert failed.is_set()
    assert adopting["x"].taken == adopting["y"].taken == ["dead-1"]
    assert "it is adopted again later" in caplog.text


def test_each_destination_reaches_its_own_exporters(pipelines: list[Pipeline]) -> None:
    """One destination may fan out, and an exporter that two destinations share has one cursor."""
    registry = Registry(null=("x",), both=("x", "y"), other=("y",))
    spool = store.create_in_memory(BOUND)
    pipeline = start(pipelines, registry, spool=spool)
    for body, destination in (("1", "null"), ("2", "both"), ("3", "other"), ("4", "null")):
        pipeline.subscribe((destination,))
        spool.append([event(body, destination)])
        pipeline.wake()
    assert pipeline.flush(10 * S)
    assert registry["x"].taken == ["own-1", "own-2", "own-4"]
    assert registry["y"].taken == ["own-2", "own-3"]


def test_a_destination_whose_package_is_broken_costs_no_other(
    pipelines: list[Pipeline], caplog: pytest.LogCaptureFixture
) -> None:
    """An entry point may raise anything when it is loaded."""
    registry = Registry(null=("x",))

    def exporters_of(name: str) -> tuple[Exporter, ...]:
        if name == "brought":
            raise ImportError("no such module")
        return registry.exporters_of(name)

    pipeline = Pipeline(registry.make_sender, exporters_of, config=TERMS)
    pipelines.append(pipeline)
    spool = store.create_in_memory(BOUND)
    pipeline.add(spool, origin("own"))
    pipeline.subscribe(("brought", "null"))
    pipeline.start()
    spool.append([event("1", "brought"), event("2")])
    pipeline.wake()
    assert registry["x"].wait_for_taken(1)
    assert "no such module" in caplog.text


def test_when_the_disk_fails_a_new_destination_still_gets_its_events(pipelines: list[Pipeline], tmp_path: Path) -> None:
    """The writer goes on in memory; the exporter of a destination not seen before has no cursor on the disk."""
    disk = store.create(tmp_path / "a.spool", BOUND)
    registry = Registry(null=("x",), late=("y",))
    pipeline = start(pipelines, registry, spool=disk)
    disk.append([event("1")])
    pipeline.wake()
    assert registry["x"].wait_for_taken(1)
    assert wait_until(lambda: disk.cursors()["x"].pending == 0)
    disk._connection.execute("PRAGMA query_only=ON")
    with pytest.raises(SpoolError):
        pipeline.subscribe(("late",))
    memory = store.create_in_memory(BOUND, disk.last_sequence + 1)
    pipeline.add(memory, origin("not asked"))
    pipeline.subscribe(("late",))
    memory.append([event("2", "late"), event("3")])
    pipeline.wake()
    assert registry["y"].wait_for_taken(1)
    assert registry["x"].wait_for_taken(2)
    assert registry["y"].taken == ["own-2"]
    assert registry["x"].taken == ["own-1", "own-3"]
    assert pipeline.flush(10 * S)
    disk.close()


def test_a_flush_says_whether_anything_is_left(pipelines: list[Pipeline]) -> None:
    """``torchelastic_otel.flush()`` must not say yes while a receiver says no (OpenTelemetry's does)."""
    registry = Registry(null=("x", "y"))
    spool = store.create_in_memory(BOUND)
    pipeline = start(pipelines, registry, spool=spool)
    registry["y"].answer = ExportResult(Disposition.RETRY, "away")
    spool.append([event("1")])
    assert pipeline.flush(10 * S) is False
    assert pipeline.pending() == 1
    registry["y"].answer = DELIVERED
    assert pipeline.flush(10 * S) is True
    assert pipeline.pending() == 0


def test_a_flush_keeps_its_deadline_whatever_exporters_and_disk_do(pipelines: list[Pipeline]) -> None:
    """Promise 5: however many hang, also when it is the spool that does."""
    names = ("a", "b", "c", "d")
    registry = Registry(null=names)
    go = threading.Event()
    for name in names:
        registry[name].answer = hanging(go)
    spool = store.create_in_memory(BOUND)
    pipeline = start(pipelines, registry, spool=spool)
    spool.append([event("1")])
    begin = time.monotonic()
    assert pipeline.flush(S // 2) is False
    assert time.monotonic() - begin < 10
    with spool._lock:  # as a disk that hangs in the middle of a write
        begin = time.monotonic()
        assert pipeline.flush(S // 2) is False
        assert time.monotonic() - begin < 10
    go.set()
    assert pipeline.flush(10 * S) is True


def test_a_stop_with_many_hung_exporters_keeps_its_deadline(pipelines: list[Pipeline]) -> None:
    """Promise 5, however many signals."""
    names = ("a", "b", "c", "d")
    registry = Registry(null=names)
    go = threading.Event()
    for name in names:
        registry[name].answer = hanging(go)
    spool = store.create_in_memory(BOUND)
    pipeline = start(pipelines, registry, spool=spool)
    spool.append([event("1")])
    pipeline.wake()
    assert all(registry[name].wait_for_batches(1) for name in names)
    begin = time.monotonic()
    assert pipeline.stop(S // 2) is False
    assert time.monotonic() - begin < 10
    assert all(registry[name].aborted.is_set() for name in names)
    go.set()


@pytest.mark.tests_own_faults
def test_detectors_that_fail_or_a_disk_that_takes_no_note_start_the_routes_all_the_same(
    pipelines: list[Pipeline], tmp_path: Path
) -> None:
    """A resource detector is somebody else's code."""

    def detect() -> dict[str, str]:
        raise OSError("no metadata service")

    registry = Registry(null=("x",))
    pipeline = Pipeline(registry.make_sender, registry.exporters_of, config=TERMS, detect=detect)  # type: ignore[arg-type]
    pipelines.append(pipeline)
    spool = store.create_in_memory(BOUND)
    pipeline.add(spool, origin("own"))
    pipeline.subscribe(("null",))
    pipeline.start()
    spool.append([event("1")])
    pipeline.wake()
    assert registry["x"].wait_for_taken(1)
