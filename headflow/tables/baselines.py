"""What hangs on the choice of a baseline."""

from headflow.tables.columns import BOOL, HEAD, ID, INT, LAYER, REAL, TEXT
from headflow.tables.schema import Column, Table

_BASELINE = Column(TEXT, "what ablated heads read: mean, blank, swap or closed")
_EXAMPLES, _PICTURES = Column(INT, "examples used"), Column(INT, "different pictures among them; the unit of the interval")
_LOW, _HIGH = Column(REAL, "lower end of the confidence interval over pictures; null for a single one"), Column(REAL, "upper end")

BASELINE_ATTRIBUTIONS = Table(
    "baseline attributions",
    {
        "id": ID, "baseline": _BASELINE, "layer": LAYER, "head": HEAD,
        "attribution": Column(REAL, "attribution of the head under this baseline; target units"),
        "standard_error": Column(REAL, "of the attribution: the draw of masks and corners, and what shrinkage or a gradient's bias may hide; target units"),
    },
)  # fmt: skip

BASELINE_HEADS = Table(
    "baseline heads",
    {
        "baseline": _BASELINE, "layer": LAYER, "head": HEAD,
        "mean": Column(REAL, "mean attribution over pictures; target units"), "low": _LOW, "high": _HIGH, "examples": _EXAMPLES,
    },
)  # fmt: skip

BASELINE_FITS = Table(
    "baseline fits",
    {
        "id": ID, "baseline": _BASELINE,
        "intact": Column(REAL, "target with no head ablated"), "ablated": Column(REAL, "target with every head ablated"),
        "total_effect": Column(REAL, "intact - ablated; target units"),
        "held_out_r": Column(REAL, "Pearson r of predicted and actual target on held-out masks; null where the target does not vary"),
        "held_out_r2": Column(REAL, "R2 on held-out masks; null as above"),
        "relative_error": Column(REAL, "estimated relative error of the example's attributions, as in the effort table"),
        "probability_intact": Column(REAL, "probability of the explained answer's first token with no head ablated, 0..1"),
        "probability": Column(REAL, "the same with every head ablated"),
        "rank": Column(INT, "its rank among all tokens with every head ablated, 1 = the model says it"),
        "says": Column(TEXT, "the token that the model says with every head ablated"),
        "candidate": Column(BOOL, "that token begins one of the candidate answers; null where there are no others"),
    },
)  # fmt: skip

BASELINE_SUMMARY = Table(
    "baseline summary",
    {
        "baseline": _BASELINE,
        "measure": Column(TEXT, "a column of the baseline fits: total_effect, held_out_r, probability or candidate (share)"),
        "mean": Column(REAL, "mean over pictures"), "low": _LOW, "high": _HIGH, "examples": _EXAMPLES, "pictures": _PICTURES,
    },
)  # fmt: skip

BASELINE_AGREEMENT = Table(
    "baseline agreement",
    {
        "baseline": _BASELINE, "other": _BASELINE,
        "r": Column(REAL, "Pearson r over heads of an example's attributions under the two, mean over pictures; null where neither varies"),
        "low": _LOW, "high": _HIGH,
        "ceiling": Column(REAL, "r of two independent estimates as noisy as these of the same attributions, mean over pictures"),
        "overlap": Column(REAL, "share of the heads of largest |attribution| under one that are so under the other too, 0..1, mean over pictures"),
        "overlap_low": _LOW, "overlap_high": _HIGH,
        "chance": Column(REAL, "the overlap of heads drawn at random"),
        "top": Column(INT, "heads of largest |attribution| taken"), "examples": _EXAMPLES, "pictures": _PICTURES,
    },
)  # fmt: skip

BASELINE_DIFFERENCES = Table(
    "baseline differences",
    {
        "measure": Column(TEXT, "a measure of the baseline summary; or 'apart': r of the other baselines with each other minus r with this one"),
        "baseline": _BASELINE, "other": Column(TEXT, "the baseline that it is compared with; null = all others"),
        "difference": Column(REAL, "mean difference within pictures: of 'apart' as said there, else baseline minus other"),
        "low": _LOW, "high": _HIGH,
        "p": Column(REAL, "paired t-test of no difference; null for a single picture"),
        "p_holm": Column(REAL, "the same, corrected for all rows of this measure"),
        "examples": _EXAMPLES, "pictures": _PICTURES,
    },
)  # fmt: skip

BASELINE_GAPS = Table(
    "baseline gaps",
    {
        "baseline": _BASELINE, "id": Column(TEXT, "example that cannot be given this baseline; null = none can"),
        "reason": Column(TEXT, "why not"),
    },
)  # fmt: skip
