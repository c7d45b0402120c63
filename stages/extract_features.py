"""Capture every example once: stock answer, target, attention to the picture, embeddings; and the baseline."""

import itertools
import json
import sys
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
import torch
from safetensors.torch import save_file

from headflow.datasets.faults import Faults
from headflow.errors import HeadflowError
from headflow.execution.executors.jobs import Count, Records, Result
from headflow.files import write_atomically, write_json
from headflow.models.answering import Candidates, answered_together, answers_of_part, check_words, picture_sizes, swap_partner
from headflow.models.baselines import Baseline
from headflow.models.features import image_attention, same_answer
from headflow.models.loading import load_prepared, prepared_processor
from headflow.models.prepared import read_prepared
from headflow.params import Params
from headflow.seeds import generator
from headflow.tables.examples import ATTENTION, EXAMPLES, FEATURES, SKIPPED
from headflow.targets import Target
from stages import paths
from stages.door import enter
from stages.references import known_references, make_baseline
from stages.workers import at_work


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
    candidates = Candidates(processor, references)
    partners = references.to_dicts()
    numbers = {name: number for number, name in enumerate(explain["id"], 1)}
    parts = [[numbers[name] - 1 for name in part["id"]] for part in answered_together(explain)]
    with at_work("stages.extract_features:Extraction", params, key, "capture examples", len(explain), "examples") as run:
        # First the baseline, as it says whether the pictures of a set go together at all.
        list(run([{"baseline": True}]))
        results = list(run([{"rows": part, "faulty": [place for place in part if faulty(faults, explain, place)]} for part in parts]))
    found = {place: (one, f"{place} ") for part, one in zip(parts, results, strict=True) for place in part}
    rows, attention, embeddings, vision, otherwise, image_keys = [], [], [], [], [], 0
    layers, heads = read_prepared(paths.model_dir(key)).layers, read_prepared(paths.model_dir(key)).heads
    for number, row in enumerate(explain.iter_rows(named=True), 1):
        if (place := row["row"] or number) in faults:
            continue
        result, name = found[number - 1]
        if (fault := result[f"{name}fault"]) is not None:
            faults.add(place, row["id"], fault)
            continue
        one = {what: result[f"{name}{what}"] for what in CAPTURED}
        partner = partner_of(partners, row, settings.seed, number)
        answer = row["answer"] if settings.answer == "truth" else one["stock"]
        rivals = candidates.rivals(row, answer, one["tokens"][0])
        correct = same_answer(one["stock"], row["answer"])
        if correct and one["greedy"] and one["greedy"][0] != one["tokens"][0]:
            otherwise.append(f"{one['stock']!r} for {answer!r}")
        rows.append(
            {
                "id": row["id"],
                "stock_answer": one["stock"],
                "correct": correct,
                "explained": correct or not settings.only_correct,
                "target_answer": answer,
                "answer_tokens": one["tokens"],
                "rival_tokens": list(rivals),
                "stock_target": one["stock_target"],
                "tokens": one["pieces"],
                "roles": one["roles"],
                "swap_partner": partner,
                "image_start": one["image"][0],
                "image_stop": one["image"][1],
            }
        )
        for layer, head in itertools.product(range(layers), range(heads)):
            final, suffix = float(one["final"][layer, head]), float(one["suffix"][layer, head])
            attention.append({"id": row["id"], "layer": layer, "head": head, "final_to_image": final, "suffix_to_image": suffix})
        image_keys = max(image_keys, one["image_keys"])
        embeddings.append(tensor_of(one["embeddings"], one["dtypes"][0]))
        vision.append(tensor_of(one["vision"], one["dtypes"][1]))
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
            "prefix_mode": results[-1]["prefix_mode"],
            "sharing_a_first_token": candidates.clashes,
        },
    )


CAPTURED = (
    "greedy", "stock", "tokens", "stock_target", "pieces", "roles", "image", "image_keys", "final", "suffix", "embeddings", "vision", "dtypes",
)  # fmt: skip
"""What a worker tells of each example that has no fault."""


def faulty(faults: Faults, explain: pl.DataFrame, place: int) -> bool:
    """Whether an example has been refused already."""
    return (explain["row"][place] or place + 1) in faults


