"""How many examples each fuzz test draws: few by default, so that all of them take seconds; HEADFLOW_FUZZ=1000 draws that many (docs/security.md)."""

import os

from hypothesis import HealthCheck, settings

FUZZ = int(os.environ.get("HEADFLOW_FUZZ", "0"))
HANG_S = 20
"""One example that takes longer counts as a hang, on however busy a machine."""


def fuzz(examples: int) -> settings:
    """Settings of one fuzz test; ``examples`` where nothing else is asked for."""
    checks = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.filter_too_much]
    return settings(max_examples=FUZZ or examples, deadline=HANG_S * 1000, suppress_health_check=checks, derandomize=not FUZZ)
