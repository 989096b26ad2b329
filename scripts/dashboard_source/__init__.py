"""The dashboards of collector-config/dashboards, as Python; ``scripts/dashboards`` writes them as JSON.

What always holds: the same source gives the same bytes; whatever a panel asks stands in ``queries.py``'s words, so that
a name of a metric or an attribute is written once, in ``torchelastic_otel.semconv``.
"""
