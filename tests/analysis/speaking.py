"""Planted models that go on speaking: they repeat the picture's name as long as the tokens that they generate get hold of it."""

from pathlib import Path

import torch

from headflow.models.planted.circuits import find_circuit
from headflow.models.planted.network import AT, COVERAGE, _Head, build_network, build_processor

LAYERS = 5
READS, RELAYS, REREADS = 1, 3, 2
"""Layers: ``summary`` reads the picture at the role token in layer READS, from where every later token fetches it in layer RELAYS; ``rereading`` reads it
at the final token in layers 1 to 4, and at every generated name in layer REREADS."""
BLIND = "amber"
"""What they say where they know nothing; else attention that leaks, 1e-8 of it, would choose the word."""
# Above the logit with which a name ends the answer (40).
_LOUD = 70.0


def build_speaking(kind: str, folder: Path) -> Path:
    """The checkpoint of ``summary`` or ``rereading``; they say a name until they are cut off, or once where generated tokens get nothing of it."""
    processor, circuit = build_processor(), find_circuit("chain" if kind == "summary" else "additive")
    network = build_network(circuit, processor.tokenizer.get_vocab())
    layer, head = (RELAYS, 0) if kind == "summary" else (REREADS, 1)
    assert (layer, head) not in (*circuit.carriers, *circuit.relays)
    with torch.no_grad():
        weights = _Head(network.model.language_model.layers[layer].self_attn, head)
        for part in (weights.query, weights.key, weights.value, weights.output):
            part.zero_()
        if kind == "summary":
            weights.look(AT.role, AT.name)
            weights.copy(AT.relayed, AT.answer, _LOUD / sum(reader.weight for reader in circuit.readers))
        else:
            weights.look(AT.image, AT.name)
            weights.copy(AT.picture, AT.answer, _LOUD / COVERAGE)
        network.lm_head.weight[processor.tokenizer.get_vocab()[BLIND], AT.constant] += 0.01
    network.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
