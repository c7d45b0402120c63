"""Heads that act alike, and what sets examples apart."""

from headflow.tables.columns import BOOL, HEAD, ID, INT, LAYER, REAL, TEXT
from headflow.tables.schema import Column, Table

HEAD_CLUSTERS = Table(
    "head clusters",
    {
        "layer": LAYER, "head": HEAD,
        "cluster": Column(INT, "cluster, numbered by falling total attribution"),
        "share": Column(REAL, "the head's share of the summed mean |attribution| of all heads, 0..1"),
        "silhouette": Column(REAL, "silhouette of the head in its cluster, -1..1"),
    },
)  # fmt: skip

PROFILES = Table(
    "profiles",
    {
        "layer": LAYER, "head": HEAD,
        "name": Column(TEXT, "object name"),
        "attribution": Column(REAL, "mean attribution over the examples with this object; target units"),
        "examples": Column(INT, "examples with this object"),
    },
)  # fmt: skip

EXAMPLE_MAP = Table(
    "example map",
    {"id": ID, "x": Column(REAL, "first map coordinate"), "y": Column(REAL, "second map coordinate")},
)

SEPARATION = Table(
    "separation",
    {
        "label": Column(TEXT, "label column of the examples, e.g. meaning_name, looks_colour"),
        "kind": Column(TEXT, "'meaning' or 'looks'"),
        "values": Column(INT, "different values that occur in at least two pictures"),
        "examples": Column(INT, "examples used"),
        "silhouette": Column(REAL, "mean silhouette of attribution vectors grouped by the label, cosine, -1..1"),
        "silhouette_chance": Column(REAL, "the same under permuted labels, mean"),
        "silhouette_p": Column(REAL, "permutation p-value of the silhouette"),
        "purity": Column(REAL, "share of nearest neighbours with the same label, 0..1"),
        "purity_chance": Column(REAL, "the same under permuted labels, mean"),
        "purity_p": Column(REAL, "permutation p-value of the purity"),
        "explained": Column(REAL, "share of the variance of attribution vectors explained by the label, 0..1"),
        "explained_chance": Column(REAL, "the same under permuted labels, mean"),
        "explained_p": Column(REAL, "permutation p-value of the explained share"),
    },
)

SIMILARITIES = Table(
    "similarities",
    {
        "what": Column(TEXT, "a label column, 'meaning' or 'looks' (share of such labels that agree), or 'vision' (vision-tower features)"),
        "kind": Column(TEXT, "'meaning', 'looks' or 'vision'"),
        "pairs": Column(INT, "pairs of examples of different pictures"),
        "r": Column(REAL, "correlation of attribution similarity (cosine) with this similarity, over pairs"),
        "low": Column(REAL, "lower end of its bootstrap interval over pictures"),
        "high": Column(REAL, "upper end of its bootstrap interval over pictures"),
        "p": Column(REAL, "permutation p-value of r over pictures, two-sided"),
        "given": Column(TEXT, "the similarities held constant in the partial correlation, e.g. 'looks, vision'; null where there are none"),
        "partial": Column(REAL, "partial correlation given the similarities held constant"),
        "partial_low": Column(REAL, "lower end of its bootstrap interval over pictures"),
        "partial_high": Column(REAL, "upper end of its bootstrap interval over pictures"),
    },
)

LOOK_PAIRS = Table(
    "look pairs",
    {
        "look": Column(TEXT, "label that says when looks are the same; 'looks' = at least half of the labels of looks agree"),
        "same_meaning": Column(BOOL, "both pictures show the same object"),
        "same_look": Column(BOOL, "both pictures look the same"),
        "meaning": Column(TEXT, "label that says when objects are the same"),
        "pairs": Column(INT, "pairs of examples of different pictures"),
        "similarity": Column(REAL, "mean cosine similarity of their attribution vectors; null without pairs"),
        "low": Column(REAL, "lower end of its bootstrap interval over pictures"),
        "high": Column(REAL, "upper end of its bootstrap interval over pictures"),
        "vision": Column(REAL, "mean cosine similarity of their vision-tower features, centred over examples"),
        "id_a": Column(TEXT, "an example of the most typical pair: nearest to the mean similarity"),
        "id_b": Column(TEXT, "the other example of that pair"),
    },
)

LOOK_CONTRASTS = Table(
    "look contrasts",
    {
        "look": Column(TEXT, "label that says when looks are the same, as in the look pairs"),
        "contrast": Column(TEXT, "'meaning' and 'looks': what sharing it adds to pairs that share neither; 'meaning - looks': "
                           "same object in another look against another object in the same look"),
        "difference": Column(REAL, "difference of mean cosine similarities of attribution vectors"),
        "low": Column(REAL, "lower end of its bootstrap interval over pictures"),
        "high": Column(REAL, "upper end of its bootstrap interval over pictures"),
    },
)  # fmt: skip

CLUSTERS = Table(
    "clusters",
    {
        "cluster": Column(INT, "cluster, as in the head clusters"),
        "heads": Column(INT, "its heads"),
        "share": Column(REAL, "their share of the summed mean |attribution| of all heads, 0..1"),
        "silhouette": Column(REAL, "mean silhouette of its heads, -1..1"),
        "stability": Column(REAL, "mean over bootstrap draws of the largest Jaccard similarity with a cluster of the draw, 0..1"),
        "first_layer": Column(INT, "lowest layer of its heads"),
        "middle_layer": Column(REAL, "mean layer of its heads, weighted by their share"),
        "last_layer": Column(INT, "highest layer of its heads"),
        "layer": Column(INT, "layer of its largest head"),
        "head": Column(INT, "its largest head"),
    },
)

CLUSTER_NAMES = Table(
    "cluster names",
    {
        "cluster": Column(INT, "cluster, as in the head clusters"),
        "name": Column(TEXT, "object name"),
        "examples": Column(INT, "examples with this object"),
        "attribution": Column(REAL, "attribution summed over the cluster's heads, mean over these examples; target units"),
        "part": Column(REAL, "the same as a share of each example's summed |attribution|, mean, -1..1"),
        "excess": Column(REAL, "part minus its mean over the examples of all other objects"),
        "p": Column(REAL, "Mann-Whitney p-value of the parts against those of all other objects, two-sided; null for fewer than two pictures"),
        "q": Column(REAL, "p-value adjusted by Benjamini and Hochberg over all clusters and names"),
    },
)

CLUSTER_EXAMPLES = Table(
    "cluster examples",
    {
        "cluster": Column(INT, "cluster, as in the head clusters"),
        "rank": Column(INT, "1 = most typical, by the cluster's share of the example's summed |attribution|; different pictures"),
        "id": ID,
        "share": Column(REAL, "the cluster's share of this example's summed |attribution|, 0..1"),
        "attribution": Column(REAL, "attribution summed over the cluster's heads; target units"),
    },
)
