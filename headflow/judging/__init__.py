"""Judging descriptions: which objects they name, and how two of them agree."""
