"""What a model says about pictures, and what its descriptions need: the tables of the analyses after Kaduri et al. 2025, for the page about them."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import polars as pl

from headflow.analysis.knockout_examples import KnockoutExample, knockout_examples
from headflow.errors import HeadflowError
from headflow.judging.match import choose_vocabulary
from headflow.judging.vocabulary import Vocabulary
from headflow.reporting.run import Run
from headflow.tables import catalogue as tables

TABLES = {
    "descriptions": tables.DESCRIPTIONS, "knocked_out": tables.KNOCKED_OUT, "judgements": tables.JUDGEMENTS, "agreement": tables.AGREEMENT,
    "share_fractions": tables.SHARE_FRACTIONS, "share_layers": tables.SHARE_MEANS, "share_heads": tables.SHARE_HEADS, "share_maps": tables.ATTENTION_MAPS,
    "spread": tables.SPREAD, "spread_layers": tables.SPREAD_MEANS, "spread_contrast": tables.SPREAD_CONTRAST,
    "knockout_bands": tables.KNOCKOUT_BANDS, "knockout_levels": tables.KNOCKOUT_LEVELS, "knockout_summary": tables.KNOCKOUT_SUMMARY,
    "knockout_differences": tables.KNOCKOUT_DIFFERENCES, "knockout_plan": tables.KNOCKOUT_PLAN,
    "namings": tables.NAMINGS, "localised_layers": tables.LOCALISED_LAYERS, "localised_heads": tables.LOCALISED_HEADS, "localised_maps": tables.LOCALISED_MAPS,
    "compressed_summary": tables.COMPRESSED_SUMMARY, "compressed_differences": tables.COMPRESSED_DIFFERENCES, "compressed_times": tables.COMPRESSED_TIMES,
}  # fmt: skip
"""The tables that the page is made from, by the name under which their paths are given."""

GROUP = "described"
"""Name under which these paths stand among the report's inputs."""


@dataclass(frozen=True)
class Described:
    """What the descriptions of one run have shown."""

    run: Run
    descriptions: pl.DataFrame
    knocked_out: pl.DataFrame
    judgements: pl.DataFrame
    agreement: pl.DataFrame
    share_fractions: pl.DataFrame
    share_layers: pl.DataFrame
    share_heads: pl.DataFrame
    share_maps: pl.DataFrame
    spread: pl.DataFrame
    spread_layers: pl.DataFrame
    spread_contrast: pl.DataFrame
    knockout_bands: pl.DataFrame
    knockout_levels: pl.DataFrame
    knockout_summary: pl.DataFrame
    knockout_differences: pl.DataFrame
    knockout_plan: pl.DataFrame
    namings: pl.DataFrame
    localised_layers: pl.DataFrame
    localised_heads: pl.DataFrame
    localised_maps: pl.DataFrame
    compressed_summary: pl.DataFrame
    compressed_differences: pl.DataFrame
    compressed_times: pl.DataFrame

    @cached_property
    def pictures(self) -> pl.DataFrame:
        """The described pictures with what is known of them and what is said of them; one row each, in order."""
        return self.descriptions.drop("scene").rename({"description": "said"}).join(self.run.examples, on="id", how="left", maintain_order="left")

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The objects that descriptions are searched for, as the judge by vocabulary has them."""
        names = {entry["name"] for objects in self.pictures["objects"].to_list() for entry in objects or [] if entry["name"]}
        judging = self.run.params["judging"]
        choice = judging["vocabulary_file"] if judging["vocabulary"] == "file" else judging["vocabulary"]
        return choose_vocabulary(choice, self.run.params["examples"]["source"], sorted(names))

    @cached_property
    def without_the_picture(self) -> list[KnockoutExample]:
        """The first pictures with what is said of them without each route."""
        return knockout_examples(self.descriptions, self.knocked_out, self.knockout_plan, self.vocabulary)


def load(run: Run, inputs: Mapping[str, str]) -> Described | None:
    """Read and check the tables; None where there is none of them, as nothing was described.

    Args:
        run: the run that they belong to.
        inputs: path of each of TABLES.

    Raises:
        HeadflowError: a table is missing, damaged, or of another run.
    """
    if not any(Path(path).is_file() for path in inputs.values()):
        return None
    known, frames = set(run.asked["id"]), {}
    for name, table in TABLES.items():
        frame = table.read(Path(inputs[name]))
        if "id" in frame.columns and (strangers := set(frame["id"].drop_nulls().unique()) - known):
            raise HeadflowError(f"{inputs[name]}: example {min(strangers)!r} is not among those put to the model, so it is of another run; run `dvc repro`")
        frames[name] = frame
    return Described(run, **frames)
