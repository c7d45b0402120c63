"""Training of the embedded model: the vision tower alone (stage A), then everything together on questions (stage B).

Each step depends on the recipe, the step's number and the state before it alone, so a run that is killed and started again ends with the
same weights as one that is not. (Bit for bit on the same machine with the same number of torch threads; another number rounds differently.)
"""

import json
import time
from contextlib import closing
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import LlavaForConditionalGeneration, LlavaProcessor

from headflow.datasets.scenes.render import Scene, scene
from headflow.errors import HeadflowError
from headflow.files import write_atomically
from headflow.models.embedded.lessons import Lessons
from headflow.models.embedded.network import build_network, build_processor, patch_features, to_pixels
from headflow.models.embedded.optimiser import Optimiser
from headflow.models.embedded.packing import labelled_logits, pack
from headflow.models.embedded.patch_naming import PatchNamer, patch_labels
from headflow.models.embedded.recipe import Recipe
from headflow.models.embedded.scene_feed import feed_scenes
from headflow.models.embedded.vision_start import start_vision_tower
from headflow.progress import progress
from headflow.seeds import generator

STATE_FILE = "training_state.safetensors"

_WARM_UP = 0.05  # share of a stage's steps over which the rates rise
_VISION_FALL_FROM, _VISION_FALL_TO = 0.5, 0.25  # stage A: the rates fall from this share of the steps on, to this share of the peak
_JOINT_FALL_FROM, _JOINT_FALL_TO = 0.4, 0.02
_SAMPLE_SCENES = 256  # whose patches the patch embedding whitens


