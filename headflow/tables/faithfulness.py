"""How well the heads that a ranking puts first carry the answer."""

from headflow.tables.columns import BOOL, HEAD, ID, INT, LAYER, REAL, TEXT
from headflow.tables.schema import Column, Table

_RANKING = Column(TEXT, "what orders the heads: attribution, ablation, restoration, attention, gradient, integrated or random")
_SCOPE = Column(TEXT, "'own': each example's own order; 'shared': the order by the mean score over all explained examples (a random order is always its own)")
_MEASURE = Column(TEXT, "'faithfulness' or 'completeness'")

RANKINGS = Table(
    "rankings",
    {
        "id": Column(TEXT, "example; null in scope 'shared'"),
        "ranking": _RANKING, "scope": _SCOPE, "layer": LAYER, "head": HEAD,
        "score": Column(REAL, "what the heads are ordered by: target units; attention a share, random a number without meaning"),
        "place": Column(INT, "place in the order of falling score, 0 = first; scores equal but for rounding by layer, then head"),
    },
)  # fmt: skip

CURVES = Table(
    "curves",
    {
        "id": ID, "ranking": _RANKING, "scope": _SCOPE,
        "heads": Column(INT, "k: the first heads of the ranking"),
        "top": Column(REAL, "F(top-k): target with only these heads intact; target units"),
        "rest": Column(REAL, "F(all but top-k): target with only these heads ablated; target units"),
        "faithfulness": Column(REAL, "(F(top-k) - F(none)) / (F(all) - F(none)); null where the total effect is too small to divide by"),
        "completeness": Column(REAL, "(F(all) - F(all but top-k)) / (F(all) - F(none)); null as above"),
    },
)  # fmt: skip

AREAS = Table(
    "areas",
    {
        "id": ID, "ranking": _RANKING, "scope": _SCOPE, "measure": _MEASURE,
        "total_effect": Column(REAL, "F(all) - F(none); target units"),
        "used": Column(BOOL, "the total effect is large enough to divide by"),
        "area": Column(REAL, "area under the curve over k/(L*H); null where not used"),
        "heads": Column(INT, "smallest measured k that reaches the level; null where not used"),
    },
)  # fmt: skip

CURVE_BANDS = Table(
    "curve bands",
    {
        "ranking": _RANKING, "scope": _SCOPE, "measure": _MEASURE,
        "heads": Column(INT, "k: the first heads of the ranking"), "share": Column(REAL, "k/(L*H), 0..1"),
        "mean": Column(REAL, "mean over examples"),
        "low": Column(REAL, "lower end of the confidence interval over examples"), "high": Column(REAL, "upper end"),
        "examples": Column(INT, "examples used"),
    },
)  # fmt: skip

AREA_SUMMARY = Table(
    "area summary",
    {
        "ranking": _RANKING, "scope": _SCOPE, "measure": _MEASURE,
        "area": Column(REAL, "mean area under the curve over examples"),
        "low": Column(REAL, "lower end of the confidence interval over examples"), "high": Column(REAL, "upper end"),
        "heads": Column(REAL, "mean over examples of the smallest measured k that reaches the level"),
        "heads_low": Column(REAL, "lower end of its confidence interval"), "heads_high": Column(REAL, "upper end"),
        "of": Column(INT, "L*H: all heads"),
        "examples": Column(INT, "examples used"),
    },
)  # fmt: skip

AREA_DIFFERENCES = Table(
    "area differences",
    {
        "scope": _SCOPE, "measure": _MEASURE, "ranking": _RANKING, "other": _RANKING,
        "difference": Column(REAL, "mean over examples of area of ranking minus area of other"),
        "low": Column(REAL, "lower end of the paired confidence interval over examples"), "high": Column(REAL, "upper end"),
        "p": Column(REAL, "paired t-test of no difference"),
        "p_holm": Column(REAL, "the same, corrected for all pairs of this scope and measure"),
    },
)  # fmt: skip
