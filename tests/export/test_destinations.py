"""Destinations lead to exporters, or to one error that helps."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest

from torchelastic_otel.errors import UnknownDestinationError as Unknown
from torchelastic_otel.export.destinations import (
    ENTRY_POINT_GROUP,
    EPHEMERAL_EXPORTERS,
    EXPORTER_GROUPS,
    RESERVED_NAME,
    Exporter,
    Registry,
)
from torchelastic_otel.model.signals import Signal
from torchelastic_otel.processing import processor


def brought() -> list[str]:
    """What a package's entry point returns."""
    return ["otlp_proto_http", "vendor"]


LOGS, TRACES, METRICS = (EXPORTER_GROUPS[signal] for signal in Signal)
POINTS = {
    ENTRY_POINT_GROUP: {
        "acme": EntryPoint("acme", f"{__name__}:brought", ENTRY_POINT_GROUP),
        RESERVED_NAME: EntryPoint(RESERVED_NAME, f"{__name__}:brought", ENTRY_POINT_GROUP),
    },
    LOGS: {"vendor": EntryPoint("vendor", "vendor:Exporter", LOGS)},
    TRACES: {"vendor": EntryPoint("vendor", "vendor:SpanExporter", TRACES)},
    METRICS: {"counting": EntryPoint("counting", "vendor:MetricExporter", METRICS)},
}


class OwnExporter:
    """An exporter that a program made."""

    def export(self, batch: object) -> None:
        """Take a batch."""


class SpanExporter(OwnExporter):
    """Named as OpenTelemetry's base class is."""


class OwnSpanExporter(SpanExporter):
    """An exporter of spans that a program made."""


OTLP = ["otlp", "otlp traces", "otlp metrics"]


@pytest.fixture(name="registry")
def _registry() -> Registry:
    registry = Registry(POINTS.__getitem__)
    registry.set_default_exporters([Exporter("otlp"), Exporter("otlp", signal=Signal.TRACES)])
    return registry


def cursors(exporters: tuple[Exporter, ...]) -> list[str]:
    """Their names in a spool."""
    return [exporter.cursor for exporter in exporters]


@pytest.mark.parametrize(
    ("name", "exporters"),
    [
        ("null", ["otlp", "otlp traces"]),
        ("dynamic_rendezvous", ["otlp", "otlp traces"]),
        ("console", ["console_line", "otlp", "otlp traces"]),
        ("otlp", OTLP),
        ("otlp_proto_grpc", ["otlp_proto_grpc", "otlp_proto_grpc traces", "otlp_proto_grpc metrics"]),
        ("otlp_proto_http", ["otlp_proto_http", "otlp_proto_http traces", "otlp_proto_http metrics"]),
        ("file", ["file", "file traces", "file metrics"]),
        ("memory", ["memory", "memory traces", "memory metrics"]),
        ("sdk", ["sdk"]),
        ("acme", ["otlp_proto_http", "otlp_proto_http traces", "otlp_proto_http metrics", "vendor", "vendor traces"]),
        ("vendor", ["vendor", "vendor traces"]),
        ("counting", ["counting metrics"]),
    ],
)
def test_every_known_name_leads_to_its_exporters(registry: Registry, name: str, exporters: list[str]) -> None:
    """Built in, torch's own, another package's, any installed exporter by its name: each for what it can tell."""
    assert cursors(registry.exporters_of(name)) == exporters


def test_one_signal_of_an_exporter_can_be_asked_for(registry: Registry) -> None:
    """`OTEL_TRACES_EXPORTER=vendor` sends no logs there; what tells no metrics is unknown as a metrics exporter."""
    assert cursors(registry.exporters("vendor", (Signal.TRACES,))) == ["vendor traces"]
    for name in ("vendor", "console_line", "sdk"):
        with pytest.raises(Unknown, match=f"unknown exporter '{name}'"):
            registry.exporters(name, (Signal.METRICS,))


def test_an_exporter_object_exports_what_its_class_says(registry: Registry) -> None:
    """A program's own OTLPSpanExporter must not be given log records."""
    logs, spans = OwnExporter(), OwnSpanExporter()
    registry.register("mine", logs, spans)
    assert [exporter.signal for exporter in registry.exporters_of("mine")] == [Signal.LOGS, Signal.TRACES]


