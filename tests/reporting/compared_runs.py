"""Made-up runs of several models with planted differences, as far as the comparison reads them.

Planted: at which relative depth attribution lies, in how many heads, how well a sum predicts, and how much of the whole effect single heads show.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from headflow.analysis.comparison import Subject
from headflow.tables import catalogue as tables


@dataclass(frozen=True)
class Planted:
    """What one made-up model is like; ``strong`` heads carry attribution, around relative depth ``centre``."""

    key: str
    layers: int = 6
    heads: int = 8
    centre: float = 0.6
    strong: int = 6
    scale: float = 3.0
    noise: float = 0.05
    r: float = 0.95
    alone: float | None = 0.3
    examples: int = 24
    asked: int = 26
    architecture: str = "LlavaForConditionalGeneration"
    image_layers: tuple[int, ...] | None = None
    decoder_layers: int | None = None

    @property
    def depth(self) -> np.ndarray:
        return np.asarray(self.image_layers or range(self.layers)) / (self.decoder_layers or self.layers)

    def subject(self, seed: int = 0) -> Subject:
        """The made-up run as arrays."""
        rng = np.random.default_rng([seed, *self.key.encode()])
        order = np.argsort(np.abs(np.repeat(self.depth, self.heads) - self.centre + rng.normal(0, 0.05, self.layers * self.heads)))
        mean = np.zeros(self.layers * self.heads)
        mean[order[: self.strong]] = self.scale * rng.uniform(0.5, 1.0, self.strong)
        grid = mean + self.scale * self.noise * rng.normal(size=(self.examples, mean.size)) + mean * rng.normal(0, 0.2, (self.examples, 1))
        total = grid.sum(1) * 1.1
        single = np.full(self.examples, np.nan) if self.alone is None else total * (self.alone + rng.normal(0, 0.02, self.examples))
        r = 1 - np.abs(rng.normal(1 - self.r, (1 - self.r) / 4, self.examples))
        ids = tuple(f"explain-{place:05d}-object" for place in range(self.examples))
        return Subject(self.key, self.depth, grid.reshape(-1, self.layers, self.heads), single, total, r, ids, tuple(self.image_layers or range(self.layers)))


def write(planted: Planted, root: Path) -> None:
    """Write the run below ``root`` where the stages would have written it."""
    subject = planted.subject()
    ids = [f"explain-{place:05d}-object" for place in range(planted.asked)]
    layer, head = (index.ravel() for index in np.indices(subject.attribution.shape[1:]))
    single = np.repeat(subject.single / len(layer), len(layer))
    attributions = pl.DataFrame(
        {
            "id": np.repeat(np.asarray(ids[: planted.examples], object), len(layer)), "layer": np.tile(layer, planted.examples),
            "head": np.tile(head, planted.examples), "attribution": subject.attribution.ravel(), "standard_error": 0.05, "single_head_effect": single,
        },
        schema=_schema(tables.ATTRIBUTIONS),
    )  # fmt: skip
    fits = pl.DataFrame(
        {
            "id": ids[: planted.examples], "intercept": 2.0, "penalty": 0.1, "held_out_r": subject.held_out_r, "held_out_r2": subject.held_out_r**2,
            "intact": 2.0 + subject.total, "ablated": 2.0,
        },
        schema=_schema(tables.FITS),
    )  # fmt: skip
    right = [place < planted.examples for place in range(planted.asked)]
    known = {"id": ids, "correct": right, "explained": right, "image_start": [3] * planted.asked, "image_stop": [3 + 36 * planted.layers // 6] * planted.asked}
    features = pl.DataFrame({name: known.get(name, [None] * planted.asked) for name in tables.FEATURES.columns}, schema=_schema(tables.FEATURES))
    data = root / "data"
    tables.ATTRIBUTIONS.write(attributions, data / "attributions" / planted.key / "attributions.parquet")
    tables.FITS.write(fits, data / "attributions" / planted.key / "fits.parquet")
    tables.FEATURES.write(features, data / "features" / planted.key / "features.parquet")
    about = {
        "key": planted.key, "id": f"somebody/{planted.key}", "source": f"somebody/{planted.key}", "revision": "0123456789abcdef" * 2, "dtype": "bfloat16",
        "attn": "auto", "quantization": None, "architecture": planted.architecture, "layers": planted.layers, "heads": planted.heads, "kv_heads": planted.heads,
        "decoder_layers": planted.decoder_layers or planted.layers, "image_layers": planted.image_layers, "trust_remote_code": False, "fingerprint": "f" * 64,
    }  # fmt: skip
    path = data / "models" / planted.key / "model.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(about), encoding="utf-8")


def _schema(table: tables.Table) -> dict:
    return {name: column.dtype for name, column in table.columns.items()}
