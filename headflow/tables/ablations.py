"""Masks, what the model gives under them, and the attributions that they are fitted to."""

import polars as pl

from headflow.tables.columns import BYTES, HEAD, ID, INT, LAYER, REAL, TEXT
from headflow.tables.schema import Column, Table

MASKS = Table(
    "masks",
    {
        "mask": Column(INT, "index of the mask, unique in the table"),
        "purpose": Column(TEXT, "'fit', 'held_out', 'single' (one head ablated), 'intact' (none), 'ablated' (all) or 'corner' (with gradients)"),
        "bits": Column(BYTES, "numpy.packbits of the mask, layer by layer, head by head; 1 = intact, 0 = ablated"),
    },
)

TARGETS = Table(
    "targets",
    {"id": ID, "mask": Column(INT, "mask of the masks table"), "target": Column(REAL, "f under this mask, logits or nats")},
)

GRADIENTS = Table(
    "gradients",
    {
        "id": ID,
        "mask": Column(INT, "corner of the masks table"),
        "target": Column(REAL, "f at the corner, logits or nats"),
        "gradient": Column(pl.List(pl.Float32), "change of f with the gate of each head, layer by layer, head by head; target units"),
    },
)

ATTRIBUTIONS = Table(
    "attributions",
    {
        "id": ID, "layer": LAYER, "head": HEAD,
        "attribution": Column(REAL, "fall of the target when the head is ablated, averaged over masks; target units"),
        "standard_error": Column(REAL, "of the attribution: the draw of masks and corners, and what shrinkage or a gradient's bias may hide; target units"),
        "single_head_effect": Column(REAL, "f(intact) - f(only this head ablated); target units"),
    },
)  # fmt: skip

FITS = Table(
    "fits",
    {
        "id": ID,
        "intercept": Column(REAL, "predicted target with every head ablated"),
        "penalty": Column(REAL, "ridge or lasso penalty chosen for this example"),
        "held_out_r": Column(REAL, "Pearson r of predicted and actual target on held-out masks"),
        "held_out_r2": Column(REAL, "R2 on held-out masks"),
        "intact": Column(REAL, "target with no head ablated"),
        "ablated": Column(REAL, "target with every head ablated"),
    },
)

EFFORT = Table(
    "effort",
    {
        "id": ID,
        "masks": Column(INT, "fit masks run"),
        "corners": Column(INT, "corners with gradients"),
        "forwards": Column(REAL, "cost of both in masked forwards, a forward with its backward counted as 2.7"),
        "relative_error": Column(REAL, "estimated relative error of the example's attributions: root of summed squared standard errors over attributions"),
    },
)

PREDICTIONS = Table(
    "predictions",
    {
        "id": ID, "mask": Column(INT, "held-out mask"),
        "actual": Column(REAL, "target under the mask"), "predicted": Column(REAL, "target by the fit"),
    },
)  # fmt: skip

HEAD_SUMMARY = Table(
    "head summary",
    {
        "group": Column(TEXT, "'all', or 'label=value' for the examples with that label"),
        "layer": LAYER, "head": HEAD,
        "mean": Column(REAL, "mean attribution over the group's examples; target units"),
        "low": Column(REAL, "lower end of the confidence interval over examples"),
        "high": Column(REAL, "upper end of the confidence interval over examples"),
        "single_mean": Column(REAL, "mean single-head effect; target units"),
        "examples": Column(INT, "examples in the group"),
    },
)  # fmt: skip

GROWTH = Table(
    "growth",
    {
        "id": ID,
        "masks": Column(INT, "fit masks used"),
        "held_out_r": Column(REAL, "Pearson r on held-out masks"),
        "agreement_r": Column(REAL, "Pearson r between the two attribution vectors fitted on disjoint halves of these masks"),
    },
)
