"""At which depth edges between groups of tokens matter."""

from headflow.tables.columns import ID, INT, REAL, TEMPLATE_OF, TEXT
from headflow.tables.schema import Column, Table

_ROUTE = Column(TEXT, "edges that are closed: 'question→role', 'role→final', 'image→question', 'image→role' (role stands for role, final and answer "
                "tokens, final for final and answer tokens), 'picture' (both from the image), or 'all'")  # fmt: skip
_FIRST, _LAST = Column(INT, "first decoder layer in which the route is closed"), Column(INT, "last decoder layer in which it is closed")

FLOW_EFFECTS = Table(
    "flow effects",
    {
        "id": ID, "route": _ROUTE, "first_layer": _FIRST, "last_layer": _LAST,
        "effect": Column(REAL, "f(intact) - f(route closed in these layers); target units"),
    },
)  # fmt: skip

FLOW_BANDS = Table(
    "flow bands",
    {
        "template": TEMPLATE_OF, "route": _ROUTE,
        "closed": Column(TEXT, "'window' (a sliding window), 'from' (the layer and all above), 'below' (all layers below it) or 'everywhere'"),
        "first_layer": _FIRST, "last_layer": _LAST,
        "at": Column(REAL, "decoder layer where it is drawn: the window's middle, the first layer closed ('from'), the first layer left open ('below')"),
        "mean": Column(REAL, "mean effect over examples; target units"),
        "low": Column(REAL, "lower end of its confidence interval over pictures"), "high": Column(REAL, "upper end"),
        "p": Column(REAL, "p-value of no effect, over pictures"),
        "share": Column(REAL, "mean effect over the mean effect of the route 'picture'; null where that cannot be told from 0"),
        "share_low": Column(REAL, "lower end of the share's interval"), "share_high": Column(REAL, "upper end"),
        "examples": Column(INT, "examples with this route"),
    },
)  # fmt: skip

FLOW_DEPTHS = Table(
    "flow depths",
    {
        "template": TEMPLATE_OF, "route": _ROUTE,
        "effect": Column(REAL, "mean effect of closing the route in all layers; target units"),
        "effect_low": Column(REAL, "lower end of its confidence interval over pictures"), "effect_high": Column(REAL, "upper end"),
        "effect_p": Column(REAL, "p-value of no effect"),
        "share": Column(REAL, "the effect over the mean effect of the route 'picture'; null where that cannot be told from 0"),
        "depth": Column(REAL, "mean decoder layer, weighted by what closing a layer adds when all above or all below it are closed; "
                        "null where the effect cannot be told from 0 or is below 1 % of the picture's, or where layers pull in opposite directions"),
        "depth_low": Column(REAL, "lower end of its bootstrap interval over pictures"), "depth_high": Column(REAL, "upper end"),
        "window_depth": Column(REAL, "mean middle of those sliding windows whose interval lies above 0, weighted by their mean effects; null if none does"),
        "first": Column(REAL, "middle of the first window whose interval lies above 0, all windows of the route taken together (Bonferroni); null if none"),
        "last": Column(REAL, "middle of the last such window"),
        "examples": Column(INT, "examples with this route"),
    },
)  # fmt: skip

FLOW_CONTRASTS = Table(
    "flow contrasts",
    {
        "template": TEMPLATE_OF,
        "measure": Column(TEXT, "'depth' (mean decoder layer) or 'effect' (share of the effect of the route 'picture')"),
        "route": _ROUTE, "other": Column(TEXT, "the route that is subtracted"),
        "difference": Column(REAL, "of the route's measure and the other's, over the same examples"),
        "low": Column(REAL, "lower end of its interval over pictures: bootstrap for depths, by linearisation for effects"),
        "high": Column(REAL, "upper end"),
        "p": Column(REAL, "p-value of no difference"),
        "p_holm": Column(REAL, "the same, corrected for all pairs of this measure"),
    },
)
