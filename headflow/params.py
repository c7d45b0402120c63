"""params.yaml: its schema, checked whole at the door of every stage, with errors that name the key."""

import difflib
import os
import re
import reprlib
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from headflow.datasets.scenes.settings import SceneSettings
from headflow.errors import HeadflowError
from headflow.models.embedded.recipe import Recipe

QuestionKind = Literal["object", "colour", "count", "colour_of", "exists", "description"]
Baseline = Literal["mean", "blank", "swap", "closed"]
Design = Literal["auto", "bernoulli", "antithetic", "foldover_hadamard", "kernel", "single"]
Estimator = Literal["auto", "ridge", "lasso", "foldover", "prior", "gradient"]
Ranking = Literal["attribution", "ablation", "restoration", "attention", "gradient", "integrated", "random"]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
EMBEDDED = "embedded"
PLANTED = "planted"
Judge = Literal["match", "llm", "local"]
STORE = "HEADFLOW_STORE"
"""Environment variable: the result store of this machine; goes before ``ablation.store``, so that no machine's paths get into the params."""
Circuit = Literal["additive", "redundant", "joint", "chain", "decoy", "cancelled", "category"]


class Group(BaseModel):
    """A group of params: no unknown keys, no silent conversions."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    def _each_once(self, *names: str) -> None:
        """Refuse lists that name something twice."""
        for name in names:
            values = getattr(self, name)
            if twice := [value for value in values if values.count(value) > 1]:
                raise ValueError(f"{name}: {twice[0]} is listed twice")

    def _in_pairs(self, *names: str) -> None:
        """Refuse odd numbers of what comes in pairs."""
        for name in names:
            if getattr(self, name) % 2:
                raise ValueError(f"{name} = {getattr(self, name)}: they come in pairs; take an even number")


class ColumnParams(Group):
    """Which column says what. A name other than the one given here must exist; id, category, style, mask and split may be absent."""

    id: str = Field("id", min_length=1, description="column with a name of the row, each once")
    image: str = Field("image", min_length=1, description="column with the picture")
    question: str = Field("question", min_length=1, description="column with the question")
    answer: str = Field("answer", min_length=1, description="column with the true answer")
    category: str = Field("category", min_length=1, description="column with what kind of thing it is; becomes the label meaning_category")
    style: str = Field("style", min_length=1, description="column with how it is drawn or taken; becomes the label looks_style")
    mask: str = Field("mask", min_length=1, description="column with a black and white picture of the main object's pixels")
    split: str = Field("split", min_length=1, description="column that says 'explain' or 'reference'")


class FolderParams(Group):
    """Pictures in a folder with a manifest (source folder)."""

    manifest: str = Field("manifest.csv", min_length=1, description="table inside examples.path, one question a row: .csv, .jsonl or .parquet")
    columns: ColumnParams = Field(default_factory=ColumnParams, description="names of the manifest's columns")
    meaning: list[str] = Field([], description="further columns that say what a picture means; become labels meaning_<column>")
    looks: list[str] = Field([], description="further columns that say how a picture looks; become labels looks_<column>")


class CocoParams(Group):
    """Pictures annotated in COCO's instances format (source coco)."""

    annotations: str = Field("annotations/instances.json", min_length=1, description="instances file inside examples.path")
    images: str = Field("images", min_length=1, description="folder of the pictures inside examples.path")
    question: str = Field("What is the main object in the image? Answer with one word.", min_length=1, description="what is asked about each picture")
    least_share: float = Field(0.1, gt=0.0, le=1.0, description="least share of the picture that its main object, the largest instance, takes")
    rival_share: float = Field(0.5, gt=0.0, le=1.0, description="every other instance is smaller than this share of the main object")


class HuggingFaceParams(Group):
    """A data set of the Hugging Face hub, or a local folder that `datasets` reads (source huggingface)."""

    id: str | None = Field(None, min_length=1, description="id on the hub, or a local folder")
    config: str | None = Field(None, description="configuration of the data set; null = its only or default one")
    split: str = Field("train", min_length=1, description="split of the data set to draw from")
    revision: str | None = Field(None, description="commit, tag or branch on the hub; a commit makes the run repeatable")
    shuffle_buffer: int = Field(1000, ge=1, le=1_000_000, description="rows held while shuffling the stream; 1 = the data set's own order")
    question: str | None = Field(None, min_length=1, description="what is asked about every picture; null = the question column")
    columns: ColumnParams = Field(default_factory=ColumnParams, description="names of the data set's columns")
    meaning: list[str] = Field([], description="further columns that say what a picture means; become labels meaning_<column>")
    looks: list[str] = Field([], description="further columns that say how a picture looks; become labels looks_<column>")


