"""Capture every example once: stock answer, target, attention to the picture, embeddings; and the baseline."""

import itertools
import json
import sys

import polars as pl
import torch
from safetensors.torch import save_file

from headflow.datasets.faults import Faults
from headflow.errors import HeadflowError
from headflow.files import write_atomically, write_json
from headflow.models.answering import Candidates, check_words, picture_sizes, stock_answers, swap_partner
from headflow.models.features import image_attention, same_answer
from headflow.models.loading import load_prepared, prepared_processor
from headflow.params import Params
from headflow.progress import progress
from headflow.seeds import generator
from headflow.tables.examples import ATTENTION, EXAMPLES, FEATURES, SKIPPED
from headflow.targets import Target
from stages import paths
from stages.door import enter
from stages.references import known_references, make_baseline


def main(params: Params, key: str) -> None:
    settings, folder = params.features, paths.features_dir(key)
    examples = EXAMPLES.read(paths.EXAMPLES)
    examples = examples.with_columns(picture_sizes(examples))
    explain = examples.filter(pl.col("split") == "explain")
    own = params.examples.source not in ("scenes", "planted")
    numbering = "numbered as in the source" if own else "the first is 1"
    faults = Faults(f"model {key!r}", numbering, params.examples.on_bad_example, "row" if own else "example")
    # Before the weights are loaded. The true answers of references are only candidates: one that has no tokens is none.
    processor = prepared_processor(paths.model_dir(key))
    check_words(processor, explain, faults, answers=settings.answer == "truth")
    faults.settle(len(explain))
    references = known_references(processor, examples, key)
    model = load_prepared(paths.model_dir(key), params.model(key).device_map)

    # First, as it says whether the pictures of a set go together at all.
    baseline = make_baseline(settings.baseline, model, references)
    said = stock_answers(model, explain)
    candidates = Candidates(model.processor, references)
    partners = references.to_dicts()
    rows, attention, embeddings, vision, otherwise, image_keys = [], [], [], [], [], 0
    with progress(f"capture examples ({key})", len(explain), "examples") as bar:
        for number, row in enumerate(explain.iter_rows(named=True), 1):
            bar.advance()
            if (place := row["row"] or number) in faults:
                continue
            if isinstance(greedy := said[row["id"]], HeadflowError):
                faults.add(place, row["id"], str(greedy))
                continue
            stock = model.text(greedy)
            answer, tokens = (row["answer"], None) if settings.answer == "truth" else (stock, greedy)
            partner = swap_partner(partners, row, generator(settings.seed, "swap", number - 1).random())
            if tokens is not None and not tokens:
                faults.add(place, row["id"], "the model answers nothing, so there is no answer to explain")
                continue
            if settings.baseline == "swap" and partner is None:
                faults.add(place, row["id"], "no reference picture of the same size shows another object, as `baseline: swap` needs")
                continue
            try:
                tokens = tokens or model.answer_tokens(row["question"], answer)
                capture = model.capture(row["image"], row["question"], tokens if settings.target == "answer_logprob" else ())
                baseline.check_fits(capture)
            except HeadflowError as error:
                faults.add(place, row["id"], str(error))
                continue
            rivals = candidates.rivals(row, answer, tokens[0])
            target = Target(settings.target, tokens[0], rivals, tuple(capture.answer_ids[1:]))
            correct = same_answer(stock, row["answer"])
            if correct and greedy and greedy[0] != tokens[0]:
                otherwise.append(f"{stock!r} for {answer!r}")
            rows.append(
                {
                    "id": row["id"],
                    "stock_answer": stock,
                    "correct": correct,
                    "explained": correct or not settings.only_correct,
                    "target_answer": answer,
                    "answer_tokens": tokens,
                    "rival_tokens": list(rivals),
                    "stock_target": float(target(capture.answer_logits[None])[0]),
                    "tokens": capture.pieces,
                    "roles": capture.roles,
                    "swap_partner": partner,
                    "image_start": capture.image.start,
                    "image_stop": capture.image.stop,
                }
            )
            shares = image_attention(capture)
            for layer, head in itertools.product(range(model.layers), range(model.heads)):
                final, suffix = float(shares.final[layer, head]), float(shares.suffix[layer, head])
                attention.append({"id": row["id"], "layer": layer, "head": head, "final_to_image": final, "suffix_to_image": suffix})
            image_keys = max(image_keys, capture.key_image.stop - capture.key_image.start)
            embeddings.append(capture.image_embeddings.cpu())
            vision.append(capture.vision.cpu())
    faults.settle(len(explain))
    faults.warn()
    if (warning := candidates.warning()) and settings.target != "answer_logprob":
        print(warning, file=sys.stderr)
    if otherwise:
        print(
            f"warning: {len(otherwise)} of {len(rows)} answers are correct but begin with another token than the true answer that is explained (the model says "
            f"{otherwise[0]}); set features.answer: greedy to explain what the model says",
            file=sys.stderr,
        )
    features = pl.DataFrame(rows, schema={name: column.dtype for name, column in FEATURES.columns.items()})
    explained = int(features["explained"].sum())
    if not explained:
        raise HeadflowError(
            f"model {key!r} answers none of the {len(explain)} examples correctly, so there is nothing to explain; ask something that it can do, or set "
            "features.only_correct: false"
            if rows
            else f"none of the {len(explain)} examples can be put to model {key!r}; the first: {faults.table()['reason'][0]}"
        )

    if explained < len(features) / 2:
        print(
            f"note: {explained} of {len(features)} examples are explained, as the model answers the others wrongly; features.only_correct: false explains "
            "them too",
            file=sys.stderr,
        )

    FEATURES.write(features, folder / "features.parquet")
    SKIPPED.write(faults.table(), folder / "skipped.parquet")
    ATTENTION.write(pl.DataFrame(attention), folder / "attention.parquet")
    tensors = {f"image_embeddings/{row['id']}": e.contiguous() for row, e in zip(rows, embeddings, strict=True)}
    tensors["vision_features"] = torch.stack(vision)
    metadata = {"ids": json.dumps([row["id"] for row in rows])}
    write_atomically(folder / "tensors.safetensors", lambda temporary: save_file(tensors, temporary, metadata))
    baseline.save(folder / "baseline.safetensors")
    write_json(
        paths.metrics("extract_features", key),
        {
            "examples": len(features),
            "explained": explained,
            "left_out": len(features) - explained,
            "skipped": len(faults),
            "answered_correctly": float(features["correct"].mean()),
            "mean_stock_target": round(float(features["stock_target"].mean()), 4),
            "image_tokens": image_keys,
            "prompt_tokens": int(features["tokens"].list.len().max()),
            "prefix_mode": model.prefix_mode,
            "sharing_a_first_token": candidates.clashes,
        },
    )


if __name__ == "__main__":
    enter(main)
