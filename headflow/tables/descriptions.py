"""What a model says about pictures, untouched and under knockouts."""

import polars as pl

from headflow.tables.columns import BOOL, ID, INT, TEXT
from headflow.tables.schema import Column, Table

_SAID = {
    "description": Column(TEXT, "what the model says, special tokens left out"),
    "tokens": Column(pl.List(pl.Int64), "ids of the generated tokens, without the one that ends them"),
    "starts": Column(pl.List(pl.Int64), "character of the description at which each token begins"),
    "stops": Column(pl.List(pl.Int64), "one past its last character; equal to its start where a token shows nothing"),
    "ended": Column(BOOL, "the model ended it; else it was cut off"),
}
_SCENE = Column(INT, "index of the picture in its split")

DESCRIPTIONS = Table("descriptions", {"id": ID, "scene": _SCENE, **_SAID})

KNOCKED_OUT = Table(
    "knocked-out descriptions",
    {
        "id": ID, "scene": _SCENE,
        "knockout": Column(INT, "index of the knockout, the same for every picture of a run"),
        "route": Column(TEXT, "edges to the image that are closed: 'img→gen', 'img→query' or 'img→both'"),
        "first": Column(INT, "first layer of the band, among the layers that read the picture"),
        "stop": Column(INT, "one past its last layer"),
        "outside": Column(BOOL, "the route is closed everywhere but in the band; else in the band"),
        "last_position": Column(TEXT, "what the prompt's last position counts with: 'query' (the paper) or 'generated'"),
        **_SAID,
    },
)  # fmt: skip