class ExamplesParams(Group):
    """Which pictures and questions (stage prepare_examples)."""

    source: Literal["scenes", "folder", "coco", "huggingface", "planted"] = Field(
        "scenes", description="where examples come from; see docs/data.md; planted = pictures for planted models"
    )
    questions: list[QuestionKind] = Field(["object"], min_length=1, description="scenes only: question kinds asked about each scene")
    count: int = Field(48, ge=2, le=100_000, description="pictures to explain")
    references: int = Field(64, ge=2, le=10_000, description="further pictures, for the baselines only")
    seed: Seed = Field(0, description="seed of the scenes, or of the choice of pictures")
    path: str = Field("data/pictures", min_length=1, description="folder and coco: where the pictures are; an input of the stage, so it has to exist")
    picture_size: Annotated[list[Annotated[int, Field(ge=1, le=8192)]], Field(min_length=2, max_length=2)] | None = Field(
        None, description="all but scenes and planted: [width, height] that pictures are cut (at the centre) and scaled to, pixels; null = as they are"
    )
    on_bad_example: Literal["stop", "skip"] = Field(
        "stop", description="all but scenes and planted: stop at faulty rows, or leave them out and list them in the report"
    )
    max_pixels: int = Field(50_000_000, ge=1, le=178_000_000, description="all but scenes and planted: a picture with more pixels is refused, unopened")
    scenes: SceneSettings = Field(default_factory=SceneSettings, description="how scenes are rendered")
    folder: FolderParams = Field(default_factory=FolderParams, description="a folder of pictures with a manifest")
    coco: CocoParams = Field(default_factory=CocoParams, description="pictures with COCO annotations")
    huggingface: HuggingFaceParams = Field(default_factory=HuggingFaceParams, description="a data set of the Hugging Face hub")

    @model_validator(mode="after")
    def _consistent(self) -> "ExamplesParams":
        self._each_once("questions")
        if self.source == "huggingface" and self.huggingface.id is None:
            raise ValueError("source is huggingface, but huggingface.id names no data set")
        return self


class ModelParams(Group):
    """One model (stage prepare_model); the key that it stands under names its stages and folders."""

    id: str = Field(EMBEDDED, min_length=1, description="'embedded' (ships with headflow), 'planted' (known circuits), a local folder, or a Hugging Face id")
    revision: str | None = Field(None, description="commit, tag or branch on the hub")
    dtype: Literal["float32", "bfloat16", "float16"] = Field("float32", description="number format of weights and runs")
    device_map: str = Field(
        "auto",
        pattern=r"^(auto|cpu|cuda(:\d+)?|balanced|balanced_low_0|sequential)$",
        description="where the weights go: auto takes the one GPU, or spreads over several; balanced, balanced_low_0 and sequential are accelerate's",
    )
    attn: Literal["auto", "sdpa", "eager", "flash_attention_2", "flash_attention_3"] = Field(
        "auto", description="attention code of the stock forwards; masked forwards bring their own"
    )
    quantization: Literal["8bit", "4bit"] | None = Field(None, description="load the weights in 8 or 4 bits (needs the extra headflow[quantized])")
    trust_remote_code: bool = Field(False, description="run code that comes with the checkpoint")
    source: Literal["shipped", "train"] = Field("shipped", description="embedded model only: take the shipped checkpoint or train anew")
    recipe: Recipe | None = Field(None, description="embedded model only: how it is trained; null = as the shipped one was")
    circuit: Circuit | None = Field(None, description="planted model only: which known circuit its weights spell; goes with examples.source planted")

    @model_validator(mode="after")
    def _each_kind_has_its_own_keys(self) -> "ModelParams":
        if self.id != EMBEDDED and (self.recipe is not None or self.source != "shipped"):
            raise ValueError(f"`recipe` and `source` belong to models with id 'embedded' only, and this one's is {self.id!r}: remove them, or correct the id")
        if (self.id == PLANTED) != (self.circuit is not None):
            raise ValueError(
                f"id is 'planted', but `circuit` names none of {', '.join(get_args(Circuit))}" if self.id == PLANTED
                else "`circuit` belongs to models with id 'planted' only"
            )  # fmt: skip
        return self


class FeaturesParams(Group):
    """What is captured of each example (stage extract_features)."""

    target: Literal["logit", "logprob", "margin", "answer_logprob"] = Field(
        "logit", description="what is explained: of the answer's first token its logit, logprob or margin; or the logprob of the whole answer"
    )
    answer: Literal["truth", "greedy"] = Field("truth", description="which answer is explained: the true one, or the model's own (greedy decoding)")
    only_correct: bool = Field(True, description="explain only examples that the stock model answers correctly")
    baseline: Baseline = Field("mean", description="what an ablated head reads at image positions")
    seed: Seed = Field(0, description="seed of the choice of swap partners")


class MasksParams(Group):
    """Which heads are ablated together (stage sample_masks)."""

    design: Design = Field("auto", description="how fit masks are drawn; auto takes the best for the budget")
    estimand: Literal["banzhaf", "shapley"] = Field("banzhaf", description="what is averaged over: banzhaf, all sets of other heads alike; shapley, all sizes")
    count: int = Field(384, ge=4, le=1_000_000, description="fit masks per example; the most of them where `precision` is set")
    corners: int = Field(16, ge=0, le=4096, description="masks at which the gradient of every gate is taken too (about 2.7 masked runs each); even, 0 = none")
    precision: float | None = Field(
        None, gt=0.0, lt=1.0, description="stop an example when the estimated relative error of its attributions is this small; null = run all fit masks"
    )
    held_out: int = Field(128, ge=20, le=100_000, description="independent Bernoulli masks that judge the fit")
    ablation_probability: float = Field(
        0.5,
        gt=0.0,
        lt=1.0,
        description="chance that a head is ablated (bernoulli and antithetic); other than 0.5, sets of other heads are weighted by their size",
    )
    seed: Seed = Field(0, description="seed of the masks; mask i depends on it and on i alone")

    @model_validator(mode="after")
    def _consistent(self) -> "MasksParams":
        self._in_pairs("corners")
        if self.estimand == "shapley" and self.design not in ("auto", "kernel"):
            raise ValueError(f"design = {self.design!r}: Shapley values need the design 'kernel' (or 'auto')")
        if self.precision is not None and self.design == "single":
            raise ValueError("precision: design 'single' draws nothing, so there is no error to wait for; set precision to null")
        return self


