"""Pairs of heads, and what single heads do beside others."""

from headflow.tables.columns import HEAD, ID, INT, LAYER, REAL, TEXT
from headflow.tables.schema import Column, Table

INTERACTIONS = Table(
    "interactions",
    {
        "layer": LAYER, "head": HEAD,
        "other_layer": Column(INT, "decoder layer of the second head"), "other_head": Column(INT, "the second head in its layer"),
        "effect": Column(REAL, "f(both) - f(one) - f(other) + f(neither), mean over the states of the other heads and over examples; target units"),
        "standard_error": Column(REAL, "of the effect, over the draw of masks; target units"),
        "low": Column(REAL, "lower end of the effect's confidence interval"),
        "high": Column(REAL, "upper end of the effect's confidence interval"),
        "p": Column(REAL, "p-value of the effect, on masks that the choice of pairs has not seen"),
        "q": Column(REAL, "p-value adjusted by Benjamini and Hochberg over the pairs of this table"),
        "kind": Column(TEXT, "'compensate' (negative: either head suffices), 'need each other' (positive), or 'unclear' (q above the level)"),
        "same_sign": Column(REAL, "share of examples in which the estimated effect has the sign of the mean, 0..1"),
    },
)  # fmt: skip

INTERACTION_FITS = Table(
    "interaction fits",
    {
        "id": ID,
        "held_out_r": Column(REAL, "Pearson r on held-out masks, first-order fit alone"),
        "held_out_r2": Column(REAL, "R2 on held-out masks, first-order fit alone"),
        "held_out_r_pairs": Column(REAL, "Pearson r on held-out masks with the chosen pairs added"),
        "held_out_r2_pairs": Column(REAL, "R2 on held-out masks with the chosen pairs added"),
    },
)

UNIQUE_EFFECTS = Table(
    "unique effects",
    {
        "label": Column(TEXT, "label column, or 'meaning' or 'looks' for all labels of that kind together"),
        "kind": Column(TEXT, "'meaning' or 'looks'"),
        "given": Column(TEXT, "kind of the labels held constant: the other one; null where there are none"),
        "examples": Column(INT, "examples used"),
        "pictures": Column(INT, "different pictures among them; they are what is permuted"),
        "degrees": Column(INT, "degrees of freedom of the label beyond those of the labels held constant"),
        "left": Column(INT, "degrees of freedom that all labels leave; without any the unique share is null"),
        "explained": Column(REAL, "share of the variance of attribution vectors explained by the label alone, 0..1"),
        "explained_chance": Column(REAL, "the same under permuted pictures, mean"),
        "explained_p": Column(REAL, "permutation p-value of the explained share"),
        "unique": Column(REAL, "share of the variance that the label explains beyond the labels held constant, 0..1"),
        "unique_chance": Column(REAL, "the same under permuted residuals, mean"),
        "unique_p": Column(REAL, "permutation p-value of the unique share (pseudo-F)"),
    },
)
