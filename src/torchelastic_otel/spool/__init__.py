"""The durable outbox: one SQLite file for each capturing process, on the standard library's ``sqlite3``."""
