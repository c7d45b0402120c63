"""What is left of a description where the picture is knocked out."""

from headflow.tables.columns import INT, REAL, TEXT
from headflow.tables.schema import Column, Table

_ROUTE = Column(TEXT, "edges to the picture that are closed: 'img→gen' (of generated tokens), 'img→query' (of the prompt's text) or 'img→both'")
_LAST = Column(
    TEXT,
    "what the prompt's last position, where the first generated token comes from, counts with: 'query' (the paper) or 'generated'; 'img→both' is the same "
    "with either",
)
_KIND = Column(
    TEXT,
    "'upward' (closed in every layer above L), 'below' (closed in every layer below L), 'closed' (in a band of layers) or 'open' (in all but a band)",
)
_AT = Column(
    REAL,
    "where the knockout stands, decoder layer: upward, L, the last layer left open, -1 = none; below, the first layer left open, one past the last = none; "
    "bands, their middle",
)
_BAND = {
    "first_layer": Column(INT, "first decoder layer of the closed ones, of 'open' of the open ones; null where there is none"),
    "last_layer": Column(INT, "last of them"),
    "closed": Column(INT, "layers in which the route is closed; where only some decoder layers read the picture, of those"),
}
_AGAINST = Column(TEXT, "what the description's objects are compared with: those of the 'stock' model's description, or the scene's true ones ('truth')")
_JUDGE = Column(TEXT, "who names the objects")
_PICTURES = Column(INT, "pictures with an F1: those where either side names an object; the unit of the intervals")
_LOW, _HIGH = Column(REAL, "lower end of its interval over pictures; null for a single picture"), Column(REAL, "upper end")

KNOCKOUT_PLAN = Table(
    "knockout plan",
    {
        "knockout": Column(INT, "index of the knockout in the knocked-out descriptions; one that closes the same edges in several ways has several rows"),
        "route": _ROUTE, "last_position": _LAST, "kind": _KIND, "at": _AT, **_BAND,
    },
)  # fmt: skip

KNOCKOUT_BANDS = Table(
    "knockout bands",
    {
        "judge": _JUDGE, "against": _AGAINST, "knockout": Column(INT, "index of the knockout"),
        "route": _ROUTE, "last_position": _LAST, "kind": _KIND, "at": _AT, **_BAND,
        "mean": Column(REAL, "F1 of the objects that are named, mean over pictures, 0..1"),
        "low": Column(REAL, "lower end of its Student-t interval over pictures, cut at 0; null for a single picture"),
        "high": Column(REAL, "upper end, cut at 1"), "pictures": _PICTURES,
        "found": Column(REAL, "objects named by both (true positives), mean over pictures"),
        "lost": Column(REAL, "objects that are no longer named (false negatives), mean over pictures"),
        "invented": Column(REAL, "objects that are named without ground (false positives), mean over pictures"),
        "ended": Column(REAL, "share of the descriptions that the model ended itself"),
        "tokens": Column(REAL, "tokens of a description, mean over pictures"),
    },
)  # fmt: skip

KNOCKOUT_LEVELS = Table(
    "knockout levels",
    {
        "judge": _JUDGE, "against": _AGAINST,
        "level": Column(TEXT, "'stock' (the untouched model's description) or 'chance' (its description of another picture, mean over all pairs)"),
        "mean": Column(REAL, "F1, mean over pictures"),
        "low": Column(REAL, "lower end of its interval over pictures: Student's t; of chance by leaving out one picture at a time (jackknife)"),
        "high": Column(REAL, "upper end"), "pictures": _PICTURES,
    },
)  # fmt: skip

KNOCKOUT_SUMMARY = Table(
    "knockout summary",
    {
        "judge": _JUDGE, "against": _AGAINST, "route": _ROUTE, "last_position": _LAST,
        "blind": Column(REAL, "F1 with the route closed in all layers, mean over pictures"), "blind_low": _LOW, "blind_high": _HIGH,
        "whole": Column(REAL, "F1 with the route closed in no layer, mean over pictures"),
        "fall": Column(REAL, "whole - blind, within pictures"), "fall_low": _LOW, "fall_high": _HIGH,
        "fall_p": Column(REAL, "two-sided sign-flip permutation test of no fall"),
        "fall_p_holm": Column(REAL, "the same, corrected for all routes of this judge and comparison (Holm)"),
        "others": Column(REAL, "F1 of the descriptions with the route closed in all layers against those of other pictures, mean over all pairs"),
        "others_p": Column(REAL, "permutation test over pictures that they say no more of their own picture than of others, one-sided"),
        "others_p_holm": Column(REAL, "the same, corrected for all routes of this judge and comparison (Holm)"),
        "rise": Column(REAL, "largest step of the mean F1 from one L of the upward sweep to the next; null where the fall cannot be told from none"),
        "rise_low": Column(REAL, "lower end of the bootstrap interval, over pictures, of that step"), "rise_high": Column(REAL, "upper end"),
        "rise_first": Column(INT, "first decoder layer that this step opens"), "rise_last": Column(INT, "last one; the step ends at L = this layer"),
        "rise_at_low": Column(INT, "lower end of the bootstrap interval of the largest step's last layer"), "rise_at_high": Column(INT, "upper end"),
        "rise_share": Column(REAL, "share of bootstrap draws in which this step is the largest, 0..1"),
        "half": Column(
            REAL,
            "half-rise depth: L at which the mean F1, made non-decreasing and joined by straight lines, is half way from all layers closed to none; decoder "
            "layers; null where the fall cannot be told from none",
        ),
        "half_low": Column(REAL, "lower end of its bootstrap interval over pictures"), "half_high": Column(REAL, "upper end"),
        "worst": Column(REAL, "lowest mean F1 with a single band closed"), "worst_low": _LOW, "worst_high": _HIGH,
        "worst_first": Column(INT, "first decoder layer of that band"), "worst_last": Column(INT, "last one"),
        "worst_share": Column(REAL, "share of bootstrap draws in which this band is the lowest, 0..1"),
        "best": Column(REAL, "highest mean F1 with only a single band open"), "best_low": _LOW, "best_high": _HIGH,
        "best_first": Column(INT, "first decoder layer of that band"), "best_last": Column(INT, "last one"),
        "best_share": Column(REAL, "share of bootstrap draws in which this band is the highest, 0..1"),
        "pictures": Column(INT, "pictures with an F1 with all layers closed"),
    },
)  # fmt: skip

KNOCKOUT_DIFFERENCES = Table(
    "knockout differences",
    {
        "judge": _JUDGE, "against": _AGAINST, "route": _ROUTE, "last_position": _LAST,
        "other_route": _ROUTE, "other_last_position": _LAST,
        "difference": Column(REAL, "F1 with route closed in all layers minus F1 with the other one closed in all layers, mean over pictures that have both"),
        "low": Column(REAL, "lower end of its paired Student-t interval over pictures; null for a single picture"), "high": Column(REAL, "upper end"),
        "p": Column(REAL, "two-sided sign-flip permutation test of no difference"),
        "p_holm": Column(REAL, "the same, corrected for all pairs of this judge and comparison (Holm)"), "pictures": _PICTURES,
    },
)  # fmt: skip
