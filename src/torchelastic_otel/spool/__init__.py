"""The durable outbox: one SQLite file for each process, on the standard library's ``sqlite3``."""
