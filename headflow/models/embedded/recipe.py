"""Everything that the embedded model's weights depend on."""

import hashlib
import json
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from headflow.datasets.scenes.settings import SceneSettings
from headflow.errors import HeadflowError
from headflow.files import read_json

RECIPE_FILE = "recipe.json"
"""Name of the recipe's file inside a checkpoint."""

Width = Annotated[int, Field(ge=8, le=1024)]
Layers = Annotated[int, Field(ge=1, le=48)]
Heads = Annotated[int, Field(ge=1, le=64)]
Steps = Annotated[int, Field(ge=0, le=1_000_000)]
BatchSize = Annotated[int, Field(ge=1, le=1024)]
Rate = Annotated[float, Field(gt=0.0, le=1.0)]
Weight = Annotated[float, Field(ge=0.0, le=100.0)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]


class Recipe(BaseModel):
    """Architecture and training of the embedded model; the defaults are those of the shipped checkpoint."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    seed: int = Field(0, ge=0, lt=2**32, description="seed of the initial weights, the training scenes and their questions")
    scenes: SceneSettings = Field(default_factory=SceneSettings, description="how the training scenes are rendered")

    patch_size: int = Field(8, ge=2, le=64, description="side of a vision-tower patch, pixels; must divide the image size")
    vision_width: Width = Field(128, description="width of the vision tower; a multiple of 4 and of its heads")
    vision_layers: Layers = Field(3, description="layers of the vision tower")
    vision_heads: Heads = Field(8, description="heads of each vision-tower layer")
    vision_hidden: Width = Field(256, description="width inside the vision tower's MLPs")
    width: Width = Field(128, description="width of the language model")
    layers: Layers = Field(6, description="layers of the language model")
    heads: Heads = Field(8, description="heads of each language-model layer")
    head_width: Width = Field(16, description="width of each language-model head; even")
    hidden: Width = Field(256, description="width inside the language model's MLPs")
    rope_base: float = Field(10_000.0, gt=1.0, description="base of the rotary position frequencies")

    vision_steps: Steps = Field(5500, description="steps of stage A: the vision tower alone, with temporary heads that name each patch")
    vision_batch: BatchSize = Field(32, description="scenes a step in stage A")
    joint_steps: Steps = Field(2000, description="steps of stage B: the whole model on questions")
    joint_batch: BatchSize = Field(16, description="scenes a step in stage B")
    matrix_rate: Rate = Field(0.02, description="peak learning rate of weight matrices inside layers (Muon)")
    other_rate: Rate = Field(0.003, description="peak learning rate of all other weights (AdamW)")
    weight_decay: Share = Field(0.01, description="weight decay, relative to the learning rate")
    vision_rate_share: Share = Field(0.3, description="the vision tower's learning rate in stage B, share of the language model's")
    patch_loss_weight: Weight = Field(0.5, description="weight of the patch-naming loss in stage B")
    description_weight: Weight = Field(0.3, description="loss weight of each description token; the first token of every other answer has 1")
    name_weight: Weight = Field(2.0, description="loss weight of a look-up's answer where its question says the name, beside the end of the prompt")

    @model_validator(mode="after")
    def _shapes_fit(self) -> Self:
        if self.scenes.image_size % self.patch_size:
            raise ValueError(f"patch_size: {self.patch_size} does not divide the image size {self.scenes.image_size}")
        if self.vision_width % self.vision_heads or self.vision_width % 4:
            raise ValueError(f"vision_width: {self.vision_width} is not a multiple of 4 and of vision_heads {self.vision_heads}")
        if self.head_width % 2:
            raise ValueError(f"head_width: {self.head_width} is odd, but rotary positions pair up its dimensions")
        return self

    @property
    def image_tokens(self) -> int:
        """Tokens that one image takes."""
        return (self.scenes.image_size // self.patch_size) ** 2

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all fields; two recipes have the same one only if they are equal."""
        return hashlib.sha256(json.dumps(self.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()


PRESETS: dict[str, Recipe] = {
    "shipped": Recipe(),
    # About three minutes on two idle cores (five and a half of processor time). Measured: colour 1.00, count 0.96, object 0.66, object-F1 0.49.
    "fast": Recipe(vision_steps=1000, joint_steps=240),
}


def read_recipe(folder: Path) -> Recipe:
    """The recipe of the checkpoint in ``folder``.

    Raises:
        HeadflowError: there is none, or it is not one of this version of headflow.
    """
    path = folder / RECIPE_FILE
    try:
        return Recipe.model_validate(read_json(path))
    except ValidationError as error:
        fault = error.errors()[0]
        raise HeadflowError(f"{path}: not a recipe of this version of headflow ({'.'.join(map(str, fault['loc']))}: {fault['msg']})") from error
