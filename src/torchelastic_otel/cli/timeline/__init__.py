"""``timeline``: what happened to a job, told without a backend."""

from torchelastic_otel.cli.timeline.command import Timeline

__all__ = ["Timeline"]
