"""Independent random streams: every draw is named by a seed from the params, a stream and an index."""

import zlib

import numpy as np


def generator(seed: int, stream: str, *index: int) -> np.random.Generator:
    """A generator that depends on ``(seed, stream, index)`` and on nothing drawn before it."""
    return np.random.default_rng([seed, zlib.crc32(stream.encode()), *index])
