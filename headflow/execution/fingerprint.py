"""Fingerprints of work: two units share one exactly when their numbers must be the same."""

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

import headflow
from headflow.errors import HeadflowError

# The modules whose code decides what number a masked forward gives.
ENGINE = (
    "ablation.py", "answers.py", "attention.py", "batching.py", "components.py", "gates.py",
    "kernels/flash.py", "kernels/grouped.py", "kernels/joint.py", "kernels/watched.py", "local_differences.py", "memory.py",
    "prompts.py", "suffix.py", "suffix_pass.py", "targets.py", "tolerance.py", "models/baselines.py", "models/capture.py", "models/loading.py",
    "models/lvlm.py", "models/processors.py",
)  # fmt: skip

# What decides beside the engine which tokens are generated under gates.
DECODING = ("decoding.py", "seeds.py", "sequences.py")


def engine_version(*more: str) -> str:
    """SHA-256 of the engine's source, and of ``more`` of the package's files: a record made by other code is never taken for this code's."""
    folder = Path(headflow.__file__).parent
    return digest(*((folder / name).read_bytes() for name in (*ENGINE, *more)))


def digest(*parts: bytes | str) -> str:
    """SHA-256 of ``parts``, each with its length, so that no two lists of parts read the same."""
    total = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        total.update(len(data).to_bytes(8, "little"))
        total.update(data)
    return total.hexdigest()


def digest_json(content: Any) -> str:
    """SHA-256 of a JSON value, whatever the order of its keys."""
    return digest(json.dumps(content, sort_keys=True, ensure_ascii=False))


def digest_files(paths: Iterable[Path]) -> str:
    """SHA-256 of files by name and content, read piece by piece.

    Raises:
        HeadflowError: a file cannot be read.
    """
    total = hashlib.sha256()
    for path in sorted(paths):
        try:
            with open(path, "rb") as file:
                # Its length goes before the content, so that bytes cannot move from one file to the next unseen.
                total.update(f"{path.name}\0{os.fstat(file.fileno()).st_size}\0".encode())
                while piece := file.read(1 << 22):
                    total.update(piece)
        except OSError as error:
            raise HeadflowError(f"{path}: cannot be read ({error.strerror})") from error
    return total.hexdigest()


def record_key(*parts: bytes | str) -> bytes:
    """Key of one record: 16 bytes of the SHA-256 of all that its numbers depend on."""
    return bytes.fromhex(digest(*parts))[:16]


def unit_key(context: str, masks: Bool[np.ndarray, "block *shape"] | Float[np.ndarray, "block *shape"]) -> bytes:
    """Key of one work unit: everything but the masks, by ``context``, and the masks themselves, by their bits or numbers."""
    shape = ",".join(map(str, masks.shape))
    content = np.packbits(masks) if masks.dtype == bool else masks.astype("<f4")
    return record_key(context, shape, content.tobytes())
