"""Image tokens that give the picture."""

from headflow.tables.columns import ID, INT, REAL, TEXT, TRACED_HEADS
from headflow.tables.schema import Column, Table

_PLACE = {
    "left": Column(REAL, "part of the picture that the token shows, pixels from its left border; null where it shows none, or that is not known"),
    "top": Column(REAL, "the same from the upper border"), "right": Column(REAL, "the same from the left border"),
    "bottom": Column(REAL, "the same from the upper border"),
}  # fmt: skip
_IMAGE_TOKEN = Column(INT, "place in the image span (among the picture's keys under cross-attention), 0 = first")
_AMOUNT = Column(
    TEXT,
    "what is divided: 'attribution' (its size), 'positive' (attribution above 0), 'net' (its signed sum), 'top heads' (size of the attribution with the top "
    "heads alone), 'attention' (of the final token, mean over heads and layers), 'even' (all tokens alike) or 'area'",
)

IMAGE_TOKENS = Table(
    "image tokens",
    {
        "id": ID, "token": _IMAGE_TOKEN,
        "group": Column(INT, "component that the token belongs to: itself, or a patch of tokens where there are many"),
        "group_tokens": Column(INT, "tokens of that component"),
        "attribution": Column(REAL, "fall of the target when the text reads the token's baseline, averaged over what it reads of the others; of a patch in "
                              "equal parts; target units"),
        "standard_error": Column(REAL, "of the attribution: draw of corners, what masks change about it, and an allowance for bias; target units"),
        "low": Column(REAL, "lower end of its confidence interval"), "high": Column(REAL, "upper end"),
        "attribution_top_heads": Column(REAL, "the same with the top heads alone cut off from the token; null where that was not asked for"),
        "standard_error_top_heads": Column(REAL, "of that attribution"),
        "attention": Column(REAL, "weight of the final token's attention on this token in the stock model, mean over heads and layers, 0..1"),
        "in_object": Column(REAL, "share of the token's part of the picture that the main object covers, 0..1; null where either is not known"),
        "in_others": Column(REAL, "the same for the other known objects"),
        **_PLACE,
    },
)  # fmt: skip

IMAGE_FITS = Table(
    "image fits",
    {
        "id": ID, "heads": TRACED_HEADS,
        "tokens": Column(INT, "image tokens"), "components": Column(INT, "tokens or patches that were cut each alone"),
        "estimator": Column(TEXT, "'differences': scaled local differences; else the estimator of the regression, where that predicts clearly better"),
        "masks": Column(INT, "masked forwards"), "corners": Column(INT, "masks at which local differences were taken"),
        "forwards": Column(REAL, "cost of both in masked forwards, a forward with its backward counted as 2.7"),
        "held_out_r": Column(REAL, "Pearson r of predicted and actual target on masks that the fit has not seen; null where it does not vary"),
        "held_out_r2": Column(REAL, "R2 on the same masks"),
        "relative_error": Column(REAL, "estimated relative error of the attributions: root of summed squared standard errors over attributions"),
        "intact": Column(REAL, "target with no token cut"), "ablated": Column(REAL, "target with these heads cut off from all tokens"),
        "sum": Column(REAL, "sum of the attributions; target units"),
        "patches_checked": Column(INT, "patches that were halved in the search"),
        "patches_agreeing": Column(INT, "those whose attribution as a whole is the sum of their parts' within error"),
    },
)  # fmt: skip

IMAGE_SHARES = Table(
    "image shares",
    {
        "id": ID, "what": _AMOUNT,
        "object": Column(REAL, "share of it that lies in the main object; null where there is nothing to divide"),
        "others": Column(REAL, "in the other known objects"), "background": Column(REAL, "in neither"),
        "placed": Column(REAL, "part of it that belongs to tokens whose place is known, and so is divided here"),
    },
)

IMAGE_SHARE_MEANS = Table(
    "image share means",
    {
        "what": _AMOUNT, "part": Column(TEXT, "'object' (the main one), 'others' or 'background'"),
        "mean": Column(REAL, "share, mean over examples"),
        "low": Column(REAL, "lower end of its confidence interval over pictures"), "high": Column(REAL, "upper end"),
        "over": Column(REAL, "share minus the share of 'even', mean over examples"),
        "over_low": Column(REAL, "lower end of its confidence interval over pictures"), "over_high": Column(REAL, "upper end"),
        "p": Column(REAL, "p-value of no difference from 'even'"), "p_holm": Column(REAL, "the same, corrected for the three parts"),
        "examples": Column(INT, "examples with known objects and places"), "pictures": Column(INT, "different pictures among them"),
    },
)  # fmt: skip

IMAGE_SPARSITY = Table(
    "image sparsity",
    {
        "id": ID, "what": Column(TEXT, "'attribution', 'top heads' (attribution with the top heads alone) or 'attention'"),
        "tokens": Column(INT, "fewest image tokens that hold 80 % of it; null where there is nothing to hold"),
        "of": Column(INT, "image tokens"), "share": Column(REAL, "tokens / of, 0..1"),
    },
)  # fmt: skip

IMAGE_CURVES = Table(
    "image curves",
    {
        "what": Column(TEXT, "as in the image sparsity"), "percent": Column(REAL, "image tokens, largest first, percent of all"),
        "held": Column(REAL, "share of the summed sizes that they hold, mean over examples"),
        "low": Column(REAL, "lower end of its confidence interval over pictures"), "high": Column(REAL, "upper end"),
    },
)  # fmt: skip

IMAGE_BACKGROUND = Table(
    "image background",
    {
        "id": ID, "token": _IMAGE_TOKEN,
        "attribution": Column(REAL, "attribution of a token that lies wholly outside all known objects; target units; sorted by falling size"),
        "low": Column(REAL, "lower end of its confidence interval, which excludes 0"), "high": Column(REAL, "upper end"),
        "p": Column(REAL, "p-value of no attribution"),
        "q": Column(REAL, "the same adjusted by Benjamini and Hochberg over all such tokens of all examples"),
        "attention": Column(REAL, "weight of the final token's attention on it, 0..1"),
        **_PLACE,
    },
)  # fmt: skip
