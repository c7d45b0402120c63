"""Every table that headflow writes: its columns, their types, meanings and units; checked on write and on read."""

from dataclasses import dataclass
from pathlib import Path

import polars as pl

from headflow.errors import HeadflowError
from headflow.files import write_atomically


@dataclass(frozen=True)
class Column:
    """One column: polars type, and what it means (with its unit)."""

    dtype: pl.DataType | type[pl.DataType]
    meaning: str


@dataclass(frozen=True)
class Table:
    """One kind of table. ``extra`` allows further columns whose names begin with one of these prefixes."""

    name: str
    columns: dict[str, Column]
    extra: tuple[str, ...] = ()

    def check(self, frame: pl.DataFrame, where: str) -> pl.DataFrame:
        """Return ``frame`` if it has this table's columns and types.

        Raises:
            HeadflowError: names the first column that is missing, unknown or of another type.
        """
        for name, column in self.columns.items():
            if name not in frame.columns:
                raise HeadflowError(f"{where}: the {self.name} table has no column {name!r} ({column.meaning})")
            if frame.schema[name] != column.dtype:
                raise HeadflowError(f"{where}: column {name!r} of the {self.name} table is {frame.schema[name]}, expected {column.dtype}")
        for name in frame.columns:
            if name not in self.columns and not name.startswith(self.extra or ("\0",)):
                raise HeadflowError(f"{where}: the {self.name} table has an unknown column {name!r}")
        return frame

    def write(self, frame: pl.DataFrame, path: Path) -> None:
        """Check ``frame`` and write it as Parquet in one step (a reader sees the old file or the new one)."""
        self.check(frame, str(path))
        write_atomically(path, lambda temporary: frame.write_parquet(temporary, compression="zstd"))

    def read(self, path: Path) -> pl.DataFrame:
        """Read and check a table.

        Raises:
            HeadflowError: the file is missing, truncated, not Parquet, or holds other columns.
        """
        try:
            frame = pl.read_parquet(path, use_pyarrow=False, memory_map=False)
        except FileNotFoundError:
            raise HeadflowError(f"{path}: missing; run `dvc repro` to make it") from None
        except Exception as error:  # polars raises several unrelated classes for a damaged file
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise HeadflowError(f"{path}: not a readable Parquet file ({reason}); delete it and run `dvc repro` again") from error
        return self.check(frame, str(path))


_TEXT, _INT, _REAL, _BOOL, _BYTES = pl.String, pl.Int64, pl.Float64, pl.Boolean, pl.Binary
_ID = Column(_TEXT, "example, e.g. explain-00012-object")
_LAYER = Column(_INT, "decoder layer, 0 = nearest the input")
_HEAD = Column(_INT, "query head in its layer")

OBJECT = pl.Struct(
    {
        "name": pl.String, "category": pl.String, "colour": pl.String, "style": pl.String, "main": pl.Boolean,
        "x": pl.Int64, "y": pl.Int64, "width": pl.Int64, "height": pl.Int64, "mask": pl.Binary,
    }
)

EXAMPLES = Table(
    "examples",
    {
        "id": _ID,
        "split": Column(_TEXT, "'explain': to be explained; 'reference': only for baselines"),
        "row": Column(_INT, "row of the source that it comes from, numbered as in the skipped table; null for scenes"),
        "scene": Column(_INT, "index of the picture in its split"),
        "image": Column(_BYTES, "the picture, RGB PNG"),
        "question_kind": Column(_TEXT, "object, colour, count, colour_of, exists or description; 'asked' where the question came with the picture"),
        "question": Column(_TEXT, "the user's text"),
        "answer": Column(_TEXT, "the true answer"),
        "object_count": Column(_INT, "objects in the picture; null where it is not known"),
        "description": Column(_TEXT, "the true description; null where there is none"),
        "objects": Column(pl.List(OBJECT), "the known objects, each with its exact pixel mask (1-bit PNG of the picture's size), pixels; may be empty"),
    },
    extra=("meaning_", "looks_"),
)

SKIPPED = Table(
    "skipped",
    {
        "row": Column(_INT, "row of the manifest as its faults name it; place in COCO's list of images; place in the stream"),
        "id": Column(_TEXT, "the row's id, or its picture's name; null where neither is known"),
        "reason": Column(_TEXT, "what is wrong with it"),
    },
)

FEATURES = Table(
    "features",
    {
        "id": _ID,
        "stock_answer": Column(_TEXT, "what the untouched model generates"),
        "correct": Column(_BOOL, "the stock answer equals the true answer"),
        "explained": Column(_BOOL, "goes on to the ablation runs"),
        "target_answer": Column(_TEXT, "the answer that is explained: the true one or the model's own"),
        "answer_tokens": Column(pl.List(pl.Int64), "its token ids; targets of the first token use the first alone"),
        "rival_tokens": Column(pl.List(pl.Int64), "first tokens of the other candidate answers: those of the reference examples"),
        "stock_target": Column(_REAL, "target of the untouched model, logits or nats"),
        "tokens": Column(pl.List(pl.String), "the prompt, token by token, and the answer tokens that are fed to the model"),
        "roles": Column(pl.List(pl.String), "role of each token: system, image, question, role, final, answer"),
        "swap_partner": Column(_TEXT, "reference example whose picture the baseline 'swap' takes"),
        "image_start": Column(_INT, "first position of the image span"),
        "image_stop": Column(_INT, "one past the last position of the image span"),
    },
)

