"""Small folders of pictures with a manifest, made on disk."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl
from PIL import Image

QUESTION = "What is it?"


def picture(seed: int, width: int = 10, height: int = 8) -> np.ndarray:
    """RGB noise."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def decoded(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)))


def rows_for(count: int) -> list[dict[str, object]]:
    """Rows about the pictures 0.png, 1.png …"""
    return [{"image": f"{index}.png", "question": QUESTION, "answer": ("cat", "dog")[index % 2]} for index in range(count)]


def write_folder(folder: Path, rows: Sequence[Mapping[str, object]], manifest: str = "manifest.csv", pictures: int | None = None) -> Path:
    """A folder with the pictures 0.png, 1.png … (as many as rows) and a manifest of the kind that its name says."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(len(rows) if pictures is None else pictures):
        Image.fromarray(picture(index)).save(folder / f"{index}.png")
    file = folder / manifest
    match file.suffix:
        case ".csv":
            with open(file, "w", newline="", encoding="utf-8") as handle:
                writer = csv.DictWriter(handle, list(dict.fromkeys(key for row in rows for key in row)))
                writer.writeheader()
                writer.writerows(rows)
        case ".jsonl":
            file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        case ".parquet":
            pl.DataFrame(rows).write_parquet(file)
    return folder