class AblationParams(Group):
    """How the masked runs are done (stage run_ablations); none of it changes a result."""

    batch_size: int | Literal["auto"] = Field("auto", description="masked forwards at once; auto goes by the sizes of model and memory")
    store: str = Field(
        ".headflow/results.sqlite", min_length=1, description="where finished work is kept between runs; the environment variable HEADFLOW_STORE goes before it"
    )

    @model_validator(mode="after")
    def _positive_batch(self) -> "AblationParams":
        if self.batch_size != "auto" and self.batch_size < 1:
            raise ValueError("batch_size must be 'auto' or at least 1")
        return self


class ExecutionParams(Group):
    """Where masked runs are done (all stages that run the model); none of it changes a result beyond rounding."""

    executor: Literal["local", "ray"] = Field("local", description="local: this machine; ray: a Ray cluster (needs the extra headflow[ray])")
    workers: Annotated[int, Field(ge=1, le=10_000)] | Literal["auto"] = Field(
        "auto", description="processes that load the model, each once; auto: one for every GPU, one where there is none; on Ray as many as fit"
    )
    threads: Annotated[int, Field(ge=1, le=1024)] | Literal["auto"] = Field(
        "auto", description="CPU threads of each worker; auto: an equal share of the machine's, one on Ray; the same number gives the same bytes"
    )
    gpus_per_worker: int = Field(1, ge=1, le=64, description="GPUs that one worker's model is spread over, where there are any")
    address: str | None = Field(
        None, min_length=1, description="Ray cluster to join: host:port, or auto for the one on this machine; null: RAY_ADDRESS, else a cluster of its own"
    )


class FitParams(Group):
    """How attributions are estimated (stage fit_attributions)."""

    estimator: Estimator = Field("auto", description="auto: prior where gradients were taken, foldover where masks come in complementary pairs, else ridge")
    confidence: float = Field(0.95, gt=0.5, lt=1.0, description="level of the confidence intervals")
    seed: Seed = Field(0, description="seed of bootstrap draws")


class ClustersParams(Group):
    """How heads are grouped and what separates the examples (stage cluster_heads)."""

    max_clusters: int = Field(8, ge=2, le=50, description="most clusters tried; the number with the best silhouette is taken")
    coverage: float = Field(0.95, gt=0.0, le=1.0, description="heads are clustered until they hold this share of the summed |attribution|")
    neighbours: int = Field(3, ge=1, le=50, description="nearest neighbours of the purity")
    permutations: int = Field(999, ge=19, le=100_000, description="permutations of pictures behind each p-value")
    draws: int = Field(499, ge=50, le=100_000, description="bootstrap draws of pictures behind each interval and the stability of clusters")
    confidence: float = Field(0.95, gt=0.5, lt=1.0, description="level of the bootstrap intervals")
    typical: int = Field(6, ge=1, le=50, description="most typical examples listed for each cluster")
    seed: Seed = Field(0, description="seed of permutations and bootstrap draws")


class InteractionsParams(Group):
    """Which pairs of heads compensate for or need each other (stage find_interactions)."""

    level: float = Field(0.05, gt=0.0, lt=1.0, description="false-discovery rate among the pairs reported")
    most: int = Field(100, ge=1, le=10_000, description="pairs tested at most; at most one for every five held-out masks is, whatever this says")
    confidence: float = Field(0.95, gt=0.5, lt=1.0, description="level of each pair's interval")


class FaithfulnessParams(Group):
    """How rankings of heads are put to the test (stage evaluate_faithfulness); the baseline is that of `features`."""

    rankings: list[Ranking] = Field(
        list(get_args(Ranking)), min_length=1, description="what orders the heads: head attribution and its rivals, see headflow/attribution/rankings.py"
    )
    points: int | None = Field(
        24, ge=2, le=100_000, description="numbers of heads k at which curves are measured, closer together at small k; null = every k from 0 to all heads"
    )
    path_points: int = Field(8, ge=1, le=1000, description="gradients on the way from all heads ablated to none, of the ranking `integrated`")
    level: float = Field(0.8, gt=0.0, lt=1.0, description="the smallest k that reaches this faithfulness or completeness is reported")
    least_effect: float = Field(
        0.05, ge=0.0, lt=1.0, description="examples whose total effect is not above this share of the median one are left out and counted"
    )
    confidence: float = Field(0.95, gt=0.5, lt=1.0, description="level of the confidence intervals over examples")
    seed: Seed = Field(0, description="seed of the random order")

    @model_validator(mode="after")
    def _consistent(self) -> "FaithfulnessParams":
        self._each_once("rankings")
        return self


class BaselinesParams(Group):
    """How much hangs on what ablated heads read (stage compare_baselines): a sample of the examples under several baselines, each with the same masks."""

    kinds: list[Baseline] = Field(list(get_args(Baseline)), min_length=2, description="baselines that are compared; that of `features` may be among them")
    examples: int | None = Field(24, ge=2, le=100_000, description="explained examples in the sample, drawn at random; null = all")
    masks: int = Field(64, ge=4, le=1_000_000, description="fit masks per example and baseline; even")
    corners: int = Field(8, ge=2, le=4096, description="masks at which the gradient of every gate is taken too; even")
    held_out: int = Field(64, ge=20, le=100_000, description="further masks that judge the fit")
    top: int = Field(8, ge=1, le=100_000, description="heads of largest |attribution| whose overlap is told; at most a quarter of all heads is taken")
    confidence: float = Field(0.95, gt=0.5, lt=1.0, description="level of the confidence intervals over pictures")
    seed: Seed = Field(0, description="seed of the masks and of the sample; with that of `masks`, finished runs of the run's own baseline are found again")

    @model_validator(mode="after")
    def _consistent(self) -> "BaselinesParams":
        self._each_once("kinds")
        self._in_pairs("masks", "corners")
        return self


