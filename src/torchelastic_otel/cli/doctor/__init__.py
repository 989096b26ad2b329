"""``doctor``: what is active and why, and whether events arrive."""
