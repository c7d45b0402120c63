"""Examples, and what is read off the stock model about them."""

import polars as pl

from headflow.tables.columns import BOOL, BYTES, HEAD, ID, INT, LAYER, REAL, TEXT
from headflow.tables.schema import Column, Table

OBJECT = pl.Struct(
    {
        "name": pl.String, "category": pl.String, "colour": pl.String, "style": pl.String, "main": pl.Boolean,
        "x": pl.Int64, "y": pl.Int64, "width": pl.Int64, "height": pl.Int64, "mask": pl.Binary,
    }
)

EXAMPLES = Table(
    "examples",
    {
        "id": ID,
        "split": Column(TEXT, "'explain': to be explained; 'reference': only for baselines"),
        "row": Column(INT, "row of the source that it comes from, numbered as in the skipped table; null for scenes"),
        "scene": Column(INT, "index of the picture in its split"),
        "image": Column(BYTES, "the picture, RGB PNG"),
        "question_kind": Column(TEXT, "object, colour, count, colour_of, exists or description; 'asked' where the question came with the picture"),
        "question": Column(TEXT, "the user's text"),
        "answer": Column(TEXT, "the true answer"),
        "object_count": Column(INT, "objects in the picture; null where it is not known"),
        "description": Column(TEXT, "the true description; null where there is none"),
        "objects": Column(pl.List(OBJECT), "the known objects, each with its exact pixel mask (1-bit PNG of the picture's size), pixels; may be empty"),
    },
    extra=("meaning_", "looks_"),
)

SKIPPED = Table(
    "skipped",
    {
        "row": Column(INT, "row of the manifest as its faults name it; place in COCO's list of images; place in the stream"),
        "id": Column(TEXT, "the row's id, or its picture's name; null where neither is known"),
        "reason": Column(TEXT, "what is wrong with it"),
    },
)

FEATURES = Table(
    "features",
    {
        "id": ID,
        "stock_answer": Column(TEXT, "what the untouched model generates"),
        "correct": Column(BOOL, "the stock answer equals the true answer"),
        "explained": Column(BOOL, "goes on to the ablation runs"),
        "target_answer": Column(TEXT, "the answer that is explained: the true one or the model's own"),
        "answer_tokens": Column(pl.List(pl.Int64), "its token ids; targets of the first token use the first alone"),
        "rival_tokens": Column(pl.List(pl.Int64), "first tokens of the other candidate answers: those of the reference examples"),
        "stock_target": Column(REAL, "target of the untouched model, logits or nats"),
        "tokens": Column(pl.List(pl.String), "the prompt, token by token, and the answer tokens that are fed to the model"),
        "roles": Column(pl.List(pl.String), "role of each token: system, image, question, role, final, answer"),
        "swap_partner": Column(TEXT, "reference example whose picture the baseline 'swap' takes"),
        "image_start": Column(INT, "first position of the image span"),
        "image_stop": Column(INT, "one past the last position of the image span"),
    },
)

ATTENTION = Table(
    "attention",
    {
        "id": ID, "layer": LAYER, "head": HEAD,
        "final_to_image": Column(REAL, "share of the final token's attention that goes to the image span, 0..1"),
        "suffix_to_image": Column(REAL, "the same, mean over all tokens after the image span, 0..1"),
    },
)  # fmt: skip
