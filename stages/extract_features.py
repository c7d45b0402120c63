"""Capture every example once: stock answer, target, attention to the picture, embeddings; and the baseline."""

import itertools
import json
import sys

import polars as pl
import torch
from safetensors.torch import save_file

from headflow.errors import HeadflowError
from headflow.files import write_atomically, write_json
from headflow.models.baselines import Baseline, blank_baseline, closed_baseline, mean_baseline
from headflow.models.capture import Capture
from headflow.models.features import image_attention, same_answer
from headflow.models.lvlm import LVLM, load_prepared
from headflow.params import Params
from headflow.progress import progress
from headflow.seeds import generator
from headflow.tables import ATTENTION, EXAMPLES, FEATURES
from headflow.targets import Target
from stages import paths
from stages.door import enter

# Longest answers, in tokens; a description needs more than a word.
_ANSWER_TOKENS, _DESCRIPTION_TOKENS = 12, 64


def main(params: Params, key: str) -> None:
    settings = params.features
    examples = EXAMPLES.read(paths.EXAMPLES)
    explain, references = (examples.filter(pl.col("split") == split) for split in ("explain", "reference"))
    model = load_prepared(paths.model_dir(key), params.model(key).device)
    folder = paths.features_dir(key)

    answers = stock_answers(model, explain)
    rows, attention, embeddings, vision = [], [], [], []
    with progress(f"capture examples ({key})", len(explain), "examples") as bar:
        for index, row in enumerate(explain.iter_rows(named=True)):
            capture = model.capture(row["image"], row["question"])
            token, rivals = candidate_tokens(capture, row, references)
            target = Target(settings.target, token, rivals)
            correct = same_answer(answers[row["id"]], row["answer"])
            rows.append(
                {
                    "id": row["id"],
                    "stock_answer": answers[row["id"]],
                    "correct": correct,
                    "explained": correct or not settings.only_correct,
                    "answer_token": token,
                    "rival_tokens": list(rivals),
                    "stock_target": float(target(capture.logits[None])[0]),
                    "tokens": capture.pieces,
                    "roles": capture.roles,
                    "swap_partner": swap_partner(settings.seed, index, row, references),
                    "image_start": capture.image.start,
                    "image_stop": capture.image.stop,
                }
            )
            shares = image_attention(capture)
            for layer, head in itertools.product(range(model.layers), range(model.heads)):
                final, suffix = float(shares.final[layer, head]), float(shares.suffix[layer, head])
                attention.append({"id": row["id"], "layer": layer, "head": head, "final_to_image": final, "suffix_to_image": suffix})
            embeddings.append(capture.image_embeddings.cpu())
            vision.append(capture.vision.cpu())
            bar.advance()
    features = pl.DataFrame(rows, schema={name: column.dtype for name, column in FEATURES.columns.items()})
    explained = int(features["explained"].sum())
    if not explained:
        raise HeadflowError(
            f"model {key!r} answers none of the {len(features)} examples correctly, so there is nothing to explain; ask something that it can do, or set "
            "features.only_correct: false"
        )

    FEATURES.write(features, folder / "features.parquet")
    ATTENTION.write(pl.DataFrame(attention), folder / "attention.parquet")
    tensors = {f"image_embeddings/{row['id']}": e.contiguous() for row, e in zip(rows, embeddings, strict=True)}
    tensors["vision_features"] = torch.stack(vision)
    metadata = {"ids": json.dumps([row["id"] for row in rows])}
    write_atomically(folder / "tensors.safetensors", lambda temporary: save_file(tensors, temporary, metadata))
    make_baseline(settings.baseline, model, references).save(folder / "baseline.safetensors")
    write_json(
        paths.metrics("extract_features", key),
        {
            "examples": len(features),
            "explained": explained,
            "left_out": len(features) - explained,
            "answered_correctly": float(features["correct"].mean()),
            "mean_stock_target": round(float(features["stock_target"].mean()), 4),
            "image_tokens": int((features["image_stop"] - features["image_start"]).max()),
            "prompt_tokens": int(features["tokens"].list.len().max()),
        },
    )


def stock_answers(model: LVLM, examples: pl.DataFrame) -> dict[str, str]:
    """What the untouched model says to each example; pictures with the same question go together."""
    found: dict[str, str] = {}
    with progress("stock answers", len(examples), "examples") as bar:
        for (question, kind), group in examples.group_by("question", "question_kind", maintain_order=True):
            longest = _DESCRIPTION_TOKENS if kind == "description" else _ANSWER_TOKENS
            for part in group.iter_slices(16):
                said = model.answer(part["image"].to_list(), str(question), longest)
                found.update(zip(part["id"], said, strict=True))
                bar.advance(len(part))
    return found


def candidate_tokens(capture: Capture, row: dict, references: pl.DataFrame) -> tuple[int, tuple[int, ...]]:
    """First token of the true answer, and those of its rivals: the answers of the reference examples of the same kind.

    Rivals come from the references so that they stay the same when more examples are asked for.
    """
    token = capture.first_token(row["answer"])
    others = references.filter((pl.col("question_kind") == row["question_kind"]) & (pl.col("answer") != row["answer"]))
    rivals = set()
    for answer in others["answer"].unique(maintain_order=True):
        try:
            rivals.add(capture.first_token(answer))
        except HeadflowError:
            continue  # the model has no word for it, so it is no rival
    if token in rivals and row["question_kind"] != "description":
        print(f"warning: {row['id']}: another candidate answer begins with the token of {row['answer']!r}; the target cannot tell them apart", file=sys.stderr)
    return token, tuple(sorted(rivals - {token}))


def swap_partner(seed: int, index: int, row: dict, references: pl.DataFrame) -> str:
    """A reference picture with another main object; example i's partner depends on the seed and on i alone."""
    others = references.filter((pl.col("meaning_name") != row["meaning_name"]) & (pl.col("question_kind") == row["question_kind"]))
    if others.is_empty():
        raise HeadflowError(f"{paths.EXAMPLES}: no reference shows another object than {row['id']}; raise examples.references")
    return str(others["id"][int(generator(seed, "swap", index).integers(len(others)))])


def make_baseline(kind: str, model: LVLM, references: pl.DataFrame) -> Baseline:
    """The baseline that all examples share; ``swap`` is each example's own and is made when it is needed."""
    pictures = references.unique("scene", maintain_order=True)
    question = pictures["question"][0]
    if kind == "mean":
        with progress("mean baseline", len(pictures), "pictures") as bar:

            def captures():
                for picture in pictures["image"]:
                    yield model.capture(picture, question)
                    bar.advance()

            return mean_baseline(captures())
    if kind == "blank":
        return blank_baseline(model.capture(pictures["image"][0], question))
    return Baseline(kind, [], []) if kind == "swap" else closed_baseline()


if __name__ == "__main__":
    enter(main)
