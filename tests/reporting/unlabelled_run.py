"""A made-up run on real photographs of which nothing is known but a question and an answer: what a user's own folder gives.

Crops of scikit-learn's two photographs, each of its own size and shape, with a question of its own and an answer of several
words; no labels, no objects. The model is larger than the embedded one, splits pictures into tiles with separators between them,
and its target is the log-probability of its own whole answer.
"""

import io

import numpy as np
import polars as pl
from PIL import Image
from sklearn.datasets import load_sample_images

from headflow.analysis.clusters import cluster_heads, example_map, profiles
from headflow.analysis.naming import name_examples
from headflow.analysis.separation import separation
from headflow.attribution.groups import label_columns, summarise
from headflow.tables import catalogue as tables
from tests.reporting import further_tables
from tests.reporting.synthetic_run import Run, skipped

LAYERS, HEADS = 28, 28
MODEL = {
    "key": "photos", "id": "somebody/vision-7b", "source": "somebody/vision-7b", "revision": "8c1e5d7", "trust_remote_code": True, "dtype": "bfloat16",
    "attn": "sdpa", "quantization": "4bit", "architecture": "Qwen2_5_VLForConditionalGeneration", "layers": LAYERS, "heads": HEADS, "kv_heads": 4,
    "decoder_layers": LAYERS, "image_layers": None, "fingerprint": "somebody/vision-7b@8c1e5d7",
}  # fmt: skip
PARAMS = {"models": {"photos": {"id": "somebody/vision-7b", "dtype": "bfloat16", "device_map": "balanced", "attn": "sdpa", "quantization": "4bit",
                                "trust_remote_code": True}},
          "features": {"target": "answer_logprob", "answer": "greedy", "only_correct": False, "baseline": "blank"},
          "report": {"title": "Heads of a 7B model on my own photographs", "scenes": 8}}  # fmt: skip
_CROPS = [  # photograph, x, y, width, height, question, answer
    (0, 0, 0, 640, 427, "What kind of building is this?", "a Chinese temple"),
    (0, 120, 40, 400, 300, "What is the roof made of?", "glazed tiles"),
    (0, 200, 0, 90, 380, "What is in the background?", "sky and trees"),
    (0, 0, 180, 640, 140, "Is the building old or new?", "old"),
    (0, 300, 100, 200, 200, "What is the main object in the image? Answer with one word.", "temple"),
    (0, 40, 200, 320, 200, "Describe the colours of the roof.", "blue, green and gold, with red below the eaves"),
    (1, 0, 0, 640, 427, "What is shown?", "a dahlia in bloom"),
    (1, 180, 60, 330, 300, "Which colour is the flower?", "orange and yellow"),
    (1, 240, 120, 60, 60, "What is the main object in the image? Answer with one word.", "petals"),
    (1, 0, 0, 300, 427, "What is behind the flower?", "dark green leaves"),
    (1, 250, 30, 120, 360, "How many flowers are there?", "one"),
    (1, 380, 100, 250, 90, "Is the picture sharp everywhere?", "no"),
]