class TextTokensParams(Group):
    """Which tokens of the text receive the picture (stage trace_text); target and baseline are those of `features`."""

    windows: int = Field(1, ge=1, le=1000, description="bands of layers in which a token is cut off each alone; 1 = in all layers at once")
    count: int = Field(64, ge=4, le=1_000_000, description="fit masks per example; where all combinations of tokens are fewer, all are run")
    corners: int = Field(8, ge=0, le=4096, description="masks at which the gradient of every gate is taken too (about 2.7 masked runs each); even, 0 = none")
    held_out: int = Field(24, ge=20, le=100_000, description="independent masks that judge the fit")
    top_heads: int | None = Field(None, ge=1, description="first heads of the mean head attribution that are traced alone; null = as many as top_share takes")
    top_share: float = Field(0.8, gt=0.0, le=1.0, description="share of the summed mean attribution that the top heads hold")
    confidence: float = Field(0.95, gt=0.5, lt=1.0, description="level of the confidence intervals")
    seed: Seed = Field(0, description="seed of the masks")

    @model_validator(mode="after")
    def _consistent(self) -> "TextTokensParams":
        self._in_pairs("corners")
        return self


class FlowParams(Group):
    """At which depth edges between groups of tokens matter (stage trace_flow); the target is that of `features`."""

    width: int | None = Field(None, ge=1, le=1000, description="layers of the sliding window; null = a sixth of the model's, two at least if it has four")
    stride: int = Field(1, ge=1, le=1000, description="layers from one window to the next")
    reads: Literal["baseline", "nothing"] = Field(
        "baseline", description="what a closed edge from the picture reads: the baseline of `features`, or nothing; edges between text read nothing"
    )
    draws: int = Field(1999, ge=99, le=100_000, description="bootstrap draws of pictures behind each depth's interval")
    confidence: float = Field(0.95, gt=0.5, lt=1.0, description="level of the confidence intervals")
    seed: Seed = Field(0, description="seed of the bootstrap draws")


class ImageTokensParams(Group):
    """Which image tokens give the picture (stage trace_image); target and baseline are those of `features`."""

    alone: int = Field(100, ge=8, le=10_000, description="up to so many image tokens are cut each alone; more are cut in so many patches, found by a search")
    count: int = Field(64, ge=16, le=1_000_000, description="fit masks per example, those of the search included")
    corners: int = Field(
        32, ge=8, le=4096, description="masks at which the local differences of all tokens are taken (about 2.7 masked runs each), the search's included; even"
    )
    held_out: int = Field(48, ge=20, le=100_000, description="independent masks that judge the fit")
    estimand: Literal["shapley", "banzhaf"] = Field(
        "shapley", description="what is averaged over: shapley, sets of other tokens of all sizes; banzhaf, all sets alike, most of which hold about half"
    )
    search: float = Field(0.5, gt=0.0, lt=1.0, description="share of fit masks and corners that looks for patches, where there are too many tokens")
    top: bool = Field(True, description="also with the top heads alone")
    top_heads: int | None = Field(None, ge=1, description="first heads of the mean head attribution that are traced alone; null = as many as top_share takes")
    top_share: float = Field(0.8, gt=0.0, le=1.0, description="share of the summed mean attribution that the top heads hold")
    confidence: float = Field(0.95, gt=0.5, lt=1.0, description="level of the confidence intervals")
    seed: Seed = Field(0, description="seed of the masks")

    @model_validator(mode="after")
    def _consistent(self) -> "ImageTokensParams":
        self._in_pairs("corners")
        return self


class KeepingParams(Group):
    """How few image tokens keep the answer (stage keep_image_tokens)."""

    percents: list[Annotated[float, Field(gt=0.0, le=100.0)]] = Field(
        [1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 50.0, 75.0, 100.0], min_length=2, description="k: percent of the image tokens that stay, rising, 100 the last"
    )
    ways: list[Literal["baseline", "closed", "removed"]] = Field(
        ["baseline", "closed", "removed"],
        min_length=1,
        description="what becomes of the others: the text reads their baseline, or cannot see them, or the decoder never sees them",
    )
    selections: list[Literal["attribution", "attention", "position", "random"]] = Field(
        ["attribution", "attention", "position", "random"], min_length=1, description="what the tokens that stay are chosen by"
    )
    attention: Literal["final", "suffix"] = Field("final", description="whose attention: the final prompt token's, or the mean of all tokens after the picture")
    examples: int = Field(48, ge=1, le=100_000, description="explained examples used at most, the first ones")
    level: float = Field(0.95, gt=0.0, lt=1.0, description="the smallest k that holds this part of the stock model's accuracy, or of the target's rise")
    draws: int = Field(999, ge=50, le=100_000, description="bootstrap draws of examples behind the interval of the smallest k")
    confidence: float = Field(0.95, gt=0.5, lt=1.0, description="level of the confidence intervals over examples")
    seed: Seed = Field(0, description="seed of the random choice and of bootstrap draws")

    @model_validator(mode="after")
    def _consistent(self) -> "KeepingParams":
        if self.percents != sorted(set(self.percents)) or self.percents[-1] != 100.0:
            raise ValueError(f"percents = {self.percents}: must rise, each once, and end with 100")
        self._each_once("ways", "selections")
        return self


