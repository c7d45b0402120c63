"""Where generated tokens look: at the image, at the rest of the prompt, or at what has been said."""

from headflow.tables.columns import BOOL, HEAD, ID, INT, LAYER, REAL, TEXT
from headflow.tables.schema import Column, Table

GROUPS = ("image", "query", "generated")
"""Groups of keys: the image span (or the picture's keys under cross-attention), every other token of the prompt, and the generated tokens so far."""

_GROUP = Column(TEXT, "keys that are looked at: 'image', 'query' (every other token of the prompt, system and role tokens included) or 'generated'")
_SCENE = Column(INT, "index of the picture in its split")
_SHARE = Column(REAL, "share of the attention of generated tokens, mean over them, 0..1")
_EVEN = Column(REAL, "the share if attention were even over all tokens that the layer shows to the generated token, mean over generated tokens, 0..1")
_CROSSES = Column(BOOL, "the layer attends to the picture alone, by cross-attention: its image share is 1 by construction")
_PICTURES = Column(INT, "pictures with a description")
_LOW, _HIGH = Column(REAL, "lower end of the Student-t interval over pictures"), Column(REAL, "upper end")
_MEASURE = Column(
    TEXT, "'effective' (effective number of image tokens, the exponential of the map's entropy, as a share of all) or 'top' (share of the image's "
    "attention that its largest tokens get)",
)  # fmt: skip

SHARES = Table("attention shares", {"id": ID, "scene": _SCENE, "layer": LAYER, "head": HEAD, "group": _GROUP, "share": _SHARE})

SHARE_PICTURES = Table(
    "attention shares of pictures",
    {
        "id": ID, "scene": _SCENE, "layers": Column(TEXT, "'all' decoder layers, or those of 'text' alone, where others read the picture by cross-attention"),
        "group": _GROUP, "tokens": Column(INT, "tokens of the group in the whole sequence, description included"),
        "token_share": Column(REAL, "the same as a share of all tokens of the sequence, 0..1"),
        "even": _EVEN, "share": Column(REAL, "share of the attention of generated tokens, mean over them, over heads and layers, 0..1"),
    },
)  # fmt: skip

SHARE_MEANS = Table(
    "attention shares of layers",
    {"layer": LAYER, "crosses": _CROSSES, "group": _GROUP, "mean": Column(REAL, "share, mean over heads and pictures, 0..1"), "low": _LOW, "high": _HIGH,
     "even": _EVEN, "pictures": _PICTURES},
)  # fmt: skip

SHARE_HEADS = Table(
    "attention shares of heads",
    {"layer": LAYER, "head": HEAD, "crosses": _CROSSES, "group": _GROUP, "mean": Column(REAL, "share, mean over pictures, 0..1"), "low": _LOW, "high": _HIGH,
     "pictures": _PICTURES},
)  # fmt: skip

SHARE_FRACTIONS = Table(
    "attention fractions",
    {
        "layers": SHARE_PICTURES.columns["layers"], "group": _GROUP, "tokens": Column(REAL, "tokens of the group, mean over pictures"),
        "token_share": Column(REAL, "share of all tokens of prompt and description, mean over pictures, 0..1"),
        "token_share_low": _LOW, "token_share_high": _HIGH, "even": _EVEN, "even_low": _LOW, "even_high": _HIGH,
        "share": Column(REAL, "share of the attention of generated tokens, mean over them, heads, layers and pictures, 0..1"),
        "share_low": _LOW, "share_high": _HIGH, "pictures": _PICTURES,
    },
)  # fmt: skip

SPREAD = Table(
    "spread of attention maps",
    {
        "id": ID, "scene": _SCENE, "layer": LAYER, "measure": _MEASURE,
        "value": Column(REAL, "of the mean map of generated tokens and heads over the image tokens, structural ones left out, 0..1; null where the layer "
                              "shows none of them"),
        "even": Column(REAL, "the same of an even map, 0..1"), "image_tokens": Column(INT, "image tokens"),
    },
)  # fmt: skip

SPREAD_MEANS = Table(
    "mean spread of attention maps",
    {"layer": LAYER, "measure": _MEASURE, "mean": Column(REAL, "mean over pictures, 0..1"), "low": _LOW, "high": _HIGH, "even": SPREAD.columns["even"],
     "pictures": _PICTURES},
)  # fmt: skip

SPREAD_CONTRAST = Table(
    "spread of attention maps over depth",
    {
        "measure": _MEASURE, "early": Column(REAL, "mean over the first third of the layers that read the picture, 0..1"),
        "middle": Column(REAL, "over the middle third"), "late": Column(REAL, "over the last third"),
        "difference": Column(REAL, "middle minus the mean of early and late"), "low": _LOW, "high": _HIGH,
        "p": Column(REAL, "t-test over pictures of no difference"), "pictures": _PICTURES,
    },
)  # fmt: skip

ATTENTION_MAPS = Table(
    "attention maps",
    {
        "id": ID, "scene": _SCENE, "layer": LAYER, "token": Column(INT, "place in the image span, or among the picture's keys under cross-attention"),
        "attention": Column(REAL, "weight, mean over generated tokens and heads, 0..1"),
        "image_token": Column(BOOL, "an image token; else a structural one (newline, row break, tile marker)"),
        **{side: Column(REAL, f"{side} side of its box, pixels of the picture; null for tokens that show no part of it")
           for side in ("left", "top", "right", "bottom")},
    },
)  # fmt: skip