def partner_of(partners: list[dict[str, Any]], row: dict[str, Any], seed: int, number: int) -> str | None:
    """The reference picture that an example is swapped with."""
    return swap_partner(partners, row, generator(seed, "swap", number - 1).random())


class Extraction:
    """What a worker does: the baseline, or stock answers and captures of examples that are answered in one batch."""

    def __init__(self, params: str, key: str) -> None:
        self.params, self.key = Params.model_validate_json(params), key
        examples = EXAMPLES.read(paths.EXAMPLES)
        examples = examples.with_columns(picture_sizes(examples))
        self.explain = examples.filter(pl.col("split") == "explain")
        self.model = load_prepared(paths.model_dir(key), self.params.model(key).device_map)
        self.references = known_references(self.model.processor, examples, key)
        self.candidates, self.partners = Candidates(self.model.processor, self.references), self.references.to_dicts()
        self.path = paths.features_dir(key) / "baseline.safetensors"

    @cached_property
    def baseline(self) -> Baseline:
        """What the first unit has made."""
        return Baseline.load(self.path, self.model.device, self.model.dtype)

    def __call__(self, unit: dict[str, Any], store: Records, count: Count) -> Result:
        if "baseline" in unit:
            make_baseline(self.params.features.baseline, self.model, self.references).save(self.path)
            return {}
        part = self.explain[unit["rows"]]
        said, result = answers_of_part(self.model, part), {}
        for place, row in zip(unit["rows"], part.iter_rows(named=True), strict=True):
            found = {} if place in unit["faulty"] else self.capture(row, place + 1, said[row["id"]])
            result |= {f"{place} fault": None, **{f"{place} {name}": value for name, value in found.items()}}
            count(1, 0)
        return result | {"prefix_mode": self.model.prefix_mode}

    def capture(self, row: dict[str, Any], number: int, greedy: list[int] | HeadflowError) -> Result:
        """What is told of one example, or its fault."""
        settings, model = self.params.features, self.model
        if isinstance(greedy, HeadflowError):
            return {"fault": str(greedy)}
        stock = model.text(greedy)
        answer, tokens = (row["answer"], None) if settings.answer == "truth" else (stock, greedy)
        if tokens is not None and not tokens:
            return {"fault": "the model answers nothing, so there is no answer to explain"}
        if settings.baseline == "swap" and partner_of(self.partners, row, settings.seed, number) is None:
            return {"fault": "no reference picture of the same size shows another object, as `baseline: swap` needs"}
        try:
            tokens = tokens or model.answer_tokens(row["question"], answer)
            capture = model.capture(row["image"], row["question"], tokens if settings.target == "answer_logprob" else ())
            self.baseline.check_fits(capture)
        except HeadflowError as error:
            return {"fault": str(error)}
        target = Target(settings.target, tokens[0], self.candidates.rivals(row, answer, tokens[0]), tuple(capture.answer_ids[1:]))
        shares = image_attention(capture)
        return {
            "greedy": list(greedy), "stock": stock, "tokens": list(tokens), "stock_target": float(target(capture.answer_logits[None])[0]),
            "pieces": list(capture.pieces), "roles": list(capture.roles), "image": [capture.image.start, capture.image.stop],
            "image_keys": capture.key_image.stop - capture.key_image.start, "final": shares.final.numpy(), "suffix": shares.suffix.numpy(),
            "embeddings": numbers_of(capture.image_embeddings), "vision": numbers_of(capture.vision),
            "dtypes": [str(tensor.dtype).removeprefix("torch.") for tensor in (capture.image_embeddings, capture.vision)],
        }  # fmt: skip


def numbers_of(tensor: torch.Tensor) -> np.ndarray:
    """A tensor as an array; bfloat16, which numpy lacks, by its bits."""
    tensor = tensor.detach().cpu().contiguous()
    return (tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor).numpy()


def tensor_of(numbers: np.ndarray, dtype: str) -> torch.Tensor:
    """The inverse of :func:`numbers_of`."""
    tensor = torch.from_numpy(np.array(numbers))
    return tensor.view(torch.bfloat16) if dtype == "bfloat16" else tensor


if __name__ == "__main__":
    enter(main)
