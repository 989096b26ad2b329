"""``timeline``: the history of a job, without a backend."""

from torchelastic_otel.cli.timeline.command import Timeline

__all__ = ["Timeline"]
