"""The demonstration: a real job, an OTLP receiver, the job's history, and what is missing."""
