"""Models whose answer is known: LLaVA checkpoints with constructed weights, in which a known set of heads carries the picture.

``headflow.load("planted:additive")`` builds one. :mod:`.circuits` says what is planted and what every head is worth; :mod:`.network`
turns it into weights.
"""

from headflow.lazy import lazily

_EXPORTS = {
    "CIRCUITS": "headflow.models.planted.circuits",
    "find_circuit": "headflow.models.planted.circuits",
    "install": "headflow.models.planted.network",
    "truth_table": "headflow.models.planted.truth",
}
__all__ = sorted(_EXPORTS)
__getattr__, __dir__ = lazily(__name__, _EXPORTS)
