"""What the vision tower makes of each picture, as kept by the stage extract_features."""

import json
from pathlib import Path

import numpy as np
from jaxtyping import Float

from headflow.errors import HeadflowError


def vision_features(path: Path, ids: list[str]) -> Float[np.ndarray, "examples features"] | None:
    """The vision-tower features of these examples from a features stage's tensors; None if there is no such file.

    Raises:
        HeadflowError: the file is damaged, holds no features, or not those of every example.
    """
    from safetensors import SafetensorError, safe_open

    if not path.exists():
        return None
    try:
        with safe_open(path, framework="numpy") as file:
            known = {name: place for place, name in enumerate(json.loads((file.metadata() or {}).get("ids", "[]")))}
            features = file.get_tensor("vision_features").astype(float)
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise HeadflowError(f"{path}: no readable vision features ({' '.join(str(error).split())}); delete it and run `dvc repro` again") from None
    if missing := [name for name in ids if known.get(name, len(features)) >= len(features)]:
        raise HeadflowError(f"{path}: has no vision features of example {missing[0]}; run `dvc repro`")
    return features[[known[name] for name in ids]]
