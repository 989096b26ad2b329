"""From torch's event texts and error files to events: one catalogue."""
