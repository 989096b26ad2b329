"""A worker that is done at once."""
