"""The demonstration: a real job, an embedded OTLP receiver, and a summary of what arrived."""
