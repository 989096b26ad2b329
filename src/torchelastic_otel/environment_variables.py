"""Names of the environment variables that an agent sets for its workers; the settings' are in ``settings``."""

from __future__ import annotations

from typing import Final

PREFIX: Final = "TORCHELASTIC_OTEL"
TRAINING_FILE: Final = PREFIX + "_TRAINING_FILE"
"""The file that ``training_started()`` writes; one for each start of each worker."""
TRACEPARENT: Final = PREFIX + "_TRACEPARENT"
"""The span of the node's workers, as W3C Trace Context has it; set if ``TORCHELASTIC_OTEL_WORKER_CONTEXT=link``."""
TRACESTATE: Final = PREFIX + "_TRACESTATE"
EVIDENCE_FILE: Final = PREFIX + "_EVIDENCE_FILE"
"""``<process id of the agent>:<path without the process id>``; :mod:`torchelastic_otel_evidence` removes it."""
SET_FOR_WORKERS: Final = (TRAINING_FILE, EVIDENCE_FILE, TRACEPARENT, TRACESTATE)
