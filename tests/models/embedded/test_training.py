"""Training: seeded, resumable with the same result, refusing the state of another recipe, and learning."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from headflow.datasets.scenes.render import scene
from headflow.errors import HeadflowError
from headflow.models.embedded import train as command
from headflow.models.embedded.checkpoints import load_checkpoint
from headflow.models.embedded.recipe import PRESETS, Recipe, read_recipe
from headflow.models.embedded.sealing import verify
from headflow.models.embedded.training import STATE_FILE, Trainer, train_network
from tests.models.embedded.conftest import TINY


def run(trainer: Trainer, until: int) -> None:
    while trainer.step < until:
        trainer.advance([scene(trainer.recipe.seed, "train", i, trainer.recipe.scenes) for i in trainer.batch(trainer.step)])


def same_weights(a: Trainer, b: Trainer) -> bool:
    left, right = a.network.state_dict(), b.network.state_dict()
    return all(torch.equal(left[name], right[name]) for name in left)


@pytest.fixture(scope="module")
def undisturbed() -> Trainer:
    trainer = Trainer(TINY)
    run(trainer, trainer.steps)
    return trainer


@pytest.mark.parametrize("stop", [2, 4, 6])
def test_a_resumed_run_equals_an_undisturbed_one_bit_for_bit(undisturbed: Trainer, stop: int, tmp_path: Path) -> None:
    before = Trainer(TINY)
    run(before, stop)
    before.save_state(tmp_path / STATE_FILE)
    torch.rand(7)  # whatever else has been drawn in the new process
    after = Trainer(TINY)
    after.load_state(tmp_path / STATE_FILE)
    run(after, after.steps)
    assert same_weights(after, undisturbed)


def test_the_training_loop_equals_stepping_by_hand(undisturbed: Trainer, tmp_path: Path) -> None:
    """Scenes rendered ahead in another process are the same scenes."""
    looped = train_network(TINY, tmp_path)
    assert same_weights(looped, undisturbed)
    finished = train_network(TINY, tmp_path)  # nothing left to do
    assert same_weights(finished, undisturbed)


def test_another_seed_gives_other_weights(undisturbed: Trainer) -> None:
    other = Trainer(TINY.model_copy(update={"seed": 1}))
    run(other, other.steps)
    assert not same_weights(other, undisturbed)


def test_a_killed_run_goes_on(tmp_path: Path) -> None:
    """SIGKILL while it trains, then the same command again."""
    recipe = TINY.model_copy(update={"vision_steps": 60, "joint_steps": 6})
    program = """
import sys
from pathlib import Path
if __name__ == "__main__":
    from headflow.models.embedded.recipe import Recipe
    from headflow.models.embedded.training import train_network
    train_network(Recipe.model_validate_json(sys.argv[1]), Path(sys.argv[2]), save_every_s=0.0)
"""
    script = tmp_path / "run.py"
    script.write_text(program)
    arguments = [sys.executable, str(script), recipe.model_dump_json(), str(tmp_path / "killed")]
    state = tmp_path / "killed" / STATE_FILE
    process = subprocess.Popen(arguments, stderr=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())})
    while not state.exists():
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    halfway = Trainer(recipe)
    halfway.load_state(state)
    assert 0 < halfway.step < halfway.steps, "the kill came too late to test anything"
    whole = Trainer(recipe)
    run(whole, whole.steps)
    assert same_weights(train_network(recipe, tmp_path / "killed"), whole)


def test_the_state_of_another_recipe_is_refused(tmp_path: Path) -> None:
    Trainer(TINY).save_state(tmp_path / STATE_FILE)
    with pytest.raises(HeadflowError, match="another recipe"):
        Trainer(TINY.model_copy(update={"name_weight": 3.0})).load_state(tmp_path / STATE_FILE)


def test_a_damaged_state_is_refused(tmp_path: Path) -> None:
    path = tmp_path / STATE_FILE
    Trainer(TINY).save_state(path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(HeadflowError, match="not readable"):
        Trainer(TINY).load_state(path)


def test_the_fast_recipe_learns() -> None:
    """Its own code path and sizes, with a few steps of each stage: both losses fall."""
    recipe = PRESETS["fast"].model_copy(update={"vision_steps": 25, "joint_steps": 10, "vision_batch": 8, "joint_batch": 4})
    trainer = Trainer(recipe)
    losses = {"patch_loss": [], "loss": []}
    while trainer.step < trainer.steps:
        for key, value in trainer.advance([scene(0, "train", i) for i in trainer.batch(trainer.step)]).items():
            losses.setdefault(key, []).append(value)
    assert sum(losses["patch_loss"][20:25]) < 0.8 * sum(losses["patch_loss"][:5])
    assert sum(losses["loss"][-3:]) < 0.9 * sum(losses["loss"][:3])


def test_the_command_writes_a_sealed_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setitem(command.PRESETS, "fast", TINY)
    monkeypatch.setattr(command, "train", train_quickly)
    assert command.main(["--out", str(tmp_path), "--preset", "fast", "--set", "joint_steps=1"]) == 0
    assert "model.safetensors" in verify(tmp_path)
    assert {tensor.dtype for tensor in load_file(tmp_path / "model.safetensors").values()} == {torch.bfloat16}
    assert read_recipe(tmp_path) == TINY.model_copy(update={"joint_steps": 1})
    assert "object_f1" in capsys.readouterr().out
    network, processor = load_checkpoint(tmp_path)
    assert network.config.text_config.num_hidden_layers == 2
    assert len(processor.tokenizer) == network.config.text_config.vocab_size


train_for_real = command.train


def train_quickly(recipe: Recipe, out: Path) -> dict:
    return train_for_real(recipe, out, evaluation_scenes=4)


@pytest.mark.parametrize(("change", "complaint"), [("hedas=3", "one of seed"), ("heads", "KEY=VALUE"), ("heads=0", "heads"), ("patch_size=7", "divide")])
def test_the_command_refuses_impossible_knobs(change: str, complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert command.main(["--out", str(tmp_path), "--set", change]) == 1
    message = capsys.readouterr().err
    assert message.startswith("error: --set")
    assert complaint in message


def test_recipes_are_checked_and_told_apart() -> None:
    assert Recipe().fingerprint == Recipe(seed=0).fingerprint != Recipe(seed=1).fingerprint
    assert Recipe(scenes={"pixel_noise": 5}).fingerprint != Recipe().fingerprint
    with pytest.raises(ValidationError, match="Extra inputs"):
        Recipe(depth=3)  # type: ignore[call-arg]
    with pytest.raises(ValidationError, match="odd"):
        Recipe(head_width=9)
