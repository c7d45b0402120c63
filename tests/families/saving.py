"""Save a checkpoint in the layout that hub checkpoints have, with weights under which every edge counts."""

import json
from pathlib import Path

import torch
from transformers import BaseImageProcessor, PreTrainedModel, PreTrainedTokenizerFast


def draw_weights(model: PreTrainedModel, seed: int = 0, gain: float = 1.4) -> PreTrainedModel:
    """Draw all weights anew from ``seed``, wider than a fresh model's: attention is uneven, and cutting an edge changes the answer.

    Matrices multiply the scale of their input by about ``gain``; norms and biases are moved off the ones and zeros that they start at.
    """
    generator = torch.Generator().manual_seed(seed)
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, torch.nn.Embedding)}
    with torch.no_grad():
        for _, weight in sorted(model.named_parameters()):
            noise = torch.randn(weight.shape, generator=generator)
            if weight.ndim < 2 and weight.numel() > 1 and bool((weight == weight[0]).all()):  # a norm or a bias, still as it starts
                weight.add_(0.1 * noise)
            elif weight.ndim < 2 or id(weight) in embeddings:
                weight.copy_(noise)
            else:
                weight.copy_(noise * gain / weight[0].numel() ** 0.5)
    return model


def save(
    folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, image_processor: BaseImageProcessor, processor: str, chat: str, **options: object
) -> Path:
    """Write the model, and the parts of its processor one by one, as the hub keeps them.

    The processor itself need not be made here: some want a video processor, which in turn wants torchvision.

    Args:
        processor: name of the processor's class.
        chat: the chat template.
        options: further settings of the processor.
    """
    model.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    image_processor.save_pretrained(folder)
    (folder / "processor_config.json").write_text(json.dumps({"processor_class": processor, **options}, indent=2))
    (folder / "chat_template.jinja").write_text(chat)
    return folder