class Trainer:
    """The network with everything that its next step depends on."""

    def __init__(self, recipe: Recipe) -> None:
        torch.manual_seed(recipe.seed)
        self.recipe = recipe
        self.processor: LlavaProcessor = build_processor(recipe)
        self.network: LlavaForConditionalGeneration = build_network(recipe, len(self.processor.tokenizer)).train()
        self.namer = PatchNamer(recipe.vision_width)
        samples = [scene(recipe.seed, "sample", i, recipe.scenes).image for i in range(_SAMPLE_SCENES)]
        start_vision_tower(self.network.model.vision_tower, to_pixels(samples))
        self._lessons = Lessons(self.processor.tokenizer, recipe.image_tokens, recipe.description_weight, recipe.name_weight)
        named = [*self.network.named_parameters(), *self.namer.named_parameters("namer")]
        vision = [(name, parameter) for name, parameter in named if name.startswith(("model.vision_tower", "namer"))]
        language = [(name, parameter) for name, parameter in named if not name.startswith(("model.vision_tower", "namer"))]
        rates = recipe.matrix_rate, recipe.other_rate, recipe.weight_decay
        self._vision_optimiser, self._language_optimiser = Optimiser(vision, *rates), Optimiser(language, *rates)
        self.step = 0

    @property
    def steps(self) -> int:
        """Steps of both stages."""
        return self.recipe.vision_steps + self.recipe.joint_steps

    def batch(self, step: int) -> range:
        """Which scenes of the training stream a step sees: none is seen twice."""
        recipe = self.recipe
        if step < recipe.vision_steps:
            return range(step * recipe.vision_batch, (step + 1) * recipe.vision_batch)
        first = recipe.vision_steps * recipe.vision_batch + (step - recipe.vision_steps) * recipe.joint_batch
        return range(first, first + recipe.joint_batch)

    def advance(self, scenes: list[Scene]) -> dict[str, float]:
        """One step on the scenes of ``batch(self.step)``; returns what to show of it."""
        stage_a = self.step < self.recipe.vision_steps
        shown = self._vision_step(scenes) if stage_a else self._joint_step(scenes)
        self.step += 1
        return shown

    def _vision_step(self, scenes: list[Scene]) -> dict[str, float]:
        loss = self._patch_loss(patch_features(self.network, to_pixels([item.image for item in scenes])), scenes)
        loss.backward()
        self._vision_optimiser.step(_rate_share(self.step, self.recipe.vision_steps, _VISION_FALL_FROM, _VISION_FALL_TO))
        return {"patch_loss": loss.item()}

    def _joint_step(self, scenes: list[Scene]) -> dict[str, float]:
        recipe = self.recipe
        rng = generator(recipe.seed, "questions", self.step)
        packed = pack(self._lessons.prefix, [self._lessons.strands(item, rng) for item in scenes])
        features = patch_features(self.network, to_pixels([item.image for item in scenes]))
        logits = labelled_logits(self.network, features, packed)
        labels, weights = packed.labels[packed.labelled], packed.weights[packed.labelled]
        loss = (F.cross_entropy(logits, labels, reduction="none") * weights).sum() / weights.sum()
        patch_loss = self._patch_loss(features, scenes)
        (loss + recipe.patch_loss_weight * patch_loss).backward()
        share = _rate_share(self.step - recipe.vision_steps, recipe.joint_steps, _JOINT_FALL_FROM, _JOINT_FALL_TO)
        self._vision_optimiser.step(share * recipe.vision_rate_share)
        self._language_optimiser.step(share)
        right = ((logits.argmax(-1) == labels) * weights).sum() / weights.sum()
        return {"loss": loss.item(), "accuracy": right.item(), "patch_loss": patch_loss.item()}

    def _patch_loss(self, features: Tensor, scenes: list[Scene]) -> Tensor:
        return self.namer(features, patch_labels(scenes, self.recipe.patch_size))

    def save_state(self, path: Path) -> None:
        """Write the state; a reader never meets half of it."""
        tensors = {name: tensor.contiguous() for name, tensor in self._tensors().items()}
        metadata = {"recipe": self.recipe.fingerprint, "step": str(self.step)}
        write_atomically(path, lambda temporary: save_file(tensors, temporary, metadata))

    def load_state(self, path: Path) -> None:
        """Continue from a state written by :meth:`save_state`.

        Raises:
            HeadflowError: the file is damaged or belongs to another recipe.
        """
        try:
            with safe_open(path, "pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        except (OSError, SafetensorError) as error:
            raise HeadflowError(f"{path}: not readable ({error}); delete it to start anew") from error
        if metadata.get("recipe") != self.recipe.fingerprint:
            raise HeadflowError(f"{path}: belongs to a run of another recipe; delete it to start anew, or train into another folder")
        _load(self.network, tensors, "network.")
        _load(self.namer, tensors, "namer.")
        self._vision_optimiser.load_state(_under(tensors, "vision_optimiser."))
        self._language_optimiser.load_state(_under(tensors, "language_optimiser."))
        self.step = int(metadata["step"])

    def _tensors(self) -> dict[str, Tensor]:
        parts = {
            "network": self.network.state_dict(),
            "namer": self.namer.state_dict(),
            "vision_optimiser": self._vision_optimiser.state(),
            "language_optimiser": self._language_optimiser.state(),
        }
        return {f"{part}.{name}": tensor.detach() for part, tensors in parts.items() for name, tensor in tensors.items()}


def train_network(recipe: Recipe, folder: Path, *, save_every_s: float = 60.0, log_every: int = 100) -> Trainer:
    """Train to the end, continuing from the state in ``folder`` if there is one.

    Args:
        recipe: what to train.
        folder: holds the training state and the loss curve (``curve.jsonl``).
        save_every_s: seconds between writes of the state.
        log_every: steps between points of the loss curve.

    Raises:
        HeadflowError: the state in ``folder`` is damaged or belongs to another recipe.
    """
    trainer = Trainer(recipe)
    state = folder / STATE_FILE
    if state.exists():
        trainer.load_state(state)
    saved = time.monotonic()
    remaining = range(trainer.step, trainer.steps)
    with (
        progress("train the embedded model", trainer.steps, "step", done=trainer.step) as counter,
        closing(feed_scenes(recipe.seed, recipe.scenes, map(trainer.batch, remaining))) as batches,
    ):
        for scenes in batches:
            shown = trainer.advance(scenes)
            counter.advance(1, " ".join(f"{key} {value:.3f}" for key, value in shown.items()))
            if trainer.step % log_every == 0:
                folder.mkdir(parents=True, exist_ok=True)
                with open(folder / "curve.jsonl", "a", encoding="utf-8") as curve:
                    curve.write(json.dumps({"step": trainer.step, **shown}) + "\n")
            if time.monotonic() - saved > save_every_s:
                trainer.save_state(state)
                saved = time.monotonic()
    trainer.save_state(state)
    return trainer


def _rate_share(step: int, steps: int, fall_from: float, fall_to: float) -> float:
    """Share of the peak learning rate: a linear rise, a plateau, a linear fall."""
    done = step / steps
    rise = min(1.0, done / _WARM_UP + 0.01)
    fall = 1.0 - (1.0 - fall_to) * max(0.0, done - fall_from) / (1.0 - fall_from)
    return rise * fall


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _load(module: torch.nn.Module, tensors: dict[str, Tensor], prefix: str) -> None:
    module.load_state_dict(_under(tensors, prefix))
