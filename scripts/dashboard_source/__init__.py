"""The dashboards of collector-config/dashboards, as Python; ``scripts/dashboards`` writes them as JSON.

The output is deterministic. ``metric_queries.py`` and ``log_queries.py`` build queries from the names of metrics and
attributes in ``torchelastic_otel.semconv``.
"""