def make(seed: int = 0) -> Run:
    """The run; every table that the analysis makes is made by it, from attributions with a few strong heads."""
    rng = np.random.default_rng(seed)
    examples = _examples()
    features = _features(rng, examples)
    ids = features.filter("explained")["id"].to_list()
    shared = np.zeros((LAYERS, HEADS))
    shared[rng.integers(10, 22, 14), rng.integers(0, HEADS, 14)] = rng.normal(0.8, 0.5, 14)
    truth = shared * rng.uniform(0.4, 1.6, (len(ids), 1, 1)) + rng.normal(0, 0.02, (len(ids), LAYERS, HEADS)) * (1 + 8 * (shared != 0))
    attributions = _per_head(ids, attribution=truth, standard_error=np.full_like(truth, 0.02), single_head_effect=truth / 3)
    masks = rng.integers(0, 2, (24, LAYERS * HEADS))
    actual = -9 + masks @ truth.reshape(len(ids), -1).T + rng.normal(0, 0.4, (24, len(ids)))
    predicted = -9 + masks @ truth.reshape(len(ids), -1).T
    r = [float(np.corrcoef(actual[:, i], predicted[:, i])[0, 1]) for i in range(len(ids))]
    asked = examples.filter(pl.col("id").is_in(ids))
    names = name_examples(asked).names
    vectors = truth.reshape(len(ids), -1)
    clusters = cluster_heads(truth, names)
    return Run(
        examples=examples,
        features=features,
        attention=_per_head(features["id"].to_list(), final_to_image=(shares := rng.beta(2, 3, (features.height, LAYERS, HEADS))), suffix_to_image=shares),
        masks=pl.DataFrame({"mask": [0, 1], "purpose": ["fit", "held_out"], "bits": [b"", b""]}),
        attributions=attributions,
        fits=pl.DataFrame(
            {"id": ids, "intercept": -9.0, "penalty": 0.1, "held_out_r": r, "held_out_r2": np.square(r), "intact": -9 + vectors.sum(1), "ablated": -9.2}
        ),
        predictions=pl.DataFrame(
            [{"id": name, "mask": 2 + m, "actual": actual[m, i], "predicted": predicted[m, i]} for i, name in enumerate(ids) for m in range(24)]
        ),
        head_summary=summarise(truth, truth / 3, {"all": np.ones(len(ids), bool)}),
        growth=further_tables.empty(tables.GROWTH),
        head_clusters=clusters.table(),
        profiles=profiles(truth, names),
        example_map=example_map(ids, vectors),
        separation=separation(vectors, asked.select(label_columns(asked))),
        skipped_rows=skipped((4, "holiday.jpg", "image file is truncated"), (17, None, "the question is empty")),
        skipped_examples=skipped((None, "explain-00013", "the answer tokenises to nothing")),
        effort=further_tables.effort(rng, ids, 24),
        **further_tables.ranked(rng, ids, truth),
        **further_tables.paired(ids, np.array(r), found=False),
        **further_tables.grouped(ids, truth, names, asked, asked.select(label_columns(asked)), clusters),
        found_planted=None,
        own_planted=None,
        **dict.fromkeys(f"baseline_{name}" for name in further_tables.BASELINES),
    )  # fmt: skip


def _examples() -> pl.DataFrame:
    photographs = [Image.fromarray(array) for array in load_sample_images().images]
    rows = []
    for place, (which, x, y, width, height, question, answer) in enumerate(_CROPS):
        buffer = io.BytesIO()
        photographs[which].crop((x, y, min(640, x + width), min(427, y + height))).save(buffer, "PNG")
        rows.append({
            "id": f"explain-{place:05d}", "split": "explain", "row": place + 2, "scene": place, "image": buffer.getvalue(), "question_kind": "asked",
            "question": question, "answer": answer, "object_count": None, "description": None, "objects": [],
        })  # fmt: skip
    return pl.DataFrame(rows, schema={name: column.dtype for name, column in tables.EXAMPLES.columns.items()})


def _features(rng: np.random.Generator, examples: pl.DataFrame) -> pl.DataFrame:
    rows = []
    for place, row in enumerate(examples.iter_rows(named=True)):
        tile = int(rng.integers(4, 20)) * int(rng.integers(8, 26))
        span = [*["<|image_pad|>"] * tile, "<tile>", *["<|image_pad|>"] * 64]
        question, own = row["question"].split(), row["answer"].split()
        text = ["<|im_start|>", "user", "\n", *span, *question, "<|im_end|>", "<|im_start|>", "assistant", "\n", *own]
        roles = ["system"] * 3 + ["image"] * len(span) + ["question"] * len(question) + ["role"] * 3 + ["final"] + ["answer"] * len(own)
        right = place % 3 != 1
        rows.append({
            "id": row["id"], "stock_answer": row["answer"] if right else "I cannot tell from this picture, but it may well be something red", "correct": right,
            "explained": place != 3, "target_answer": row["answer"], "answer_tokens": list(range(len(own))), "rival_tokens": [], "stock_target": -4.0,
            "tokens": text, "roles": roles, "swap_partner": None, "image_start": 3, "image_stop": 3 + len(span),
        })  # fmt: skip
    return pl.DataFrame(rows, schema={name: column.dtype for name, column in tables.FEATURES.columns.items()})


def _per_head(ids: list[str], **values: np.ndarray) -> pl.DataFrame:
    """One row an example, layer and head from arrays ``[examples, layers, heads]``."""
    example, layer, head = (index.ravel() for index in np.indices((len(ids), LAYERS, HEADS)))
    return pl.DataFrame({"id": [ids[i] for i in example], "layer": layer, "head": head, **{name: array.ravel() for name, array in values.items()}})
