"""The only package that imports the OpenTelemetry SDK: pure projections, and senders around the installed exporters.

Importing it, or any module of it except :mod:`~.http` and :mod:`~.grpc`, loads no exporter.
"""