ATTENTION = Table(
    "attention",
    {
        "id": _ID, "layer": _LAYER, "head": _HEAD,
        "final_to_image": Column(_REAL, "share of the final token's attention that goes to the image span, 0..1"),
        "suffix_to_image": Column(_REAL, "the same, mean over all tokens after the image span, 0..1"),
    },
)  # fmt: skip

MASKS = Table(
    "masks",
    {
        "mask": Column(_INT, "index of the mask, unique in the table"),
        "purpose": Column(_TEXT, "'fit', 'held_out', 'single' (one head ablated), 'intact' (none) or 'ablated' (all)"),
        "bits": Column(_BYTES, "numpy.packbits of the mask, layer by layer, head by head; 1 = intact, 0 = ablated"),
    },
)

TARGETS = Table(
    "targets",
    {"id": _ID, "mask": Column(_INT, "mask of the masks table"), "target": Column(_REAL, "f under this mask, logits or nats")},
)

ATTRIBUTIONS = Table(
    "attributions",
    {
        "id": _ID, "layer": _LAYER, "head": _HEAD,
        "attribution": Column(_REAL, "fall of the target when the head is ablated, averaged over masks; target units"),
        "standard_error": Column(_REAL, "of the attribution, over the draw of masks; target units"),
        "single_head_effect": Column(_REAL, "f(intact) - f(only this head ablated); target units"),
    },
)  # fmt: skip

FITS = Table(
    "fits",
    {
        "id": _ID,
        "intercept": Column(_REAL, "predicted target with every head ablated"),
        "penalty": Column(_REAL, "ridge or lasso penalty chosen for this example"),
        "held_out_r": Column(_REAL, "Pearson r of predicted and actual target on held-out masks"),
        "held_out_r2": Column(_REAL, "R2 on held-out masks"),
        "intact": Column(_REAL, "target with no head ablated"),
        "ablated": Column(_REAL, "target with every head ablated"),
    },
)

PREDICTIONS = Table(
    "predictions",
    {
        "id": _ID, "mask": Column(_INT, "held-out mask"),
        "actual": Column(_REAL, "target under the mask"), "predicted": Column(_REAL, "target by the fit"),
    },
)  # fmt: skip

HEAD_SUMMARY = Table(
    "head summary",
    {
        "group": Column(_TEXT, "'all', or 'label=value' for the examples with that label"),
        "layer": _LAYER, "head": _HEAD,
        "mean": Column(_REAL, "mean attribution over the group's examples; target units"),
        "low": Column(_REAL, "lower end of the confidence interval over examples"),
        "high": Column(_REAL, "upper end of the confidence interval over examples"),
        "single_mean": Column(_REAL, "mean single-head effect; target units"),
        "examples": Column(_INT, "examples in the group"),
    },
)  # fmt: skip

GROWTH = Table(
    "growth",
    {
        "id": _ID,
        "masks": Column(_INT, "fit masks used"),
        "held_out_r": Column(_REAL, "Pearson r on held-out masks"),
        "agreement_r": Column(_REAL, "Pearson r between the two attribution vectors fitted on disjoint halves of these masks"),
    },
)

HEAD_CLUSTERS = Table(
    "head clusters",
    {
        "layer": _LAYER, "head": _HEAD,
        "cluster": Column(_INT, "cluster, numbered by falling total attribution"),
        "share": Column(_REAL, "the head's share of the summed mean |attribution| of all heads, 0..1"),
        "silhouette": Column(_REAL, "silhouette of the head in its cluster, -1..1"),
    },
)  # fmt: skip

PROFILES = Table(
    "profiles",
    {
        "layer": _LAYER, "head": _HEAD,
        "name": Column(_TEXT, "object name"),
        "attribution": Column(_REAL, "mean attribution over the examples with this object; target units"),
        "examples": Column(_INT, "examples with this object"),
    },
)  # fmt: skip

EXAMPLE_MAP = Table(
    "example map",
    {"id": _ID, "x": Column(_REAL, "first map coordinate"), "y": Column(_REAL, "second map coordinate")},
)

SEPARATION = Table(
    "separation",
    {
        "label": Column(_TEXT, "label column of the examples, e.g. meaning_name, looks_colour"),
        "kind": Column(_TEXT, "'meaning' or 'looks'"),
        "values": Column(_INT, "different values that occur at least twice"),
        "examples": Column(_INT, "examples used"),
        "silhouette": Column(_REAL, "mean silhouette of attribution vectors grouped by the label, cosine, -1..1"),
        "silhouette_chance": Column(_REAL, "the same under permuted labels, mean"),
        "silhouette_p": Column(_REAL, "permutation p-value of the silhouette"),
        "purity": Column(_REAL, "share of nearest neighbours with the same label, 0..1"),
        "purity_chance": Column(_REAL, "the same under permuted labels, mean"),
        "purity_p": Column(_REAL, "permutation p-value of the purity"),
        "explained": Column(_REAL, "share of the variance of attribution vectors explained by the label, 0..1"),
        "explained_chance": Column(_REAL, "the same under permuted labels, mean"),
        "explained_p": Column(_REAL, "permutation p-value of the explained share"),
    },
)

ALL_TABLES = (
    EXAMPLES, SKIPPED, FEATURES, ATTENTION, MASKS, TARGETS, ATTRIBUTIONS, FITS, PREDICTIONS, HEAD_SUMMARY, GROWTH,
    HEAD_CLUSTERS, PROFILES, EXAMPLE_MAP, SEPARATION,
)  # fmt: skip
