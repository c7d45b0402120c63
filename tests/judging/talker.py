"""A tiny Llama with a chat template that has learnt to give one answer to each of a few conversations: a judge that really generates."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}<end>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
SPECIAL = ["<end>", "<system>", "<user>", "<assistant>", "<pad>"]


def teach(folder: Path, lessons: list[tuple[list[dict[str, str]], str]], *, steps: int = 75, template: str | None = TEMPLATE) -> Path:
    """Write the checkpoint that answers each conversation with its text; ``steps`` = 0 leaves it random."""
    torch.manual_seed(0)
    words = Tokenizer(models.BPE())
    words.pre_tokenizer, words.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    texts = [text for conversation, answer in lessons for text in (*(message["content"] for message in conversation), answer)]
    trainer = trainers.BpeTrainer(vocab_size=900, special_tokens=SPECIAL, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    words.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<end>", pad_token="<pad>", chat_template=template)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=1200,
        eos_token_id=0, bos_token_id=None, pad_token_id=4,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    if steps:
        rows = [
            (tokenizer.apply_chat_template(conversation, add_generation_prompt=True)["input_ids"], tokenizer(answer + "<end>")["input_ids"])
            for conversation, answer in lessons
        ]
        length = max(len(prompt) + len(answer) for prompt, answer in rows)
        ids, labels = torch.full((len(rows), length), 4), torch.full((len(rows), length), -100)
        for row, (prompt, answer) in enumerate(rows):
            ids[row, : len(prompt) + len(answer)] = torch.tensor(prompt + answer)
            labels[row, len(prompt) : len(prompt) + len(answer)] = torch.tensor(answer)
        optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
        for _ in range(steps):
            loss = model(ids, labels=labels).loss
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
