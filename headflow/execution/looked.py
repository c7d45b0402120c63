"""Where generated tokens look, kept picture by picture as soon as it is known: a run that was stopped goes on."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from headflow.analysis.sharing import Looked
from headflow.execution.executors.jobs import Records
from headflow.execution.fingerprint import digest, digest_json, record_key
from headflow.execution.records import find_or_make
from headflow.models import keeping, origins, places, spoken_attention, unmixed
from headflow.models.capture import Capture

_SHAPES = 4


def code_version() -> str:
    """SHA-256 of the code that decides these numbers, places on the picture included, beside the engine's."""
    modules = (keeping, origins, places, spoken_attention, unmixed)
    return digest(*(Path(module.__file__).read_bytes() for module in modules), Path(__file__).read_bytes())


class StoredLook:
    """What one description's tokens look at, as the result store knows it; the model runs only for what is missing there.

    Args:
        store: finished work.
        context: fingerprint of the model, the picture, the prompt and the engine's code.
        version: :func:`code_version`.
        tokens: the generated tokens, without the one that ends them; one at least.
        capture: captures the picture with these tokens fed to the model.
    """

    def __init__(self, store: Records, context: str, version: str, tokens: Sequence[int], capture: Callable[[Sequence[int]], Capture]) -> None:
        self._store, self._tokens, self._make = store, list(tokens), capture
        self._context = digest(context, "attention of generated tokens", version, digest_json(self._tokens))
        self._made: Capture | None = None

    def look(self, id: str, scene: int) -> Looked:
        """Shares, maps and tokens of this description."""
        record = self._stored("look", self._measured)
        layers, heads, reading, image = record[:_SHAPES].astype(int)
        sizes = (layers * heads * 3, layers * 3, 3, reading, reading * image, image)
        shares, even, tokens, numbers, maps, image_tokens = np.split(record[_SHAPES:], np.cumsum(sizes)[:-1])
        return Looked(
            id, scene, shares.reshape(layers, heads, 3), even.reshape(layers, 3), tuple(tokens.astype(int).tolist()), maps.reshape(reading, image),
            numbers.astype(int).tolist(), image_tokens > 0.5,
        )  # fmt: skip

    def boxes(self) -> Float[np.ndarray, "image 4"]:
        """Where each of the picture's keys lies on it, pixels; nan where it shows no part of it."""
        return self._stored("boxes", lambda: places.boxes_on_picture(self._capture())[0]).reshape(-1, 4).astype(float)

    def _measured(self) -> Float[np.ndarray, " numbers"]:
        capture = self._capture()
        found = spoken_attention.spoken_shares(capture)
        reading = capture.lvlm.image_layers or range(capture.lvlm.decoder_layers)
        image_tokens = keeping.selectable_tokens(capture) & found.shown.numpy()
        parts = (*found.shares.shape[:2], *found.maps.shape), found.shares, found.even, found.tokens, list(reading), found.maps, image_tokens
        return np.concatenate([np.asarray(part, np.float32).ravel() for part in parts])

    def _capture(self) -> Capture:
        if self._made is None:
            self._made = self._make(spoken_attention.all_fed(self._tokens))
        return self._made

    def _stored(self, name: str, make: Callable[[], np.ndarray]) -> Float[np.ndarray, " numbers"]:
        return find_or_make(self._store, record_key(self._context, name), make)
