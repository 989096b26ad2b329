"""The process runtime: activation, the ways in, and the lifetime of one installation."""
