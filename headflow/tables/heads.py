"""What single heads look at, pass on and write."""

from headflow.tables.columns import BOOL, HEAD, ID, INT, LAYER, REAL, TEXT
from headflow.tables.schema import Column, Table

_TOKEN = Column(INT, "place in the image span (in the picture's keys under cross-attention), 0 = first")
_MAPS = {
    "token": _TOKEN,
    "attention": Column(REAL, "weight of the final token's attention on this image token, in the stock model, 0..1"),
    "attention_text": Column(REAL, "the same, mean over all tokens after the picture, 0..1"),
    "attribution": Column(REAL, "change of the target through the head when this token turns from baseline to real, mean over corners; target units"),
    "left": Column(REAL, "part of the picture that the token shows, pixels from its left border; null where the token shows none, or it is not known"),
    "top": Column(REAL, "the same from the upper border"),
    "right": Column(REAL, "the same from the left border"), "bottom": Column(REAL, "the same from the upper border"),
}  # fmt: skip

HEAD_MAPS = Table("head maps", {"id": ID, "layer": LAYER, "head": HEAD, **_MAPS})

CLUSTER_MAPS = Table(
    "cluster maps",
    {
        "cluster": Column(INT, "cluster, as in the head clusters"),
        "rank": Column(INT, "1 = most typical, as in the cluster examples"),
        "id": ID,
        **{
            name: Column(column.dtype, f"mean over the cluster's heads: {column.meaning}") if name.startswith("att") else column
            for name, column in _MAPS.items()
        },
    },
)

HEAD_WORDS = Table(
    "head words",
    {
        "id": Column(TEXT, "example; null in the mean over all examples of one answer"),
        "answer": Column(TEXT, "the answer that is explained"),
        "examples": Column(INT, "examples in the mean"),
        "layer": LAYER, "head": HEAD,
        "rank": Column(INT, "1 = the word that the picture makes this head raise most"),
        "word": Column(TEXT, "the token's text"),
        "token": Column(INT, "the token's id"),
        "contribution": Column(REAL, "what the head adds to the word's logit without any help, above the mean over all words; logits"),
        "answers": Column(BOOL, "whether it is the first token of the answer"),
    },
)  # fmt: skip

HEAD_WRITING = Table(
    "head writing",
    {
        "layer": LAYER, "head": HEAD, "examples": Column(INT, "examples used"),
        "attribution": Column(REAL, "mean attribution over these examples; target units"),
        "attribution_low": Column(REAL, "lower end of its confidence interval over examples"),
        "attribution_high": Column(REAL, "upper end"),
        "direct": Column(REAL, "what the head adds to the target without any help, at random masks, mean over examples; target units; null where unreadable"),
        "direct_low": Column(REAL, "lower end of its confidence interval over examples"), "direct_high": Column(REAL, "upper end"),
        "share": Column(REAL, "direct / attribution, of the means; null where the attribution is next to nothing, or its interval holds 0"),
        "share_low": Column(REAL, "lower end of its bootstrap interval over pictures"), "share_high": Column(REAL, "upper end"),
        "lead": Column(REAL, "what the head adds to the answer's word in the stock model beyond its mean over other answers' words; logits; top heads only"),
        "lead_low": Column(REAL, "lower end of its confidence interval over examples"), "lead_high": Column(REAL, "upper end"),
        "lead_p": Column(REAL, "t-test that the lead is 0"),
        "first": Column(REAL, "share of examples in which it raises the answer's word more than every other answer's; top heads only"),
        "first_chance": Column(REAL, "the same if it raised one answer's word at random"),
        "first_of_all": Column(REAL, "share of examples in which no other word of the vocabulary is raised more; top heads only"),
    },
)  # fmt: skip