def test_no_destination_has_the_name_that_spans_are_kept_under(registry: Registry) -> None:
    """Its events would be read as spans, and set aside."""
    assert RESERVED_NAME == processor.SPANS
    with pytest.raises(ValueError, match="this name is reserved"):
        registry.register(RESERVED_NAME, "otlp")
    with pytest.raises(Unknown):
        registry.exporters_of(RESERVED_NAME)


def test_what_only_a_living_process_can_show_is_known_by_its_cursors() -> None:
    """Nobody else's memory is to be waited for."""
    assert {"console_line", "memory", "memory traces", "memory metrics", "sdk"} == EPHEMERAL_EXPORTERS


def test_a_registered_destination_fans_out_and_can_be_forgotten(registry: Registry) -> None:
    """One destination, several exporters, by name and as an object."""
    own = OwnExporter()
    registry.register("mine", "otlp", own)
    assert cursors(registry.exporters_of("mine"))[:3] == OTLP
    assert [exporter.instance for exporter in registry.exporters_of("mine")] == [None, None, None, own]
    assert "mine" in registry.names()
    assert "mine" in registry.local_names()
    registry.unregister("mine")
    with pytest.raises(Unknown, match="unknown destination 'mine'"):
        registry.exporters_of("mine")


def test_an_unknown_name_lists_the_known_ones_and_the_nearest(registry: Registry) -> None:
    """One error that says what was given, what is allowed, what to do."""
    with pytest.raises(Unknown) as caught:
        registry.exporters_of("otpl")
    assert str(caught.value) == (
        "unknown destination 'otpl' (did you mean 'otlp'?); known: acme, console, dynamic_rendezvous, file, memory,"
        " null, otlp, otlp_proto_grpc, otlp_proto_http, sdk;"
        " add one with torchelastic_otel.register_destination(name, *exporters), and torchelastic_otel.install()"
    )
    assert isinstance(caught.value, KeyError)


def test_an_unknown_exporter_is_refused_when_it_is_registered(registry: Registry) -> None:
    """At the line where the mistake is, not at three in the morning."""
    with pytest.raises(Unknown, match="unknown exporter 'vendr'"):
        registry.register("mine", "vendr")
    with pytest.raises(TypeError, match="is not an exporter"):
        registry.register("mine", object())
    assert "mine" not in registry.names()


def test_a_name_that_was_never_registered_cannot_be_forgotten(registry: Registry) -> None:
    """Built-in destinations stay."""
    with pytest.raises(Unknown, match="unknown registered destination 'otlp'"):
        registry.unregister("otlp")


def test_exporters_of_one_class_are_two_exporters(registry: Registry) -> None:
    """Two collectors, one OTLPLogExporter each: each gets everything, by a cursor of its own."""
    one, other = OwnExporter(), OwnExporter()
    registry.register("mine", one, other)
    names = [exporter.name for exporter in registry.exporters_of("mine")]
    assert len(set(names)) == 2
    registry.register("again", other, one)
    assert [exporter.name for exporter in registry.exporters_of("again")] == names[::-1]


def test_a_destination_that_leads_elsewhere_is_kept_under_another_key(registry: Registry) -> None:
    """What was recorded before still goes where it was to go."""
    registry.register("mine", "otlp")
    before = registry.storage_key("mine")
    registry.register("mine", "file")
    assert registry.storage_key("mine") != before == "mine"
    assert cursors(registry.exporters_of(registry.storage_key("mine"))) == ["file", "file traces", "file metrics"]
    registry.register("null", "file")
    assert registry.storage_key("null") != "null"
    registry.unregister("null")
    assert cursors(registry.exporters_of(registry.storage_key("null"))) == ["otlp", "otlp traces"]


def test_what_cannot_be_an_exporter_is_refused(registry: Registry) -> None:
    """A class, and nothing at all."""
    with pytest.raises(TypeError, match="not a class"):
        registry.register("mine", OwnExporter)
    with pytest.raises(ValueError, match="destination 'mine' needs an exporter"):
        registry.register("mine")
