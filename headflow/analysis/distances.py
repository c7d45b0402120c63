"""Distances between attribution vectors, by direction alone: two examples are alike if the same heads matter in the same proportions."""

import numpy as np
from jaxtyping import Float


def cosine_distances(vectors: Float[np.ndarray, "examples size"]) -> Float[np.ndarray, "examples examples"]:
    """1 - cosine of every pair, 0..2, exactly symmetric with a zero diagonal; a zero vector has distance 1 to every other."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    directions = np.divide(vectors, lengths, out=np.zeros_like(vectors, dtype=float), where=lengths > 0)
    distances = np.clip(1.0 - directions @ directions.T, 0.0, 2.0)
    distances = (distances + distances.T) / 2
    np.fill_diagonal(distances, 0.0)
    distances[distances < 1e-12] = 0.0  # rounding: equal vectors must not look like structure
    return distances
