"""The hot path: from torch's call to a record in the spool."""
