"""Models whose true attributions are known."""

from headflow.tables.columns import HEAD, INT, LAYER, REAL, TEXT
from headflow.tables.schema import Column, Table

TRUTHS = Table(
    "truths",
    {
        "circuit": Column(TEXT, "planted circuit"),
        "category": Column(TEXT, "category of the object that the values are about; null = all"),
        "layer": LAYER, "head": HEAD,
        "part": Column(TEXT, "'carrier' (takes the picture to the answer), 'relay' (moves it on from the role token), 'decoy' (looks, says nothing), 'idle'"),
        "banzhaf": Column(REAL, "exact Banzhaf value; logits"),
        "shapley": Column(REAL, "exact Shapley value; logits"),
        "single_head_effect": Column(REAL, "f(intact) - f(only this head ablated), exact; logits"),
    },
)  # fmt: skip

PLANTED_SCORES = Table(
    "planted scores",
    {
        "circuit": Column(TEXT, "planted circuit"),
        "ranking": Column(TEXT, "what the heads were scored by, e.g. attribution, ablation, attention"),
        "estimand": Column(TEXT, "'banzhaf' or 'shapley': the exact values compared with"),
        "examples": Column(INT, "examples that the means below are over"),
        "carriers": Column(REAL, "heads that carry the picture, mean over examples"),
        "precision": Column(REAL, "share of carriers among the named heads: those of largest |score|, as many as carriers, zeros left out; null if all are"),
        "recall": Column(REAL, "share of the carriers that are named, 0..1"),
        "interval_precision": Column(REAL, "share of carriers among heads whose interval leaves out 0; null without intervals or such heads"),
        "interval_recall": Column(REAL, "share of the carriers whose interval leaves out 0; null without intervals"),
        "coverage": Column(REAL, "share of all heads whose interval holds the exact value; null without intervals"),
        "largest_error": Column(REAL, "largest |score - exact value| of a head; logits; null for scores in other units"),
        "relative_error": Column(REAL, "root mean square error over root mean square exact value; null for scores in other units"),
        "rank_correlation": Column(REAL, "Spearman correlation with the exact values, -1..1; 0 for scores that are all alike"),
    },
)