class ReadingParams(Group):
    """What single heads look at, pass on and write (stage read_heads); the baseline is that of `features`."""

    heads: int = Field(8, ge=1, le=1000, description="heads of largest mean attribution that are looked at one by one, at most")
    examples: int = Field(12, ge=1, le=10_000, description="explained examples with maps, the first ones; the typical ones of each cluster come on top")
    typical: int = Field(3, ge=0, le=50, description="most typical examples of each cluster of heads with maps; at most clusters.typical are known")
    token_corners: int = Field(32, ge=2, le=4096, description="states of all image tokens over which the maps of what heads pass on are averaged; even")
    head_corners: int = Field(8, ge=2, le=4096, description="states of all heads over which what each adds by itself is averaged; even")
    words: int = Field(8, ge=1, le=1000, description="words listed for each head, those that it raises most")
    draws: int = Field(499, ge=50, le=100_000, description="bootstrap draws of pictures behind each interval of a share")
    confidence: float = Field(0.95, gt=0.5, lt=1.0, description="level of the confidence intervals")
    seed: Seed = Field(0, description="seed of corners and bootstrap draws")

    @model_validator(mode="after")
    def _consistent(self) -> "ReadingParams":
        self._in_pairs("token_corners", "head_corners")
        return self


class DescribingParams(Group):
    """What a model is asked to say about every picture (stage describe_images), for the analyses of its descriptions."""

    prompt: str | None = Field(None, min_length=1, description="what it is asked; null = 'Describe the image.', of planted pictures their own question")
    pictures: int = Field(48, ge=1, le=100_000, description="pictures described at most, the first ones of those to explain")
    max_new_tokens: int = Field(300, ge=1, le=100_000, description="tokens after which a description that does not end is cut off")
    temperature: float | None = Field(None, gt=0.0, le=100.0, description="null = greedy decoding; a number draws tokens, logits divided by it")
    top_p: float = Field(1.0, gt=0.0, le=1.0, description="drawn are only the likeliest tokens that together reach this probability")
    seed: Seed = Field(0, description="seed of the draws")


class LocalisingParams(Group):
    """Whether the token that names an object looks at that object (stage localise_objects); the vocabulary is that of `judging`."""

    position: Literal["token", "before"] = Field(
        "token",
        description="whose attention is looked at head by head and drawn on pictures: token, the naming token's own (it is run to predict the next one), or "
        "before, that of the position which predicts it; both are measured by layer",
    )
    corners: int = Field(8, ge=0, le=4096, description="sets of image tokens over which their effects on the word are averaged, in pairs; 0 = attention alone")
    baseline: Literal["blank", "closed"] = Field("blank", description="what a cut image token shows: the same place of a grey picture, or nothing")
    shown: int = Field(6, ge=1, le=100, description="mentions whose maps are kept and shown, each on another picture")
    confidence: float = Field(0.95, gt=0.5, lt=1.0, description="level of the confidence intervals over pictures")
    seed: Seed = Field(0, description="seed of the sets of image tokens")

    @model_validator(mode="after")
    def _consistent(self) -> "LocalisingParams":
        self._in_pairs("corners")
        return self


class KnockoutParams(Group):
    """Which tokens may not see the picture while the model describes it, and in which layers (stages knock_out_attention and score_knockouts)."""

    routes: list[Literal["img→gen", "img→query", "img→both"]] = Field(
        ["img→gen", "img→query", "img→both"], min_length=1, description="edges to the picture that are closed: of generated tokens, the prompt's text, or both"
    )
    last_position: list[Literal["query", "generated"]] = Field(
        ["query"],
        min_length=1,
        description="what the prompt's last position, where the first generated token comes from, counts with: query (the paper), so that img→gen leaves the "
        "first token alone, or generated, so that it blocks it too",
    )
    width: int | None = Field(None, ge=1, le=1000, description="layers of a band; null = a sixth of those that read the picture, two at least if it has four")
    stride: int = Field(1, ge=1, le=1000, description="layers from one L, or one band, to the next; larger ones save time where a model has many layers")
    draws: int = Field(999, ge=99, le=100_000, description="bootstrap draws of pictures behind each depth's interval")
    permutations: int = Field(9999, ge=999, le=1_000_000, description="permutations behind each p-value")
    confidence: float = Field(0.95, gt=0.5, lt=1.0, description="level of the confidence intervals over pictures")
    seed: Seed = Field(0, description="seed of bootstrap draws and permutations")

    @model_validator(mode="after")
    def _consistent(self) -> "KnockoutParams":
        self._each_once("routes", "last_position")
        return self


class SharingParams(Group):
    """Where the tokens of a description look: at the picture, at the rest of the prompt, or at what has been said (stage share_attention)."""

    top: float = Field(0.01, gt=0.0, lt=1.0, description="share of the image tokens, the largest of a map, whose part of the attention is told; one at least")
    shown: int = Field(6, ge=1, le=24, description="pictures whose attention maps are kept and shown, layer by layer")
    confidence: float = Field(0.95, gt=0.5, lt=1.0, description="level of the confidence intervals over pictures")


