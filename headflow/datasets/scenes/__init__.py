"""Rendered scenes: pictures whose every factor is known and varies independently of the others."""
