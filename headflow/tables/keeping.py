"""How few image tokens keep the answer."""

from headflow.tables.columns import BOOL, ID, INT, REAL, TEXT
from headflow.tables.schema import Column, Table

_WAY = Column(TEXT, "what becomes of the other image tokens: 'baseline' (the text reads their twins), 'closed' (the text cannot see them) or "
                     "'removed' (the decoder never sees them)")  # fmt: skip
_SELECTION = Column(
    TEXT,
    "what the kept tokens are chosen by: 'attribution', 'attention' (of the final token), 'position' (attribution at the same place, mean over the "
    "other examples) or 'random'",
)
_KEPT_MEASURE = Column(TEXT, "'accuracy' (share of examples whose whole answer is right) or 'target' (target units)")

KEPT = Table(
    "kept tokens",
    {
        "id": ID, "picture": Column(INT, "picture that the example asks about: its scene in the examples table"), "way": _WAY, "selection": _SELECTION,
        "percent": Column(REAL, "k: share of the image tokens that is to stay, percent; 0 = none, 100 = all"),
        "kept": Column(INT, "image tokens that stay: the nearest number, one at least where k is above 0"),
        "of": Column(INT, "image tokens of the picture; structural tokens between them always stay and are not counted"),
        "target": Column(REAL, "target with these image tokens alone; target units"),
        "first_right": Column(BOOL, "greedy decoding gives the right answer's first token"),
        "right": Column(BOOL, "greedy decoding gives the right answer's tokens, all of them, and ends there"),
    },
)  # fmt: skip

KEPT_BANDS = Table(
    "kept bands",
    {
        "way": _WAY, "selection": _SELECTION, "percent": Column(REAL, "k, percent of the image tokens"),
        "share": Column(REAL, "image tokens that stay, as a share of all, mean over examples, 0..1"),
        "tokens": Column(REAL, "image tokens that stay, mean over pictures"),
        "measure": _KEPT_MEASURE, "mean": Column(REAL, "share of right answers, or mean target, over pictures"),
        "low": Column(REAL, "lower end of its interval over pictures: Wilson's for accuracy, Student's t for the target"),
        "high": Column(REAL, "upper end"), "pictures": Column(INT, "different pictures of the examples used"),
    },
)  # fmt: skip

KEPT_SUMMARY = Table(
    "kept summary",
    {
        "way": _WAY, "selection": _SELECTION, "measure": _KEPT_MEASURE,
        "area": Column(REAL, "mean height of the curve over the logarithm of the share kept, mean over pictures"),
        "low": Column(REAL, "lower end of its Student-t interval over pictures"), "high": Column(REAL, "upper end"),
        "stock": Column(REAL, "mean with all image tokens"), "none": Column(REAL, "mean with no image token"),
        "level": Column(REAL, "part of the accuracy, or of the target's rise from no image token to all, that is to be held, 0..1"),
        "share": Column(REAL, "smallest measured share of image tokens from which on the level is held, 0..1; null where all give nothing above none"),
        "tokens": Column(REAL, "image tokens that this is, mean over examples"),
        "share_low": Column(REAL, "lower end of its bootstrap interval over pictures"), "share_high": Column(REAL, "upper end"),
        "pictures": Column(INT, "different pictures of the examples used"),
    },
)  # fmt: skip

KEPT_DIFFERENCES = Table(
    "kept differences",
    {
        "way": _WAY, "measure": _KEPT_MEASURE, "selection": _SELECTION, "other": _SELECTION,
        "difference": Column(REAL, "area of selection minus area of other, mean over pictures that both have"),
        "low": Column(REAL, "lower end of the paired Student-t interval over pictures"), "high": Column(REAL, "upper end"),
        "p": Column(REAL, "paired t-test of no difference"),
        "p_holm": Column(REAL, "the same, corrected for all pairs of this way and measure"),
        "pictures": Column(INT, "different pictures of the examples that both selections have"),
    },
)  # fmt: skip