class EndpointParams(Group):
    """An endpoint that speaks OpenAI's protocol, as judge. The key itself never stands here: it comes from an environment variable."""

    base_url: str | None = Field(None, pattern=r"^https?://", description="address of the endpoint; null = OpenAI's own")
    model: str | None = Field(None, min_length=1, description="model that judges, by the endpoint's name for it")
    key_variable: str | None = Field("OPENAI_API_KEY", description="NAME of the environment variable that holds the key; null = the endpoint needs none")
    temperature: float | None = Field(0.0, ge=0.0, le=2.0, description="0 = the likeliest answer; null = not sent, for models that refuse it")
    seed: Seed | None = Field(0, description="seed that is sent along; null = not sent")
    max_tokens: int | None = Field(None, ge=64, le=1_000_000, description="tokens of an answer at most; null = not sent, the endpoint's own limit")
    timeout_s: float = Field(60.0, gt=0.0, le=3600.0, description="seconds to wait for an answer")
    retries: int = Field(5, ge=0, le=100, description="further tries after a time-out, an overloaded endpoint, or an answer that cannot be used")
    concurrency: int = Field(4, ge=1, le=256, description="requests at once")

    @model_validator(mode="before")
    @classmethod
    def _no_keys(cls, content: Any) -> Any:
        """Mistakes with keys are told without the value, which may be one."""
        if isinstance(content, dict):
            secret = re.compile("key|secret|password|auth|^token$|api_?token", re.IGNORECASE)
            if unknown := [name for name in content if name not in cls.model_fields and secret.search(str(name))]:
                raise ValueError(f"{unknown[0]} is no param: a key belongs in an environment variable, whose name goes to key_variable")
            variable, url = content.get("key_variable"), content.get("base_url")
            if variable is not None and not (isinstance(variable, str) and re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", variable) and len(variable) <= 64):
                raise ValueError("key_variable must be the NAME of an environment variable, such as OPENAI_API_KEY, not the key")
            if isinstance(url, str) and re.search("[@?#]", url):
                raise ValueError("base_url takes no user, password or query (nothing with @, ? or #); keys belong in an environment variable")
        return content


class LocalJudgeParams(Group):
    """A text model of transformers as judge."""

    id: str | None = Field(None, min_length=1, description="a local folder or a Hugging Face id; its tokenizer needs a chat template")
    revision: str | None = Field(None, description="commit, tag or branch on the hub; a commit makes the run repeatable")
    dtype: Literal["float32", "bfloat16", "float16"] = Field("bfloat16", description="number format of weights and runs")
    device_map: str = Field(
        "auto", pattern=r"^(auto|cpu|cuda(:\d+)?|balanced|balanced_low_0|sequential)$", description="where the weights go, as of the models under `models`"
    )
    max_new_tokens: int = Field(1024, ge=16, le=100_000, description="tokens of an answer at most")
    retries: int = Field(2, ge=0, le=100, description="further tries after an answer that cannot be used")


class JudgingParams(Group):
    """Which objects descriptions name, and who says so (stage judge_descriptions)."""

    judge: Judge = Field("match", description="match: a vocabulary; llm: a language model behind an endpoint; local: a language model run here")
    second: Judge | None = Field(None, description="another judge of the same descriptions, to measure how far the two agree; null = none")
    vocabulary: Literal["auto", "scenes", "coco", "file"] = Field(
        "auto", description="objects and words for them: scenes, coco, a file of your own (docs/judges.md), or auto: scenes for scenes, else coco"
    )
    vocabulary_file: str = Field(
        "headflow/judging/vocabularies/coco.yaml", min_length=1, description="the file, where vocabulary is file; an input of the stages, so it has to exist"
    )
    cache: str = Field(".headflow/judgements.sqlite", min_length=1, description="where answers of language models are kept between runs")
    llm: EndpointParams = Field(default_factory=EndpointParams, description="the endpoint of judge llm")
    local: LocalJudgeParams = Field(default_factory=LocalJudgeParams, description="the model of judge local")
    draws: int = Field(999, ge=50, le=100_000, description="bootstrap draws of pictures behind the intervals of agreement")
    confidence: float = Field(0.95, gt=0.5, lt=1.0, description="level of the confidence intervals over pictures")
    seed: Seed = Field(0, description="seed of bootstrap draws")

    @property
    def words(self) -> str:
        """The vocabulary as :func:`headflow.judging.match.choose_vocabulary` takes it: a name, or a file."""
        return self.vocabulary_file if self.vocabulary == "file" else self.vocabulary

    @model_validator(mode="after")
    def _consistent(self) -> "JudgingParams":
        if self.second == self.judge:
            raise ValueError(f"second = {self.second!r}: that is the first judge; take another, or null")
        if "llm" in (self.judge, self.second) and self.llm.model is None:
            raise ValueError("the judge is llm, but llm.model names no model")
        if "local" in (self.judge, self.second) and self.local.id is None:
            raise ValueError("the judge is local, but local.id names no model")
        return self


class CompressingParams(Group):
    """Follow-up questions with only a part of the context's keys and values (stage compress_context)."""

    strategies: list[Literal["full", "query", "image", "both", "description", "none"]] = Field(
        ["full", "query", "image", "both", "description", "none"],
        min_length=1,
        description="what stays of the context: the whole prompt, its text, some image tokens, both; the model's own description; or nothing for the picture",
    )
    percents: list[Annotated[float, Field(gt=0.0, le=100.0)]] = Field(
        [2.0, 5.0, 10.0, 20.0, 50.0], min_length=1, description="K: percent of the image tokens that stay in each layer, rising"
    )
    choose_by: list[Literal["attention", "attribution", "random"]] = Field(
        ["attention", "attribution", "random"],
        min_length=1,
        description="what they are chosen by: attention of the description's tokens (the paper), their effect on it, or chance",
    )
    asking: list[Literal["turn", "fresh"]] = Field(
        ["turn", "fresh"],
        min_length=1,
        description="turn: as the user's next turn (the paper); fresh: in the place of the first question, of which nothing stays, for models of one turn",
    )
    questions: Literal["auto", "mme"] = Field("auto", description="auto: about the objects of the pictures described; mme: those of a folder in MME's format")
    path: str = Field("data/pictures", min_length=1, description="the folder, where questions is mme; an input of the stage, so it has to exist")
    pictures: int = Field(24, ge=2, le=100_000, description="pictures asked about at most, the first ones described; of a folder, drawn from all tasks alike")
    keep_description: bool = Field(False, description="the keys and values of the description's own tokens stay too, wherever the prompt's text does")
    go_on_from: Literal["description", "prompt"] = Field(
        "description", description="follow-ups take the positions after the description, or those after the prompt, whatever was dropped"
    )
    attribution: Literal["magnitude", "signed"] = Field(
        "magnitude", description="how the effects of heads on the description add up to a token's attribution in a layer: by size, or with their signs"
    )
    max_new_tokens: int = Field(4, ge=1, le=1000, description="tokens after which an answer that does not end is cut off")
    timed: int = Field(
        0, ge=0, le=1000, description="pictures with which one follow-up is timed; 0 = none, as a time is the one number that another run does not give again"
    )
    confidence: float = Field(0.95, gt=0.5, lt=1.0, description="level of the confidence intervals over pictures")
    seed: Seed = Field(0, description="seed of questions and of the choice by chance")

    @model_validator(mode="after")
    def _consistent(self) -> "CompressingParams":
        if self.percents != sorted(set(self.percents)):
            raise ValueError(f"percents = {self.percents}: must rise, each once")
        self._each_once("strategies", "choose_by", "asking")
        if "full" not in self.strategies:
            raise ValueError("strategies: full is what the others are compared with; list it")
        if self.keep_description and self.go_on_from == "prompt":
            raise ValueError("go_on_from = 'prompt': the description, which keep_description keeps, already has these positions")
        return self


class ReportParams(Group):
    """What the report shows (stage render_report)."""

    title: str = Field("Which heads carry the picture into the words?", min_length=1, description="title of the page")
    scenes: int = Field(12, ge=1, le=100, description="scenes shown with the model's answers")


# A model's pages lie beside the page that compares all models.
COMPARISON = "comparison"


class Params(Group):
    """The whole of params.yaml."""

    examples: ExamplesParams = Field(default_factory=ExamplesParams)
    models: dict[Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")], ModelParams] = Field(min_length=1)
    features: FeaturesParams = Field(default_factory=FeaturesParams)
    masks: MasksParams = Field(default_factory=MasksParams)
    ablation: AblationParams = Field(default_factory=AblationParams)
    execution: ExecutionParams = Field(default_factory=ExecutionParams)
    fit: FitParams = Field(default_factory=FitParams)
    clusters: ClustersParams = Field(default_factory=ClustersParams)
    interactions: InteractionsParams = Field(default_factory=InteractionsParams)
    faithfulness: FaithfulnessParams = Field(default_factory=FaithfulnessParams)
    baselines: BaselinesParams = Field(default_factory=BaselinesParams)
    text_tokens: TextTokensParams = Field(default_factory=TextTokensParams)
    flow: FlowParams = Field(default_factory=FlowParams)
    image_tokens: ImageTokensParams = Field(default_factory=ImageTokensParams)
    keeping: KeepingParams = Field(default_factory=KeepingParams)
    reading: ReadingParams = Field(default_factory=ReadingParams)
    describing: DescribingParams = Field(default_factory=DescribingParams)
    knockout: KnockoutParams = Field(default_factory=KnockoutParams)
    localising: LocalisingParams = Field(default_factory=LocalisingParams)
    sharing: SharingParams = Field(default_factory=SharingParams)
    judging: JudgingParams = Field(default_factory=JudgingParams)
    compressing: CompressingParams = Field(default_factory=CompressingParams)
    report: ReportParams = Field(default_factory=ReportParams)

    @model_validator(mode="after")
    def _comparison_is_taken(self) -> "Params":
        if COMPARISON in self.models:
            raise ValueError(f"models.{COMPARISON}: this key is the name of the page that compares models; take another")
        return self

    def model(self, key: str) -> ModelParams:
        """The model under ``key``.

        Raises:
            HeadflowError: there is no such key.
        """
        if key not in self.models:
            raise HeadflowError(f"models.{key}: no such model; params.yaml has {', '.join(self.models)}{_nearest(key, self.models)}")
        return self.models[key]

    def with_store(self, store: str) -> "Params":
        """The same params with the result store elsewhere."""
        return self.model_copy(update={"ablation": self.ablation.model_copy(update={"store": store})})


def read_params(path: Path) -> Params:
    """Read and check a params file; the environment variable ``HEADFLOW_STORE``, if set, goes before ``ablation.store``.

    Raises:
        HeadflowError: one line that names the file, the key, its value, what is allowed and the nearest valid key.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise HeadflowError(f"{path}: missing; run from the project's folder") from None
    except Exception as error:  # a date in a 13th month, for one, is a plain ValueError
        reason = " ".join(str(error).split()) or type(error).__name__
        raise HeadflowError(f"{path}: not readable as YAML ({_SECRET.sub('…', reason)})") from None
    if not isinstance(content, dict):
        found = _short(_SECRET.sub("…", content) if isinstance(content, str) else content)
        raise HeadflowError(f"{path}: expected groups of params such as `masks:`, found {found}")
    if found := _secret(content):
        raise HeadflowError(f"{path}: {found} looks like a password or an access token; params are kept in git and in reports: take it out, withdraw it, and "
                            "give it by an environment variable (HF_TOKEN for the Hugging Face hub)")  # fmt: skip
    try:
        params = Params.model_validate(content)
    except ValidationError as error:
        raise HeadflowError(f"{path}: " + "; ".join(_explain(e) for e in error.errors())) from None
    return params.with_store(os.environ.get(STORE) or params.ablation.store)


# Tokens of the Hugging Face hub, OpenAI and its kin, GitHub, GitLab, AWS, Google, Slack; and a password within an address.
_SECRET = re.compile(
    r"\b(hf_[A-Za-z0-9]{16,}|api_org_[A-Za-z0-9]{16,}|sk-(?:[a-z0-9]+-){0,3}[A-Za-z0-9_]{24,}|gh[pousr]_[A-Za-z0-9]{16,}|github_pat_[A-Za-z0-9_]{16,}|glpat-[A-Za-z0-9_-]{16,}"
    r"|AKIA[A-Z0-9]{12,}|AIza[A-Za-z0-9_-]{30,}|xox[abprs]-[A-Za-z0-9-]{10,})|://[^/\s:@]*:[^/\s@]+@"
)
_SECRET_NAME = re.compile(r"(^|[._-])(token|password|passwd|secret|api[_-]?key|credentials?)$", re.IGNORECASE)


def _secret(content: Any, place: str = "") -> str:
    """The key of a value that looks like a secret; empty if there is none. The value itself is never shown."""
    stack: list[tuple[str, Any]] = [(place, content)]
    seen: set[int] = set()  # YAML's anchors can make circles
    while stack:
        place, value = stack.pop()
        if isinstance(value, dict | list):
            if id(value) in seen:
                continue
            seen.add(id(value))
            pairs = value.items() if isinstance(value, dict) else enumerate(value)
            stack += [(f"{place}.{_SECRET.sub('…', str(key))}".lstrip("."), part) for key, part in pairs]
            if isinstance(value, dict) and any(isinstance(key, str) and _SECRET.search(key) for key in value):
                return f"a key of {place or 'the file'}"
        elif isinstance(value, str) and (_SECRET.search(value) or (value and _SECRET_NAME.search(place))):
            return place or "its content"
    return ""


def _explain(error: Any) -> str:
    """One fault of a validation error: key, value, what is allowed."""
    places = [str(place) for place in error["loc"] if place != "[key]"]
    places = [place for place in places if not place.startswith(("literal[", "constrained-", "function-"))]
    if places and places[-1] in ("int", "float", "str"):
        places.pop()  # the branch of a union, not a key
    key = ".".join(places) or "params"
    if error["type"] == "extra_forbidden":
        siblings = _group_at(places[:-1])
        group = ".".join(places[:-1]) or "the file"
        return f"unknown key {key} = {_short(error['input'])}; {group} takes {', '.join(siblings)}{_nearest(places[-1], siblings)}"
    if error["type"] == "string_pattern_mismatch" and error["loc"][-1] == "[key]":
        return f"{key}: a key has lower-case letters, digits, - and _ only (it names folders, and DVC takes a dot for a level)"
    if error["type"] == "missing":
        return f"{key} is missing"
    if error["type"] == "model_type":
        return f"{key} = {_short(error['input'])}: expected a group with the keys {', '.join(_group_at(places))}"
    message = error["msg"].removeprefix("Value error, ")
    if isinstance(error["input"], dict):  # a fault between the keys of a group: the whole group would hide it
        return f"{key}: {message}"
    field = _field_at(places)
    meaning = f" ({field.description})" if field is not None and field.description else ""
    return f"{key} = {_short(error['input'])}: {message[0].lower()}{message[1:]}{meaning}"


# Few of the parts and not too deep: with YAML's anchors, ten lines of a file can stand for more text than any memory holds.
_BRIEF = reprlib.Repr()
_BRIEF.maxlevel, _BRIEF.maxdict, _BRIEF.maxlist, _BRIEF.maxstring, _BRIEF.maxlong = 3, 8, 8, 200, 100


def _short(value: Any, most: int = 80) -> str:
    try:
        text = _BRIEF.repr(value)
    except ValueError:  # a whole number of thousands of digits
        text = f"a {type(value).__name__}"
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _nearest(key: str, valid: Any) -> str:
    close = difflib.get_close_matches(key, list(valid), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


def _group_at(places: list[str]) -> list[str]:
    """The keys that the group at ``places`` takes."""
    group: Any = Params
    for place in places:
        group = _groups_in(group.model_fields[place].annotation if place in group.model_fields else None) or group
    return list(group.model_fields)


def _field_at(places: list[str]) -> Any:
    group: Any = Params
    field = None
    for place in places:
        if place not in group.model_fields:
            continue
        field = group.model_fields[place]
        group = _groups_in(field.annotation) or group
    return field


def _groups_in(annotation: Any) -> Any:
    """The group of params inside an annotation such as ``dict[str, ModelParams]`` or ``Recipe | None``."""
    if isinstance(annotation, type) and get_origin(annotation) is None and issubclass(annotation, BaseModel):
        return annotation
    for part in get_args(annotation):
        if (found := _groups_in(part)) is not None:
            return found
    return None
