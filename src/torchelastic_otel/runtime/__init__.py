"""The process runtime: activation, the entry points, and the lifetime of one installation."""
