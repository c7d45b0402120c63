"""Whether the token that names an object looks at that object."""

from headflow.tables.columns import BYTES, HEAD, ID, INT, REAL, TEXT
from headflow.tables.schema import Column, Table

_WHAT = Column(
    TEXT,
    "'attention' of the naming token on the image tokens, mean over heads; 'attention before', that of the position which predicts it; or "
    "'attribution': what each image token does to the logit of the naming token through the heads of the layer, logits",
)
_LAYER = Column(INT, "decoder layer that reads the picture, 0 = nearest the input; null = all together (mean attention, summed attribution)")
_AGAINST = Column(TEXT, "whose mask: the 'own' object's, or that of each 'other' known object of the picture, mean over them")
_CONTRAST = Column(TEXT, "'own' object's mask, that of each 'other' object, or the 'difference' of the two above their chance levels, mention by mention")
_STATISTIC = Column(
    TEXT,
    "'share' of the map (of an attribution, of its part above zero) inside the mask, 'auroc' of tokens inside against tokens outside, or 'pointing': "
    "whether the largest token lies inside; 0..1",
)
_SHARE, _AUROC, _POINTING = (
    Column(REAL, "share of the map inside the mask, 0..1; null where the map is zero, or no token or every token lies inside"),
    Column(REAL, "area under the ROC curve of tokens inside against tokens outside, 0..1"),
    Column(REAL, "share of the largest token's box that lies inside, 0..1"),
)
_MENTIONS, _PICTURES = Column(INT, "mentions for which it is defined"), Column(INT, "their pictures")

NAMINGS = Table(
    "namings",
    {
        "id": ID, "scene": Column(INT, "picture of the example: its scene in the examples table"),
        "name": Column(TEXT, "object that is named, as the vocabulary calls it; each is taken where it is named first"),
        "word": Column(TEXT, "as it stands in the description"),
        "start": Column(INT, "its first character in the description"), "stop": Column(INT, "one past its last character"),
        "token": Column(INT, "place of its first token among those of the description; null where the object is not known"),
        "objects": Column(INT, "true objects of that name, whose masks are taken together; 0 = the picture shows none, or where is not known"),
        "others": Column(INT, "other objects of the picture with a mask"),
        "area": Column(REAL, "share of the picture's pixels in the mask, 0..1; null where the object is not known"),
        "even": Column(REAL, "share of the image tokens in the mask, boxes weighted by overlap: the chance level of 'share' and 'pointing', 0..1"),
        "most": Column(REAL, "largest share of a token's box in the mask, 0..1: the most that 'share' and 'pointing' can reach"),
        "most_auroc": Column(REAL, "the most that 'auroc' can reach with these image tokens, 0..1"),
        "mask": Column(BYTES, "pixels of the true objects of that name, 1-bit PNG of the picture's size; null where the object is not known"),
    },
)  # fmt: skip

LOCALISED = Table(
    "localised namings",
    {
        "id": ID, "name": Column(TEXT, "object that is named, as in the namings"), "what": _WHAT, "layer": _LAYER, "against": _AGAINST,
        "share": _SHARE, "auroc": _AUROC, "pointing": _POINTING,
        "even": Column(REAL, "chance level of 'share' and 'pointing': share of the image tokens in the mask, 0..1"),
        "amount": Column(REAL, "attention: its sum over the image tokens, mean over heads, 0..1; attribution: its sum with signs, logits"),
    },
)  # fmt: skip

LOCALISED_LAYERS = Table(
    "localisation by layer",
    {
        "what": _WHAT, "layer": _LAYER, "against": _CONTRAST, "statistic": _STATISTIC,
        "mean": Column(REAL, "mean over mentions"), "low": Column(REAL, "lower end of its Student-t interval, errors clustered by picture"),
        "high": Column(REAL, "upper end"), "chance": Column(REAL, "mean chance level of the same mentions; 0 for a difference"),
        "over": Column(REAL, "mean minus chance, mention by mention"), "over_low": Column(REAL, "lower end of its interval"),
        "over_high": Column(REAL, "upper end"), "p": Column(REAL, "t-test over pictures that it is at chance; null with one picture"),
        "p_holm": Column(REAL, "the same, corrected for all layers"),
        "most": Column(REAL, "mean of the most that any map of these tokens could reach; null but against 'own'"),
        "mentions": _MENTIONS, "pictures": _PICTURES,
    },
)  # fmt: skip

LOCALISED_HEADS = Table(
    "localisation by head",
    {
        "layer": Column(INT, "decoder layer that reads the picture, 0 = nearest the input"), "head": HEAD, "statistic": _STATISTIC,
        "mean": Column(REAL, "mean over mentions, of the attention of the head at localising.position against the own object's mask"),
        "low": Column(REAL, "lower end of its Student-t interval, errors clustered by picture"), "high": Column(REAL, "upper end"),
        "over": Column(REAL, "mean minus chance, mention by mention"), "p": Column(REAL, "t-test over pictures that it is at chance"),
        "p_holm": Column(REAL, "the same, corrected for all heads"), "mentions": _MENTIONS, "pictures": _PICTURES,
    },
)  # fmt: skip

LOCALISED_MAPS = Table(
    "localisation maps",
    {
        "id": ID, "name": Column(TEXT, "object that is named, as in the namings"), "what": _WHAT,
        "layer": Column(INT, "decoder layer of the map: of attention, that of the largest mean AUROC; null = all layers together"),
        "token": Column(INT, "image token, from 0 along the image span"),
        "value": Column(REAL, "attention, mean over heads, 0..1; attribution, logits"),
        "left": Column(REAL, "left side of the token's box on the picture, pixels; null = it has none"), "top": Column(REAL, "top side"),
        "right": Column(REAL, "right side"), "bottom": Column(REAL, "bottom side"),
    },
)  # fmt: skip
