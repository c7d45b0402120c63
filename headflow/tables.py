"""Every table that headflow writes: its columns, their types, meanings and units; checked on write and on read."""

from dataclasses import dataclass
from pathlib import Path

import polars as pl
from polars.exceptions import PanicException

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
        except (Exception, PanicException) as error:  # polars raises several unrelated classes for a damaged file
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
        "purpose": Column(_TEXT, "'fit', 'held_out', 'single' (one head ablated), 'intact' (none), 'ablated' (all) or 'corner' (with gradients)"),
        "bits": Column(_BYTES, "numpy.packbits of the mask, layer by layer, head by head; 1 = intact, 0 = ablated"),
    },
)

TARGETS = Table(
    "targets",
    {"id": _ID, "mask": Column(_INT, "mask of the masks table"), "target": Column(_REAL, "f under this mask, logits or nats")},
)

GRADIENTS = Table(
    "gradients",
    {
        "id": _ID,
        "mask": Column(_INT, "corner of the masks table"),
        "target": Column(_REAL, "f at the corner, logits or nats"),
        "gradient": Column(pl.List(pl.Float32), "change of f with the gate of each head, layer by layer, head by head; target units"),
    },
)

ATTRIBUTIONS = Table(
    "attributions",
    {
        "id": _ID, "layer": _LAYER, "head": _HEAD,
        "attribution": Column(_REAL, "fall of the target when the head is ablated, averaged over masks; target units"),
        "standard_error": Column(_REAL, "of the attribution: the draw of masks and corners, and what shrinkage or a gradient's bias may hide; target units"),
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

EFFORT = Table(
    "effort",
    {
        "id": _ID,
        "masks": Column(_INT, "fit masks run"),
        "corners": Column(_INT, "corners with gradients"),
        "forwards": Column(_REAL, "cost of both in masked forwards, a forward with its backward counted as 2.7"),
        "relative_error": Column(_REAL, "estimated relative error of the example's attributions: root of summed squared standard errors over attributions"),
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
        "values": Column(_INT, "different values that occur in at least two pictures"),
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

_RANKING = Column(_TEXT, "what orders the heads: attribution, ablation, restoration, attention, gradient, integrated or random")
_SCOPE = Column(_TEXT, "'own': each example's own order; 'shared': the order by the mean score over all explained examples (a random order is always its own)")
_MEASURE = Column(_TEXT, "'faithfulness' or 'completeness'")

RANKINGS = Table(
    "rankings",
    {
        "id": Column(_TEXT, "example; null in scope 'shared'"),
        "ranking": _RANKING, "scope": _SCOPE, "layer": _LAYER, "head": _HEAD,
        "score": Column(_REAL, "what the heads are ordered by: target units; attention a share, random a number without meaning"),
        "place": Column(_INT, "place in the order of falling score, 0 = first; scores equal but for rounding by layer, then head"),
    },
)  # fmt: skip

CURVES = Table(
    "curves",
    {
        "id": _ID, "ranking": _RANKING, "scope": _SCOPE,
        "heads": Column(_INT, "k: the first heads of the ranking"),
        "top": Column(_REAL, "F(top-k): target with only these heads intact; target units"),
        "rest": Column(_REAL, "F(all but top-k): target with only these heads ablated; target units"),
        "faithfulness": Column(_REAL, "(F(top-k) - F(none)) / (F(all) - F(none)); null where the total effect is too small to divide by"),
        "completeness": Column(_REAL, "(F(all) - F(all but top-k)) / (F(all) - F(none)); null as above"),
    },
)  # fmt: skip

AREAS = Table(
    "areas",
    {
        "id": _ID, "ranking": _RANKING, "scope": _SCOPE, "measure": _MEASURE,
        "total_effect": Column(_REAL, "F(all) - F(none); target units"),
        "used": Column(_BOOL, "the total effect is large enough to divide by"),
        "area": Column(_REAL, "area under the curve over k/(L*H); null where not used"),
        "heads": Column(_INT, "smallest measured k that reaches the level; null where not used"),
    },
)  # fmt: skip

CURVE_BANDS = Table(
    "curve bands",
    {
        "ranking": _RANKING, "scope": _SCOPE, "measure": _MEASURE,
        "heads": Column(_INT, "k: the first heads of the ranking"), "share": Column(_REAL, "k/(L*H), 0..1"),
        "mean": Column(_REAL, "mean over examples"),
        "low": Column(_REAL, "lower end of the confidence interval over examples"), "high": Column(_REAL, "upper end"),
        "examples": Column(_INT, "examples used"),
    },
)  # fmt: skip

AREA_SUMMARY = Table(
    "area summary",
    {
        "ranking": _RANKING, "scope": _SCOPE, "measure": _MEASURE,
        "area": Column(_REAL, "mean area under the curve over examples"),
        "low": Column(_REAL, "lower end of the confidence interval over examples"), "high": Column(_REAL, "upper end"),
        "heads": Column(_REAL, "mean over examples of the smallest measured k that reaches the level"),
        "heads_low": Column(_REAL, "lower end of its confidence interval"), "heads_high": Column(_REAL, "upper end"),
        "of": Column(_INT, "L*H: all heads"),
        "examples": Column(_INT, "examples used"),
    },
)  # fmt: skip

AREA_DIFFERENCES = Table(
    "area differences",
    {
        "scope": _SCOPE, "measure": _MEASURE, "ranking": _RANKING, "other": _RANKING,
        "difference": Column(_REAL, "mean over examples of area of ranking minus area of other"),
        "low": Column(_REAL, "lower end of the paired confidence interval over examples"), "high": Column(_REAL, "upper end"),
        "p": Column(_REAL, "paired t-test of no difference"),
        "p_holm": Column(_REAL, "the same, corrected for all pairs of this scope and measure"),
    },
)  # fmt: skip

INTERACTIONS = Table(
    "interactions",
    {
        "layer": _LAYER, "head": _HEAD,
        "other_layer": Column(_INT, "decoder layer of the second head"), "other_head": Column(_INT, "the second head in its layer"),
        "effect": Column(_REAL, "f(both) - f(one) - f(other) + f(neither), mean over the states of the other heads and over examples; target units"),
        "standard_error": Column(_REAL, "of the effect, over the draw of masks; target units"),
        "low": Column(_REAL, "lower end of the effect's confidence interval"),
        "high": Column(_REAL, "upper end of the effect's confidence interval"),
        "p": Column(_REAL, "p-value of the effect, on masks that the choice of pairs has not seen"),
        "q": Column(_REAL, "p-value adjusted by Benjamini and Hochberg over the pairs of this table"),
        "kind": Column(_TEXT, "'compensate' (negative: either head suffices), 'need each other' (positive), or 'unclear' (q above the level)"),
        "same_sign": Column(_REAL, "share of examples in which the estimated effect has the sign of the mean, 0..1"),
    },
)  # fmt: skip

INTERACTION_FITS = Table(
    "interaction fits",
    {
        "id": _ID,
        "held_out_r": Column(_REAL, "Pearson r on held-out masks, first-order fit alone"),
        "held_out_r2": Column(_REAL, "R2 on held-out masks, first-order fit alone"),
        "held_out_r_pairs": Column(_REAL, "Pearson r on held-out masks with the chosen pairs added"),
        "held_out_r2_pairs": Column(_REAL, "R2 on held-out masks with the chosen pairs added"),
    },
)

UNIQUE_EFFECTS = Table(
    "unique effects",
    {
        "label": Column(_TEXT, "label column, or 'meaning' or 'looks' for all labels of that kind together"),
        "kind": Column(_TEXT, "'meaning' or 'looks'"),
        "given": Column(_TEXT, "kind of the labels held constant: the other one; null where there are none"),
        "examples": Column(_INT, "examples used"),
        "pictures": Column(_INT, "different pictures among them; they are what is permuted"),
        "degrees": Column(_INT, "degrees of freedom of the label beyond those of the labels held constant"),
        "left": Column(_INT, "degrees of freedom that all labels leave; without any the unique share is null"),
        "explained": Column(_REAL, "share of the variance of attribution vectors explained by the label alone, 0..1"),
        "explained_chance": Column(_REAL, "the same under permuted pictures, mean"),
        "explained_p": Column(_REAL, "permutation p-value of the explained share"),
        "unique": Column(_REAL, "share of the variance that the label explains beyond the labels held constant, 0..1"),
        "unique_chance": Column(_REAL, "the same under permuted residuals, mean"),
        "unique_p": Column(_REAL, "permutation p-value of the unique share (pseudo-F)"),
    },
)

SIMILARITIES = Table(
    "similarities",
    {
        "what": Column(_TEXT, "a label column, 'meaning' or 'looks' (share of such labels that agree), or 'vision' (vision-tower features)"),
        "kind": Column(_TEXT, "'meaning', 'looks' or 'vision'"),
        "pairs": Column(_INT, "pairs of examples of different pictures"),
        "r": Column(_REAL, "correlation of attribution similarity (cosine) with this similarity, over pairs"),
        "low": Column(_REAL, "lower end of its bootstrap interval over pictures"),
        "high": Column(_REAL, "upper end of its bootstrap interval over pictures"),
        "p": Column(_REAL, "permutation p-value of r over pictures, two-sided"),
        "given": Column(_TEXT, "the similarities held constant in the partial correlation, e.g. 'looks, vision'; null where there are none"),
        "partial": Column(_REAL, "partial correlation given the similarities held constant"),
        "partial_low": Column(_REAL, "lower end of its bootstrap interval over pictures"),
        "partial_high": Column(_REAL, "upper end of its bootstrap interval over pictures"),
    },
)

LOOK_PAIRS = Table(
    "look pairs",
    {
        "look": Column(_TEXT, "label that says when looks are the same; 'looks' = at least half of the labels of looks agree"),
        "same_meaning": Column(_BOOL, "both pictures show the same object"),
        "same_look": Column(_BOOL, "both pictures look the same"),
        "meaning": Column(_TEXT, "label that says when objects are the same"),
        "pairs": Column(_INT, "pairs of examples of different pictures"),
        "similarity": Column(_REAL, "mean cosine similarity of their attribution vectors; null without pairs"),
        "low": Column(_REAL, "lower end of its bootstrap interval over pictures"),
        "high": Column(_REAL, "upper end of its bootstrap interval over pictures"),
        "vision": Column(_REAL, "mean cosine similarity of their vision-tower features, centred over examples"),
        "id_a": Column(_TEXT, "an example of the most typical pair: nearest to the mean similarity"),
        "id_b": Column(_TEXT, "the other example of that pair"),
    },
)

LOOK_CONTRASTS = Table(
    "look contrasts",
    {
        "look": Column(_TEXT, "label that says when looks are the same, as in the look pairs"),
        "contrast": Column(_TEXT, "'meaning' and 'looks': what sharing it adds to pairs that share neither; 'meaning - looks': "
                           "same object in another look against another object in the same look"),
        "difference": Column(_REAL, "difference of mean cosine similarities of attribution vectors"),
        "low": Column(_REAL, "lower end of its bootstrap interval over pictures"),
        "high": Column(_REAL, "upper end of its bootstrap interval over pictures"),
    },
)  # fmt: skip

CLUSTERS = Table(
    "clusters",
    {
        "cluster": Column(_INT, "cluster, as in the head clusters"),
        "heads": Column(_INT, "its heads"),
        "share": Column(_REAL, "their share of the summed mean |attribution| of all heads, 0..1"),
        "silhouette": Column(_REAL, "mean silhouette of its heads, -1..1"),
        "stability": Column(_REAL, "mean over bootstrap draws of the largest Jaccard similarity with a cluster of the draw, 0..1"),
        "first_layer": Column(_INT, "lowest layer of its heads"),
        "middle_layer": Column(_REAL, "mean layer of its heads, weighted by their share"),
        "last_layer": Column(_INT, "highest layer of its heads"),
        "layer": Column(_INT, "layer of its largest head"),
        "head": Column(_INT, "its largest head"),
    },
)

CLUSTER_NAMES = Table(
    "cluster names",
    {
        "cluster": Column(_INT, "cluster, as in the head clusters"),
        "name": Column(_TEXT, "object name"),
        "examples": Column(_INT, "examples with this object"),
        "attribution": Column(_REAL, "attribution summed over the cluster's heads, mean over these examples; target units"),
        "part": Column(_REAL, "the same as a share of each example's summed |attribution|, mean, -1..1"),
        "excess": Column(_REAL, "part minus its mean over the examples of all other objects"),
        "p": Column(_REAL, "Mann-Whitney p-value of the parts against those of all other objects, two-sided; null for fewer than two pictures"),
        "q": Column(_REAL, "p-value adjusted by Benjamini and Hochberg over all clusters and names"),
    },
)

CLUSTER_EXAMPLES = Table(
    "cluster examples",
    {
        "cluster": Column(_INT, "cluster, as in the head clusters"),
        "rank": Column(_INT, "1 = most typical, by the cluster's share of the example's summed |attribution|; different pictures"),
        "id": _ID,
        "share": Column(_REAL, "the cluster's share of this example's summed |attribution|, 0..1"),
        "attribution": Column(_REAL, "attribution summed over the cluster's heads; target units"),
    },
)

_BASELINE = Column(_TEXT, "what ablated heads read: mean, blank, swap or closed")
_EXAMPLES, _PICTURES = Column(_INT, "examples used"), Column(_INT, "different pictures among them; the unit of the interval")
_LOW, _HIGH = Column(_REAL, "lower end of the confidence interval over pictures; null for a single one"), Column(_REAL, "upper end")

BASELINE_ATTRIBUTIONS = Table(
    "baseline attributions",
    {
        "id": _ID, "baseline": _BASELINE, "layer": _LAYER, "head": _HEAD,
        "attribution": Column(_REAL, "attribution of the head under this baseline; target units"),
        "standard_error": Column(_REAL, "of the attribution: the draw of masks and corners, and what shrinkage or a gradient's bias may hide; target units"),
    },
)  # fmt: skip

BASELINE_HEADS = Table(
    "baseline heads",
    {
        "baseline": _BASELINE, "layer": _LAYER, "head": _HEAD,
        "mean": Column(_REAL, "mean attribution over pictures; target units"), "low": _LOW, "high": _HIGH, "examples": _EXAMPLES,
    },
)  # fmt: skip

BASELINE_FITS = Table(
    "baseline fits",
    {
        "id": _ID, "baseline": _BASELINE,
        "intact": Column(_REAL, "target with no head ablated"), "ablated": Column(_REAL, "target with every head ablated"),
        "total_effect": Column(_REAL, "intact - ablated; target units"),
        "held_out_r": Column(_REAL, "Pearson r of predicted and actual target on held-out masks; null where the target does not vary"),
        "held_out_r2": Column(_REAL, "R2 on held-out masks; null as above"),
        "relative_error": Column(_REAL, "estimated relative error of the example's attributions, as in the effort table"),
        "probability_intact": Column(_REAL, "probability of the explained answer's first token with no head ablated, 0..1"),
        "probability": Column(_REAL, "the same with every head ablated"),
        "rank": Column(_INT, "its rank among all tokens with every head ablated, 1 = the model says it"),
        "says": Column(_TEXT, "the token that the model says with every head ablated"),
        "candidate": Column(_BOOL, "that token begins one of the candidate answers; null where there are no others"),
    },
)  # fmt: skip

BASELINE_SUMMARY = Table(
    "baseline summary",
    {
        "baseline": _BASELINE,
        "measure": Column(_TEXT, "a column of the baseline fits: total_effect, held_out_r, probability or candidate (share)"),
        "mean": Column(_REAL, "mean over pictures"), "low": _LOW, "high": _HIGH, "examples": _EXAMPLES, "pictures": _PICTURES,
    },
)  # fmt: skip

BASELINE_AGREEMENT = Table(
    "baseline agreement",
    {
        "baseline": _BASELINE, "other": _BASELINE,
        "r": Column(_REAL, "Pearson r over heads of an example's attributions under the two, mean over pictures; null where neither varies"),
        "low": _LOW, "high": _HIGH,
        "ceiling": Column(_REAL, "r of two independent estimates as noisy as these of the same attributions, mean over pictures"),
        "overlap": Column(_REAL, "share of the heads of largest |attribution| under one that are so under the other too, 0..1, mean over pictures"),
        "overlap_low": _LOW, "overlap_high": _HIGH,
        "chance": Column(_REAL, "the overlap of heads drawn at random"),
        "top": Column(_INT, "heads of largest |attribution| taken"), "examples": _EXAMPLES, "pictures": _PICTURES,
    },
)  # fmt: skip

BASELINE_DIFFERENCES = Table(
    "baseline differences",
    {
        "measure": Column(_TEXT, "a measure of the baseline summary; or 'apart': r of the other baselines with each other minus r with this one"),
        "baseline": _BASELINE, "other": Column(_TEXT, "the baseline that it is compared with; null = all others"),
        "difference": Column(_REAL, "mean difference within pictures: of 'apart' as said there, else baseline minus other"),
        "low": _LOW, "high": _HIGH,
        "p": Column(_REAL, "paired t-test of no difference; null for a single picture"),
        "p_holm": Column(_REAL, "the same, corrected for all rows of this measure"),
        "examples": _EXAMPLES, "pictures": _PICTURES,
    },
)  # fmt: skip

BASELINE_GAPS = Table(
    "baseline gaps",
    {
        "baseline": _BASELINE, "id": Column(_TEXT, "example that cannot be given this baseline; null = none can"),
        "reason": Column(_TEXT, "why not"),
    },
)  # fmt: skip

TRUTHS = Table(
    "truths",
    {
        "circuit": Column(_TEXT, "planted circuit"),
        "category": Column(_TEXT, "category of the object that the values are about; null = all"),
        "layer": _LAYER, "head": _HEAD,
        "part": Column(_TEXT, "'carrier' (takes the picture to the answer), 'relay' (moves it on from the role token), 'decoy' (looks, says nothing), 'idle'"),
        "banzhaf": Column(_REAL, "exact Banzhaf value; logits"),
        "shapley": Column(_REAL, "exact Shapley value; logits"),
        "single_head_effect": Column(_REAL, "f(intact) - f(only this head ablated), exact; logits"),
    },
)  # fmt: skip

PLANTED_SCORES = Table(
    "planted scores",
    {
        "circuit": Column(_TEXT, "planted circuit"),
        "ranking": Column(_TEXT, "what the heads were scored by, e.g. attribution, ablation, attention"),
        "estimand": Column(_TEXT, "'banzhaf' or 'shapley': the exact values compared with"),
        "examples": Column(_INT, "examples that the means below are over"),
        "carriers": Column(_REAL, "heads that carry the picture, mean over examples"),
        "precision": Column(_REAL, "share of carriers among the named heads: those of largest |score|, as many as carriers, zeros left out; null if all are"),
        "recall": Column(_REAL, "share of the carriers that are named, 0..1"),
        "interval_precision": Column(_REAL, "share of carriers among heads whose interval leaves out 0; null without intervals or such heads"),
        "interval_recall": Column(_REAL, "share of the carriers whose interval leaves out 0; null without intervals"),
        "coverage": Column(_REAL, "share of all heads whose interval holds the exact value; null without intervals"),
        "largest_error": Column(_REAL, "largest |score - exact value| of a head; logits; null for scores in other units"),
        "relative_error": Column(_REAL, "root mean square error over root mean square exact value; null for scores in other units"),
        "rank_correlation": Column(_REAL, "Spearman correlation with the exact values, -1..1; 0 for scores that are all alike"),
    },
)

_TRACED_HEADS = Column(_TEXT, "'all' heads are cut, or the 'top' ones alone: the first of the mean head attribution")
_WINDOW = Column(_INT, "band of layers in which the token is cut, 0 = nearest the input; null = the sum over all bands")
_TEMPLATE_OF = Column(_TEXT, "template of the examples, as in the text slots; null = all examples")
_SHARE_OF_EFFECT = "mean over mean total effect f(intact) - f(these heads cut at all tokens); null where that cannot be told from 0"

TEXT_TOKENS = Table(
    "text tokens",
    {
        "id": _ID, "heads": _TRACED_HEADS,
        "window": Column(_INT, "band of layers in which the token is cut, 0 = nearest the input"),
        "first_layer": Column(_INT, "first decoder layer of the band"), "last_layer": Column(_INT, "its last decoder layer"),
        "token": Column(_INT, "place of the token among those after the picture (all tokens where the picture stands in no sequence), 0 = first"),
        "text": Column(_TEXT, "the token"),
        "role": Column(_TEXT, "question, role, final or answer (system or image where the picture stands in no sequence)"),
        "attribution": Column(_REAL, "fall of the target when the token reads no picture there, averaged over what the others read; target units"),
        "standard_error": Column(_REAL, "of the attribution, over the draw of masks; 0 where all combinations were run; target units"),
        "low": Column(_REAL, "lower end of its confidence interval over the draw of masks"), "high": Column(_REAL, "upper end"),
        "alone": Column(_REAL, "f(intact) - f(only this token cut there); target units"),
    },
)  # fmt: skip

TEXT_FITS = Table(
    "text fits",
    {
        "id": _ID, "heads": _TRACED_HEADS,
        "components": Column(_INT, "tokens times bands of layers"),
        "estimator": Column(_TEXT, "estimator of the regression; 'exhaustive' where all combinations were run"),
        "masks": Column(_INT, "masked forwards"), "corners": Column(_INT, "gradients"),
        "held_out_r": Column(_REAL, "Pearson r of predicted and actual target on masks that the fit has not seen; null where it does not vary"),
        "held_out_r2": Column(_REAL, "R2 on the same masks"),
        "intact": Column(_REAL, "target with no token cut"), "ablated": Column(_REAL, "target with these heads cut at all tokens"),
    },
)  # fmt: skip

TEXT_ROLES = Table(
    "text roles",
    {
        "template": _TEMPLATE_OF, "heads": _TRACED_HEADS, "window": _WINDOW,
        "role": Column(_TEXT, "role of the tokens; 'after' = role, final and answer together; 'before' = all others; 'all' = all tokens"),
        "tokens": Column(_REAL, "tokens of this role, mean over examples"),
        "mean": Column(_REAL, "attribution summed over the tokens, mean over examples; target units"),
        "low": Column(_REAL, "lower end of its confidence interval over pictures"), "high": Column(_REAL, "upper end"),
        "p": Column(_REAL, "p-value of no attribution, over pictures"),
        "share": Column(_REAL, _SHARE_OF_EFFECT),
        "share_low": Column(_REAL, "lower end of the share's interval"), "share_high": Column(_REAL, "upper end"),
        "examples": Column(_INT, "examples with such tokens"), "pictures": Column(_INT, "different pictures among them"),
    },
)  # fmt: skip

TEXT_SLOTS = Table(
    "text slots",
    {
        "heads": _TRACED_HEADS, "window": _WINDOW,
        "template": Column(_TEXT, "the question that the examples share, with a gap where its words vary"),
        "slot": Column(_INT, "place in the template, 0 = first"),
        "role": Column(_TEXT, "role of its tokens"),
        "text": Column(_TEXT, "its token; in angle brackets where words vary between examples, whose attributions are summed"),
        "mean": Column(_REAL, "mean attribution over examples; target units"),
        "low": Column(_REAL, "lower end of its confidence interval over pictures"), "high": Column(_REAL, "upper end"),
        "size": Column(_REAL, "mean |attribution| over examples; target units"),
        "p": Column(_REAL, "p-value of no attribution, over pictures"),
        "p_holm": Column(_REAL, "the same, corrected for all slots of the template"),
        "share": Column(_REAL, _SHARE_OF_EFFECT),
        "share_low": Column(_REAL, "lower end of the share's interval"), "share_high": Column(_REAL, "upper end"),
        "alone": Column(_REAL, "f(intact) - f(only this token cut), mean over examples; target units"),
        "examples": Column(_INT, "examples that have it"),
    },
)  # fmt: skip

TEXT_CONTRASTS = Table(
    "text contrasts",
    {
        "template": _TEMPLATE_OF,
        "contrast": Column(_TEXT, "'after - before': share of the tokens after the question minus that of those up to its end, all heads; "
                           "'top - all': share of the tokens after the question with the top heads minus with all; "
                           "'similarity': cosine of the attributions over tokens with the top heads and with all"),
        "value": Column(_REAL, "over examples: a difference of shares, or a mean cosine"),
        "low": Column(_REAL, "lower end of its confidence interval over pictures"), "high": Column(_REAL, "upper end"),
        "p": Column(_REAL, "p-value of no difference; null for the similarity"),
    },
)  # fmt: skip

_ROUTE = Column(_TEXT, "edges that are closed: 'question→role', 'role→final', 'image→question', 'image→role' (role stands for role, final and answer "
                "tokens, final for final and answer tokens), 'picture' (both from the image), or 'all'")  # fmt: skip
_FIRST, _LAST = Column(_INT, "first decoder layer in which the route is closed"), Column(_INT, "last decoder layer in which it is closed")

FLOW_EFFECTS = Table(
    "flow effects",
    {
        "id": _ID, "route": _ROUTE, "first_layer": _FIRST, "last_layer": _LAST,
        "effect": Column(_REAL, "f(intact) - f(route closed in these layers); target units"),
    },
)  # fmt: skip

FLOW_BANDS = Table(
    "flow bands",
    {
        "template": _TEMPLATE_OF, "route": _ROUTE,
        "closed": Column(_TEXT, "'window' (a sliding window), 'from' (the layer and all above), 'below' (all layers below it) or 'everywhere'"),
        "first_layer": _FIRST, "last_layer": _LAST,
        "at": Column(_REAL, "decoder layer where it is drawn: the window's middle, the first layer closed ('from'), the first layer left open ('below')"),
        "mean": Column(_REAL, "mean effect over examples; target units"),
        "low": Column(_REAL, "lower end of its confidence interval over pictures"), "high": Column(_REAL, "upper end"),
        "p": Column(_REAL, "p-value of no effect, over pictures"),
        "share": Column(_REAL, "mean effect over the mean effect of the route 'picture'; null where that cannot be told from 0"),
        "share_low": Column(_REAL, "lower end of the share's interval"), "share_high": Column(_REAL, "upper end"),
        "examples": Column(_INT, "examples with this route"),
    },
)  # fmt: skip

FLOW_DEPTHS = Table(
    "flow depths",
    {
        "template": _TEMPLATE_OF, "route": _ROUTE,
        "effect": Column(_REAL, "mean effect of closing the route in all layers; target units"),
        "effect_low": Column(_REAL, "lower end of its confidence interval over pictures"), "effect_high": Column(_REAL, "upper end"),
        "effect_p": Column(_REAL, "p-value of no effect"),
        "share": Column(_REAL, "the effect over the mean effect of the route 'picture'; null where that cannot be told from 0"),
        "depth": Column(_REAL, "mean decoder layer, weighted by what closing a layer adds when all above or all below it are closed; "
                        "null where the effect cannot be told from 0 or is below 1 % of the picture's, or where layers pull in opposite directions"),
        "depth_low": Column(_REAL, "lower end of its bootstrap interval over pictures"), "depth_high": Column(_REAL, "upper end"),
        "window_depth": Column(_REAL, "mean middle of those sliding windows whose interval lies above 0, weighted by their mean effects; null if none does"),
        "first": Column(_REAL, "middle of the first window whose interval lies above 0, all windows of the route taken together (Bonferroni); null if none"),
        "last": Column(_REAL, "middle of the last such window"),
        "examples": Column(_INT, "examples with this route"),
    },
)  # fmt: skip

FLOW_CONTRASTS = Table(
    "flow contrasts",
    {
        "template": _TEMPLATE_OF,
        "measure": Column(_TEXT, "'depth' (mean decoder layer) or 'effect' (share of the effect of the route 'picture')"),
        "route": _ROUTE, "other": Column(_TEXT, "the route that is subtracted"),
        "difference": Column(_REAL, "of the route's measure and the other's, over the same examples"),
        "low": Column(_REAL, "lower end of its interval over pictures: bootstrap for depths, by linearisation for effects"),
        "high": Column(_REAL, "upper end"),
        "p": Column(_REAL, "p-value of no difference"),
        "p_holm": Column(_REAL, "the same, corrected for all pairs of this measure"),
    },
)

_PLACE = {
    "left": Column(_REAL, "part of the picture that the token shows, pixels from its left border; null where it shows none, or that is not known"),
    "top": Column(_REAL, "the same from the upper border"), "right": Column(_REAL, "the same from the left border"),
    "bottom": Column(_REAL, "the same from the upper border"),
}  # fmt: skip
_IMAGE_TOKEN = Column(_INT, "place in the image span (among the picture's keys under cross-attention), 0 = first")
_AMOUNT = Column(
    _TEXT,
    "what is divided: 'attribution' (its size), 'positive' (attribution above 0), 'net' (its signed sum), 'top heads' (size of the attribution with the top "
    "heads alone), 'attention' (of the final token, mean over heads and layers), 'even' (all tokens alike) or 'area'",
)

IMAGE_TOKENS = Table(
    "image tokens",
    {
        "id": _ID, "token": _IMAGE_TOKEN,
        "group": Column(_INT, "component that the token belongs to: itself, or a patch of tokens where there are many"),
        "group_tokens": Column(_INT, "tokens of that component"),
        "attribution": Column(_REAL, "fall of the target when the text reads the token's baseline, averaged over what it reads of the others; of a patch in "
                              "equal parts; target units"),
        "standard_error": Column(_REAL, "of the attribution: draw of corners, what masks change about it, and an allowance for bias; target units"),
        "low": Column(_REAL, "lower end of its confidence interval"), "high": Column(_REAL, "upper end"),
        "attribution_top_heads": Column(_REAL, "the same with the top heads alone cut off from the token; null where that was not asked for"),
        "standard_error_top_heads": Column(_REAL, "of that attribution"),
        "attention": Column(_REAL, "weight of the final token's attention on this token in the stock model, mean over heads and layers, 0..1"),
        "in_object": Column(_REAL, "share of the token's part of the picture that the main object covers, 0..1; null where either is not known"),
        "in_others": Column(_REAL, "the same for the other known objects"),
        **_PLACE,
    },
)  # fmt: skip

IMAGE_FITS = Table(
    "image fits",
    {
        "id": _ID, "heads": _TRACED_HEADS,
        "tokens": Column(_INT, "image tokens"), "components": Column(_INT, "tokens or patches that were cut each alone"),
        "estimator": Column(_TEXT, "'differences': scaled local differences; else the estimator of the regression, where that predicts clearly better"),
        "masks": Column(_INT, "masked forwards"), "corners": Column(_INT, "masks at which local differences were taken"),
        "forwards": Column(_REAL, "cost of both in masked forwards, a forward with its backward counted as 2.7"),
        "held_out_r": Column(_REAL, "Pearson r of predicted and actual target on masks that the fit has not seen; null where it does not vary"),
        "held_out_r2": Column(_REAL, "R2 on the same masks"),
        "relative_error": Column(_REAL, "estimated relative error of the attributions: root of summed squared standard errors over attributions"),
        "intact": Column(_REAL, "target with no token cut"), "ablated": Column(_REAL, "target with these heads cut off from all tokens"),
        "sum": Column(_REAL, "sum of the attributions; target units"),
        "patches_checked": Column(_INT, "patches that were halved in the search"),
        "patches_agreeing": Column(_INT, "those whose attribution as a whole is the sum of their parts' within error"),
    },
)  # fmt: skip

IMAGE_SHARES = Table(
    "image shares",
    {
        "id": _ID, "what": _AMOUNT,
        "object": Column(_REAL, "share of it that lies in the main object; null where there is nothing to divide"),
        "others": Column(_REAL, "in the other known objects"), "background": Column(_REAL, "in neither"),
        "placed": Column(_REAL, "part of it that belongs to tokens whose place is known, and so is divided here"),
    },
)

IMAGE_SHARE_MEANS = Table(
    "image share means",
    {
        "what": _AMOUNT, "part": Column(_TEXT, "'object' (the main one), 'others' or 'background'"),
        "mean": Column(_REAL, "share, mean over examples"),
        "low": Column(_REAL, "lower end of its confidence interval over pictures"), "high": Column(_REAL, "upper end"),
        "over": Column(_REAL, "share minus the share of 'even', mean over examples"),
        "over_low": Column(_REAL, "lower end of its confidence interval over pictures"), "over_high": Column(_REAL, "upper end"),
        "p": Column(_REAL, "p-value of no difference from 'even'"), "p_holm": Column(_REAL, "the same, corrected for the three parts"),
        "examples": Column(_INT, "examples with known objects and places"), "pictures": Column(_INT, "different pictures among them"),
    },
)  # fmt: skip

IMAGE_SPARSITY = Table(
    "image sparsity",
    {
        "id": _ID, "what": Column(_TEXT, "'attribution', 'top heads' (attribution with the top heads alone) or 'attention'"),
        "tokens": Column(_INT, "fewest image tokens that hold 80 % of it; null where there is nothing to hold"),
        "of": Column(_INT, "image tokens"), "share": Column(_REAL, "tokens / of, 0..1"),
    },
)  # fmt: skip

IMAGE_CURVES = Table(
    "image curves",
    {
        "what": Column(_TEXT, "as in the image sparsity"), "percent": Column(_REAL, "image tokens, largest first, percent of all"),
        "held": Column(_REAL, "share of the summed sizes that they hold, mean over examples"),
        "low": Column(_REAL, "lower end of its confidence interval over pictures"), "high": Column(_REAL, "upper end"),
    },
)  # fmt: skip

IMAGE_BACKGROUND = Table(
    "image background",
    {
        "id": _ID, "token": _IMAGE_TOKEN,
        "attribution": Column(_REAL, "attribution of a token that lies wholly outside all known objects; target units; sorted by falling size"),
        "low": Column(_REAL, "lower end of its confidence interval, which excludes 0"), "high": Column(_REAL, "upper end"),
        "p": Column(_REAL, "p-value of no attribution"),
        "q": Column(_REAL, "the same adjusted by Benjamini and Hochberg over all such tokens of all examples"),
        "attention": Column(_REAL, "weight of the final token's attention on it, 0..1"),
        **_PLACE,
    },
)  # fmt: skip

_WAY = Column(_TEXT, "what becomes of the other image tokens: 'baseline' (the text reads their twins), 'closed' (the text cannot see them) or "
                     "'removed' (the decoder never sees them)")  # fmt: skip
_SELECTION = Column(
    _TEXT,
    "what the kept tokens are chosen by: 'attribution', 'attention' (of the final token), 'position' (attribution at the same place, mean over the "
    "other examples) or 'random'",
)
_KEPT_MEASURE = Column(_TEXT, "'accuracy' (share of examples whose whole answer is right) or 'target' (target units)")

KEPT = Table(
    "kept tokens",
    {
        "id": _ID, "picture": Column(_INT, "picture that the example asks about: its scene in the examples table"), "way": _WAY, "selection": _SELECTION,
        "percent": Column(_REAL, "k: share of the image tokens that is to stay, percent; 0 = none, 100 = all"),
        "kept": Column(_INT, "image tokens that stay: the nearest number, one at least where k is above 0"),
        "of": Column(_INT, "image tokens of the picture; structural tokens between them always stay and are not counted"),
        "target": Column(_REAL, "target with these image tokens alone; target units"),
        "first_right": Column(_BOOL, "greedy decoding gives the right answer's first token"),
        "right": Column(_BOOL, "greedy decoding gives the right answer's tokens, all of them, and ends there"),
    },
)  # fmt: skip

KEPT_BANDS = Table(
    "kept bands",
    {
        "way": _WAY, "selection": _SELECTION, "percent": Column(_REAL, "k, percent of the image tokens"),
        "share": Column(_REAL, "image tokens that stay, as a share of all, mean over examples, 0..1"),
        "tokens": Column(_REAL, "image tokens that stay, mean over pictures"),
        "measure": _KEPT_MEASURE, "mean": Column(_REAL, "share of right answers, or mean target, over pictures"),
        "low": Column(_REAL, "lower end of its interval over pictures: Wilson's for accuracy, Student's t for the target"),
        "high": Column(_REAL, "upper end"), "pictures": Column(_INT, "different pictures of the examples used"),
    },
)  # fmt: skip

KEPT_SUMMARY = Table(
    "kept summary",
    {
        "way": _WAY, "selection": _SELECTION, "measure": _KEPT_MEASURE,
        "area": Column(_REAL, "mean height of the curve over the logarithm of the share kept, mean over pictures"),
        "low": Column(_REAL, "lower end of its Student-t interval over pictures"), "high": Column(_REAL, "upper end"),
        "stock": Column(_REAL, "mean with all image tokens"), "none": Column(_REAL, "mean with no image token"),
        "level": Column(_REAL, "part of the accuracy, or of the target's rise from no image token to all, that is to be held, 0..1"),
        "share": Column(_REAL, "smallest measured share of image tokens from which on the level is held, 0..1; null where all give nothing above none"),
        "tokens": Column(_REAL, "image tokens that this is, mean over examples"),
        "share_low": Column(_REAL, "lower end of its bootstrap interval over pictures"), "share_high": Column(_REAL, "upper end"),
        "pictures": Column(_INT, "different pictures of the examples used"),
    },
)  # fmt: skip

KEPT_DIFFERENCES = Table(
    "kept differences",
    {
        "way": _WAY, "measure": _KEPT_MEASURE, "selection": _SELECTION, "other": _SELECTION,
        "difference": Column(_REAL, "area of selection minus area of other, mean over pictures that both have"),
        "low": Column(_REAL, "lower end of the paired Student-t interval over pictures"), "high": Column(_REAL, "upper end"),
        "p": Column(_REAL, "paired t-test of no difference"),
        "p_holm": Column(_REAL, "the same, corrected for all pairs of this way and measure"),
        "pictures": Column(_INT, "different pictures of the examples that both selections have"),
    },
)  # fmt: skip

_TOKEN = Column(_INT, "place in the image span (in the picture's keys under cross-attention), 0 = first")
_MAPS = {
    "token": _TOKEN,
    "attention": Column(_REAL, "weight of the final token's attention on this image token, in the stock model, 0..1"),
    "attention_text": Column(_REAL, "the same, mean over all tokens after the picture, 0..1"),
    "attribution": Column(_REAL, "change of the target through the head when this token turns from baseline to real, mean over corners; target units"),
    "left": Column(_REAL, "part of the picture that the token shows, pixels from its left border; null where the token shows none, or it is not known"),
    "top": Column(_REAL, "the same from the upper border"),
    "right": Column(_REAL, "the same from the left border"), "bottom": Column(_REAL, "the same from the upper border"),
}  # fmt: skip

HEAD_MAPS = Table("head maps", {"id": _ID, "layer": _LAYER, "head": _HEAD, **_MAPS})

CLUSTER_MAPS = Table(
    "cluster maps",
    {
        "cluster": Column(_INT, "cluster, as in the head clusters"),
        "rank": Column(_INT, "1 = most typical, as in the cluster examples"),
        "id": _ID,
        **{
            name: Column(column.dtype, f"mean over the cluster's heads: {column.meaning}") if name.startswith("att") else column
            for name, column in _MAPS.items()
        },
    },
)

HEAD_WORDS = Table(
    "head words",
    {
        "id": Column(_TEXT, "example; null in the mean over all examples of one answer"),
        "answer": Column(_TEXT, "the answer that is explained"),
        "examples": Column(_INT, "examples in the mean"),
        "layer": _LAYER, "head": _HEAD,
        "rank": Column(_INT, "1 = the word that the picture makes this head raise most"),
        "word": Column(_TEXT, "the token's text"),
        "token": Column(_INT, "the token's id"),
        "contribution": Column(_REAL, "what the head adds to the word's logit without any help, above the mean over all words; logits"),
        "answers": Column(_BOOL, "whether it is the first token of the answer"),
    },
)  # fmt: skip

HEAD_WRITING = Table(
    "head writing",
    {
        "layer": _LAYER, "head": _HEAD, "examples": Column(_INT, "examples used"),
        "attribution": Column(_REAL, "mean attribution over these examples; target units"),
        "attribution_low": Column(_REAL, "lower end of its confidence interval over examples"),
        "attribution_high": Column(_REAL, "upper end"),
        "direct": Column(_REAL, "what the head adds to the target without any help, at random masks, mean over examples; target units; null where unreadable"),
        "direct_low": Column(_REAL, "lower end of its confidence interval over examples"), "direct_high": Column(_REAL, "upper end"),
        "share": Column(_REAL, "direct / attribution, of the means; null where the attribution is next to nothing, or its interval holds 0"),
        "share_low": Column(_REAL, "lower end of its bootstrap interval over pictures"), "share_high": Column(_REAL, "upper end"),
        "lead": Column(_REAL, "what the head adds to the answer's word in the stock model beyond its mean over other answers' words; logits; top heads only"),
        "lead_low": Column(_REAL, "lower end of its confidence interval over examples"), "lead_high": Column(_REAL, "upper end"),
        "lead_p": Column(_REAL, "t-test that the lead is 0"),
        "first": Column(_REAL, "share of examples in which it raises the answer's word more than every other answer's; top heads only"),
        "first_chance": Column(_REAL, "the same if it raised one answer's word at random"),
        "first_of_all": Column(_REAL, "share of examples in which no other word of the vocabulary is raised more; top heads only"),
    },
)  # fmt: skip

ALL_TABLES = (
    EXAMPLES, SKIPPED, FEATURES, ATTENTION, MASKS, TARGETS, GRADIENTS, ATTRIBUTIONS, FITS, EFFORT, PREDICTIONS, HEAD_SUMMARY, GROWTH,
    HEAD_CLUSTERS, PROFILES, EXAMPLE_MAP, SEPARATION, TRUTHS, PLANTED_SCORES,
    RANKINGS, CURVES, AREAS, CURVE_BANDS, AREA_SUMMARY, AREA_DIFFERENCES,
    INTERACTIONS, INTERACTION_FITS, UNIQUE_EFFECTS, SIMILARITIES, LOOK_PAIRS, LOOK_CONTRASTS, CLUSTERS, CLUSTER_NAMES, CLUSTER_EXAMPLES,
    BASELINE_ATTRIBUTIONS, BASELINE_HEADS, BASELINE_FITS, BASELINE_SUMMARY, BASELINE_AGREEMENT, BASELINE_DIFFERENCES, BASELINE_GAPS,
    TEXT_TOKENS, TEXT_FITS, TEXT_ROLES, TEXT_SLOTS, TEXT_CONTRASTS, FLOW_EFFECTS, FLOW_BANDS, FLOW_DEPTHS, FLOW_CONTRASTS,
    KEPT, KEPT_BANDS, KEPT_SUMMARY, KEPT_DIFFERENCES,
    HEAD_MAPS, CLUSTER_MAPS, HEAD_WORDS, HEAD_WRITING,
)  # fmt: skip
