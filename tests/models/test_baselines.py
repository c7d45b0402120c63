"""Baselines: their numbers, their files, and where they do not fit."""

import numpy as np
import pytest
import torch
from PIL import Image

from headflow.errors import HeadflowError
from headflow.models.baselines import Baseline, blank_baseline, closed_baseline, mean_baseline, swap_baseline
from tests.checkpoints import QUESTION, SYSTEM_CHAT
from tests.conftest import random_picture

CPU = torch.device("cpu")


def test_mean_is_the_plain_mean(pair):
    model = pair[0].lvlm
    taken = [model.capture(random_picture(seed), QUESTION) for seed in range(5)]
    baseline = mean_baseline(iter(taken))
    assert (baseline.kind, baseline.pictures, baseline.layout, baseline.reads) == ("mean", 5, pair[0].layout(), "baseline")
    for layer in range(model.layers):
        for mean, name in ((baseline.keys[layer], "keys"), (baseline.values[layer], "values")):
            plain = np.mean([getattr(c, name)[layer][:, 3:19].double().numpy() for c in taken], 0)
            assert mean.dtype == torch.float32 and mean.shape == (model.kv_heads, 16, 8)
            np.testing.assert_allclose(mean.numpy(), plain, rtol=1e-6, atol=1e-7)


def test_mean_of_one_is_that_one_and_leaves_it_alone(captures):
    capture, _ = captures("mha")
    before = [k.clone() for k in capture.keys]
    baseline = mean_baseline([capture])
    assert all(torch.equal(a, b) for a, b in zip(baseline.keys, swap_baseline(capture).keys, strict=True))
    mean_baseline([capture, capture, capture])
    assert all(torch.equal(a, b) for a, b in zip(capture.keys, before, strict=True))


def test_mean_in_bfloat16_sums_in_full_precision(captures):
    capture, other = captures("mha", dtype="bfloat16")
    baseline = mean_baseline([capture] * 257 + [other])
    expected = (capture.keys[0][:, 3:19].double() * 257 + other.keys[0][:, 3:19].double()) / 258
    assert baseline.keys[0].dtype == torch.bfloat16
    assert torch.equal(baseline.keys[0], expected.to(torch.bfloat16))


def test_blank_is_a_uniform_grey_picture(captures):
    capture, _ = captures("mha")
    grey = capture.lvlm.capture(Image.new("RGB", (32, 32), (128, 128, 128)), QUESTION)
    baseline = blank_baseline(capture)
    assert baseline.kind == "blank"
    assert all(torch.equal(a, b[:, 3:19]) for a, b in zip(baseline.keys, grey.keys, strict=True))


def test_references_of_another_size_are_refused(captures):
    with pytest.raises(HeadflowError, match="references of one image size"):
        mean_baseline([captures("mha")[0], captures("mha", image_size=104)[0]])
    with pytest.raises(HeadflowError, match="references of one image size"):
        mean_baseline([captures("gqa")[0], captures("gqa", chat=SYSTEM_CHAT)[0]])


def test_no_reference_is_refused():
    with pytest.raises(HeadflowError, match="at least one reference"):
        mean_baseline([])


def test_a_baseline_of_another_place_or_size_is_refused(captures):
    capture, _ = captures("gqa")
    for other in (captures("gqa", image_size=104)[0], captures("gqa", chat=SYSTEM_CHAT)[0]):
        with pytest.raises(HeadflowError, match="references must have the example's image size"):
            swap_baseline(other).check_fits(capture)
    closed_baseline().check_fits(capture)


@pytest.mark.parametrize("other", [("mha", {}), ("gqa", {"layers": 2})], ids=["other heads", "other layers"])
def test_a_baseline_of_another_model_is_refused(captures, other):
    capture, _ = captures("gqa")
    kind, options = other
    with pytest.raises(HeadflowError, match="baseline"):
        swap_baseline(captures(kind, **options)[0]).check_fits(capture)


@pytest.mark.parametrize("kind_of_baseline", ["mean", "closed", "swap"])
def test_save_and_load(captures, tmp_path, kind_of_baseline):
    capture, other = captures("gqa")
    baseline = {"mean": lambda: mean_baseline([capture, other]), "closed": closed_baseline, "swap": lambda: swap_baseline(other)}[kind_of_baseline]()
    path = tmp_path / "folder" / "baseline.safetensors"
    baseline.save(path)
    loaded = Baseline.load(path, CPU, torch.float32)
    assert (loaded.kind, loaded.layout, loaded.pictures, loaded.reads) == (baseline.kind, baseline.layout, baseline.pictures, baseline.reads)
    assert all(torch.equal(a, b) for a, b in zip((*loaded.keys, *loaded.values), (*baseline.keys, *baseline.values), strict=True))
    assert loaded.fingerprint() == baseline.fingerprint()
    assert Baseline.load(path, CPU, torch.bfloat16).keys == [] or Baseline.load(path, CPU, torch.bfloat16).keys[0].dtype == torch.bfloat16


def test_fingerprints_tell_numbers_and_kinds_apart(captures):
    capture, other = captures("mha")
    one, two = swap_baseline(capture), swap_baseline(other)
    assert one.fingerprint() != two.fingerprint() != swap_baseline(other, "blank").fingerprint()
    changed = Baseline("swap", [k.clone() for k in one.keys], one.values, one.layout, 1)
    changed.keys[2][1, 3, 4] += 1e-3
    assert changed.fingerprint() != one.fingerprint() == swap_baseline(capture).fingerprint()


def test_damaged_files_are_explained(captures, tmp_path):
    path = tmp_path / "baseline.safetensors"
    with pytest.raises(HeadflowError, match=r"baseline.safetensors: missing"):
        Baseline.load(path, CPU, torch.float32)
    swap_baseline(captures("mha")[0]).save(path)
    content = path.read_bytes()
    for damaged in (content[: len(content) // 2], content[:4], b"", b"not a tensor" * 50):
        path.write_bytes(damaged)
        with pytest.raises(HeadflowError, match=r"baseline.safetensors: not a readable baseline file"):
            Baseline.load(path, CPU, torch.float32)


def test_a_safetensors_file_of_something_else_is_explained(tmp_path):
    from safetensors.torch import save_file

    save_file({"weight": torch.zeros(2)}, tmp_path / "x.safetensors")
    with pytest.raises(HeadflowError, match="not a readable baseline file"):
        Baseline.load(tmp_path / "x.safetensors", CPU, torch.float32)
