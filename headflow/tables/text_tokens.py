"""Text tokens that receive the picture."""

from headflow.tables.columns import ID, INT, REAL, TEMPLATE_OF, TEXT, TRACED_HEADS
from headflow.tables.schema import Column, Table

_WINDOW = Column(INT, "band of layers in which the token is cut, 0 = nearest the input; null = the sum over all bands")
_SHARE_OF_EFFECT = "mean over mean total effect f(intact) - f(these heads cut at all tokens); null where that cannot be told from 0"

TEXT_TOKENS = Table(
    "text tokens",
    {
        "id": ID, "heads": TRACED_HEADS,
        "window": Column(INT, "band of layers in which the token is cut, 0 = nearest the input"),
        "first_layer": Column(INT, "first decoder layer of the band"), "last_layer": Column(INT, "its last decoder layer"),
        "token": Column(INT, "place of the token among those after the picture (all tokens where the picture stands in no sequence), 0 = first"),
        "text": Column(TEXT, "the token"),
        "role": Column(TEXT, "question, role, final or answer (system or image where the picture stands in no sequence)"),
        "attribution": Column(REAL, "fall of the target when the token reads no picture there, averaged over what the others read; target units"),
        "standard_error": Column(REAL, "of the attribution, over the draw of masks; 0 where all combinations were run; target units"),
        "low": Column(REAL, "lower end of its confidence interval over the draw of masks"), "high": Column(REAL, "upper end"),
        "alone": Column(REAL, "f(intact) - f(only this token cut there); target units"),
    },
)  # fmt: skip

TEXT_FITS = Table(
    "text fits",
    {
        "id": ID, "heads": TRACED_HEADS,
        "components": Column(INT, "tokens times bands of layers"),
        "estimator": Column(TEXT, "estimator of the regression; 'exhaustive' where all combinations were run"),
        "masks": Column(INT, "masked forwards"), "corners": Column(INT, "gradients"),
        "held_out_r": Column(REAL, "Pearson r of predicted and actual target on masks that the fit has not seen; null where it does not vary"),
        "held_out_r2": Column(REAL, "R2 on the same masks"),
        "intact": Column(REAL, "target with no token cut"), "ablated": Column(REAL, "target with these heads cut at all tokens"),
    },
)  # fmt: skip

TEXT_ROLES = Table(
    "text roles",
    {
        "template": TEMPLATE_OF, "heads": TRACED_HEADS, "window": _WINDOW,
        "role": Column(TEXT, "role of the tokens; 'after' = role, final and answer together; 'before' = all others; 'all' = all tokens"),
        "tokens": Column(REAL, "tokens of this role, mean over examples"),
        "mean": Column(REAL, "attribution summed over the tokens, mean over examples; target units"),
        "low": Column(REAL, "lower end of its confidence interval over pictures"), "high": Column(REAL, "upper end"),
        "p": Column(REAL, "p-value of no attribution, over pictures"),
        "share": Column(REAL, _SHARE_OF_EFFECT),
        "share_low": Column(REAL, "lower end of the share's interval"), "share_high": Column(REAL, "upper end"),
        "examples": Column(INT, "examples with such tokens"), "pictures": Column(INT, "different pictures among them"),
    },
)  # fmt: skip

TEXT_SLOTS = Table(
    "text slots",
    {
        "heads": TRACED_HEADS, "window": _WINDOW,
        "template": Column(TEXT, "the question that the examples share, with a gap where its words vary"),
        "slot": Column(INT, "place in the template, 0 = first"),
        "role": Column(TEXT, "role of its tokens"),
        "text": Column(TEXT, "its token; in angle brackets where words vary between examples, whose attributions are summed"),
        "mean": Column(REAL, "mean attribution over examples; target units"),
        "low": Column(REAL, "lower end of its confidence interval over pictures"), "high": Column(REAL, "upper end"),
        "size": Column(REAL, "mean |attribution| over examples; target units"),
        "p": Column(REAL, "p-value of no attribution, over pictures"),
        "p_holm": Column(REAL, "the same, corrected for all slots of the template"),
        "share": Column(REAL, _SHARE_OF_EFFECT),
        "share_low": Column(REAL, "lower end of the share's interval"), "share_high": Column(REAL, "upper end"),
        "alone": Column(REAL, "f(intact) - f(only this token cut), mean over examples; target units"),
        "examples": Column(INT, "examples that have it"),
    },
)  # fmt: skip

TEXT_CONTRASTS = Table(
    "text contrasts",
    {
        "template": TEMPLATE_OF,
        "contrast": Column(TEXT, "'after - before': share of the tokens after the question minus that of those up to its end, all heads; "
                           "'top - all': share of the tokens after the question with the top heads minus with all; "
                           "'similarity': cosine of the attributions over tokens with the top heads and with all"),
        "value": Column(REAL, "over examples: a difference of shares, or a mean cosine"),
        "low": Column(REAL, "lower end of its confidence interval over pictures"), "high": Column(REAL, "upper end"),
        "p": Column(REAL, "p-value of no difference; null for the similarity"),
    },
)  # fmt: skip
