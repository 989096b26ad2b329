"""Torch's event texts and error files to events; one catalogue of all events."""
