"""The one room that imports the OpenTelemetry SDK: pure projections, and senders around the installed exporters.

Importing it, or any module of it but :mod:`~.http` and :mod:`~.grpc`, loads no exporter: those come at first use.
"""
