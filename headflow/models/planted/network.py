"""From a circuit to weights: a LLaVA (CLIP vision tower, projector, Llama) in which every number is set, none is trained.

Two devices make an exact machine of an ordinary transformer:

- *Normalisation is a constant.* Every token carries one component far larger than all others, so that root mean square and variance do
  not depend on anything else (to 1e-7), and the norms' weights divide it out again. All such scales are powers of two.
- *Attention is a switch.* Queries and keys use the slowest pair of rotary dimensions alone, which does not turn (base 1e16). A head
  that reads looks at its source with a score so far above the rest that the rest is 1e-8; it looks at the first token, which
  says nothing, from everywhere else. A head that carries with a small share of its attention splits it between the two.

The residual stream is divided into blocks (:class:`AT`): readers read ``picture``, where only image tokens hold anything, and write ``answer``,
``pool`` or ``relayed``, which no reader reads; so heads do not feed each other but where the circuit says so.
"""

from math import log
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, pre_tokenizers, processors
from tokenizers.models import WordLevel
from torch import Tensor
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor, PreTrainedTokenizerFast
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

from headflow.datasets.planted import CELL, CONTRAST, GRID, IMAGE_SIZE, NAMES, OBJECT_PATCHES, PATCH, QUESTION, code_cells
from headflow.models.embedded.network import BEGIN, CHAT_TEMPLATE, END, IMAGE, MAX_POSITIONS, PAD, SPECIAL_TOKENS
from headflow.models.planted.circuits import Circuit, Reader, find_circuit
from headflow.seeds import generator

N = len(NAMES)
IMAGE_TOKENS = GRID**2
COVERAGE = OBJECT_PATCHES**2 / IMAGE_TOKENS
"""Share of the image tokens that the object takes: what a head that reads all of them alike sees of its name."""

WIDTH, HEAD_WIDTH, HIDDEN, ROPE_BASE = 64, 8, 16, 1e16
VISION_WIDTH = 32
# The one large component, in text model and vision tower. Powers of two: their quotients are exact.
CONSTANT, VISION_CONSTANT = 2.0**14, 2.0**12
# Score of the first token at every query of a head that reads, and of the source where the head reads it.
SINK, SOURCE = 20.0, 40.0
# Steepness of the MLP's gates: at a distance of 0.1 from its threshold SiLU is max(0, x) to rounding.
STEEP = 1024.0
# Logit of every token that is no name, and of the end after a name.
OTHERS, STOP = -10.0, 40.0


class AT:
    """Where things stand in the residual stream of the text model."""

    constant = 0
    image, first, role, final, name = 1, 2, 3, 4, 5  # flags: 1 at tokens of this kind
    style = 6
    picture, answer, pool, relayed, scratch = (slice(start, start + N) for start in range(8, 8 + 5 * N, N))


# The slowest rotary pair of a head: dimensions i and i + half turn together, by 1e-12 a token.
SLOT_SOURCE, SLOT_FIRST = HEAD_WIDTH // 2 - 1, HEAD_WIDTH - 1


def build_tokenizer() -> PreTrainedTokenizerFast:
    """One token a word, punctuation mark or newline, of the prompt and the names; it knows no other question."""
    split = pre_tokenizers.Split(Regex(r"\n|\w+|[^\w\s]"), behavior="removed", invert=True)
    texts = ("USER: \n ASSISTANT:", QUESTION, *NAMES)
    words = dict.fromkeys(word for text in texts for word, _ in split.pre_tokenize_str(text))
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate((*SPECIAL_TOKENS, *words))}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = split
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", BEGIN)])
    tokenizer.decoder = decoders.WordPiece(cleanup=True)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<pad>",
        additional_special_tokens=["<image>"], clean_up_tokenization_spaces=False, padding_side="left", model_max_length=MAX_POSITIONS,
    )  # fmt: skip


def build_processor() -> LlavaProcessor:
    """The processor: prompts to token ids, images to pixels in [-1, 1]."""
    size = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    images = LlavaImageProcessorPil(size={"shortest_edge": IMAGE_SIZE}, crop_size=size, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    return LlavaProcessor(
        image_processor=images, tokenizer=build_tokenizer(), patch_size=PATCH, vision_feature_select_strategy="default",
        num_additional_image_tokens=1, chat_template=CHAT_TEMPLATE,
    )  # fmt: skip


def build_network(circuit: Circuit, vocabulary: dict[str, int]) -> LlavaForConditionalGeneration:
    """The model, float32; ``vocabulary`` maps words to token ids."""
    vision = CLIPVisionConfig(
        hidden_size=VISION_WIDTH, intermediate_size=VISION_WIDTH, num_hidden_layers=1, num_attention_heads=4, image_size=IMAGE_SIZE, patch_size=PATCH,
        projection_dim=VISION_WIDTH, hidden_act="gelu",
    )  # fmt: skip
    special = {"bos_token_id": BEGIN, "eos_token_id": END, "pad_token_id": PAD}
    text = LlamaConfig(
        vocab_size=len(vocabulary), hidden_size=WIDTH, intermediate_size=HIDDEN, num_hidden_layers=circuit.layers, num_attention_heads=circuit.heads,
        num_key_value_heads=circuit.heads, head_dim=HEAD_WIDTH, max_position_embeddings=MAX_POSITIONS, rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_BASE}, **special,
    )  # fmt: skip
    config = LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=IMAGE, image_seq_length=IMAGE_TOKENS, vision_feature_layer=-1,
        vision_feature_select_strategy="default", projector_hidden_act="linear", tie_word_embeddings=False,
    )  # fmt: skip
    for key, value in special.items():
        setattr(config, key, value)
    with torch.random.fork_rng(devices=[]):  # whoever draws random numbers later shall not notice
        network = LlavaForConditionalGeneration(config).eval()
    network.generation_config.update(**special)
    with torch.no_grad():
        for weights in network.parameters():
            weights.zero_()
        _see(network)
        _embed(network, vocabulary)
        _attend(network, circuit)
        _respond(network, circuit)
        _speak(network, circuit, vocabulary)
    return network


def _see(network: LlavaForConditionalGeneration) -> None:
    """Vision tower and projector: from patches to the block ``picture``, 1 for the object's name and −1/(N − 1) for every other; and to the style.

    Every quantity stands in two components of opposite sign, so that LayerNorm's mean is nothing.
    """
    tower = network.model.vision_tower
    tower = getattr(tower, "vision_model", tower)  # transformers 5 unwrapped it
    name, style, constant = 0, 2 * N, VISION_WIDTH - 2
    pixels = CONTRAST / 127.5 * 3 * CELL**2  # what a bright cell's pixel values add up to above those of a dark one
    kernel = torch.zeros(VISION_WIDTH, 3, PATCH, PATCH)
    cells = [(slice(CELL * row, CELL * (row + 1)), slice(CELL * column, CELL * (column + 1))) for row, column in code_cells()]
    for j in range(N):
        for k, (rows, columns) in enumerate(cells):
            kernel[name + 2 * j, :, rows, columns] = ((1.0 if j == k else 0.0) - 1 / N) * N / (N - 1) / pixels
    for rows, columns in cells:
        kernel[style, 0, rows, columns], kernel[style, 2, rows, columns] = 1 / (N * CELL**2), -1 / (N * CELL**2)
    kernel[1 : style + 2 : 2] = -kernel[0 : style + 2 : 2]
    tower.embeddings.patch_embedding.weight.copy_(kernel)
    tower.embeddings.position_embedding.weight[:, constant] = VISION_CONSTANT
    tower.embeddings.position_embedding.weight[:, constant + 1] = -VISION_CONSTANT
    spread = VISION_CONSTANT * (2 / VISION_WIDTH) ** 0.5  # the standard deviation that LayerNorm divides by
    tower.pre_layrnorm.weight[:constant] = spread
    for norm in (tower.encoder.layers[0].layer_norm1, tower.encoder.layers[0].layer_norm2, tower.post_layernorm):
        norm.weight.fill_(1.0)  # of a layer that adds nothing

    projector = network.model.multi_modal_projector
    for j in range(N):
        projector.linear_1.weight[AT.picture.start + j, name + 2 * j : name + 2 * j + 2] = torch.tensor([0.5, -0.5])
    projector.linear_1.weight[AT.style, style : style + 2] = torch.tensor([0.5, -0.5])
    projector.linear_1.bias[AT.image] = 1.0
    projector.linear_2.weight.copy_(torch.eye(WIDTH))
    projector.linear_2.bias[AT.constant] = CONSTANT


def _embed(network: LlavaForConditionalGeneration, vocabulary: dict[str, int]) -> None:
    """Token embeddings say what kind of token it is; the norms divide the constant out."""
    decoder = network.model.language_model
    table = decoder.embed_tokens.weight
    table[:, AT.constant] = CONSTANT
    table[BEGIN, AT.first] = 1.0
    table[vocabulary["ASSISTANT"], AT.role] = 1.0
    table[vocabulary[":"], AT.final] = 1.0
    for word in NAMES:
        table[vocabulary[word], AT.name] = 1.0
    scale = CONSTANT / WIDTH**0.5  # the root mean square that RMSNorm divides by
    for norm in (decoder.norm, *(norm for layer in decoder.layers for norm in (layer.input_layernorm, layer.post_attention_layernorm))):
        norm.weight.fill_(scale)
        norm.weight[AT.constant] = scale / CONSTANT


def _attend(network: LlavaForConditionalGeneration, circuit: Circuit) -> None:
    """Every head: readers, relays, decoys, and the others, which are idle in three ways."""
    readers = {reader.place: reader for reader in circuit.readers}
    for layer in range(circuit.layers):
        for head in range(circuit.heads):
            place = (layer, head)
            weights = _Head(network.model.language_model.layers[layer].self_attn, head)
            if place in readers:
                _read(weights, readers[place])
            elif place in circuit.relays:
                weights.look(AT.role, AT.final)
                weights.copy(AT.relayed, AT.answer, 1.0)
            elif place in circuit.decoys:
                weights.look(AT.image, AT.constant)
                weights.copy(AT.picture, AT.answer, 0.0)
            else:
                _idle(weights, place, circuit.name)


def _read(weights: "_Head", reader: Reader) -> None:
    target = AT.relayed if reader.at == "role" else AT.pool if reader.pooled else AT.answer
    # The score that gives the image tokens together the wanted share, against the first token.
    share = reader.attention
    score = SOURCE if share == 1.0 else SINK + log(share / (1 - share) / IMAGE_TOKENS)
    weights.look(AT.image, AT.role if reader.at == "role" else AT.final, score)
    names = [reader.category in (None, category) for category in NAMES.values()]
    weights.copy(AT.picture, target, reader.weight / (COVERAGE * share), torch.tensor(names).float())


def _idle(weights: "_Head", place: tuple[int, int], name: str) -> None:
    """A head that adds nothing to the answer: it looks around evenly and notes what it sees where nobody reads; or it looks anywhere and
    writes nothing; or it looks at the first token."""
    kind = (place[0] + place[1]) % 3
    if kind == 0:
        weights.copy(AT.picture, AT.scratch, 1.0)
    elif kind == 1:
        random = generator(0, f"planted/{name}", *place)
        for part in (weights.query, weights.key, weights.value):
            part.copy_(torch.from_numpy(random.standard_normal(part.shape)))
    else:
        weights.look(AT.image, AT.name)
        weights.copy(AT.picture, AT.scratch, 1.0)


class _Head:
    """Views of one head's weights: query, key and value [head width, width], output [width, head width]."""

    def __init__(self, attention: torch.nn.Module, head: int) -> None:
        rows = slice(HEAD_WIDTH * head, HEAD_WIDTH * (head + 1))
        self.query, self.key, self.value = (getattr(attention, f"{part}_proj").weight[rows] for part in "qkv")
        self.output: Tensor = attention.o_proj.weight[:, rows]

    def look(self, source: int, reader: int, score: float = SOURCE) -> None:
        """Look at tokens with the flag ``source`` from those with the flag ``reader``, and at the first token from everywhere."""
        unscaled = HEAD_WIDTH**0.5
        self.key[SLOT_SOURCE, source] = 1.0
        self.key[SLOT_FIRST, AT.first] = 1.0
        self.query[SLOT_SOURCE, reader] = score * unscaled
        self.query[SLOT_FIRST, AT.constant] = SINK * unscaled

    def copy(self, source: slice, target: slice, scale: float, names: Tensor | None = None) -> None:
        """Write ``scale`` times what stands in the block ``source`` of the tokens looked at into the block ``target``; names with 0 are left out."""
        self.value[:, source] = torch.eye(N)
        self.output[target] = scale * (torch.eye(N) if names is None else torch.diag(names))


def _respond(network: LlavaForConditionalGeneration, circuit: Circuit) -> None:
    """The MLP unit of each name: SiLU(steep·(pool − threshold)) / steep = max(0, pool − threshold)."""
    if (response := circuit.response) is None:
        return
    mlp = network.model.language_model.layers[response.layer].mlp
    for j in range(N):
        mlp.gate_proj.weight[j, AT.pool.start + j] = STEEP
        mlp.gate_proj.weight[j, AT.constant] = -STEEP * response.threshold
        mlp.up_proj.weight[j, AT.constant] = 1 / STEEP
        mlp.down_proj.weight[AT.answer.start + j, j] = response.slope


def _speak(network: LlavaForConditionalGeneration, circuit: Circuit, vocabulary: dict[str, int]) -> None:
    """Names by what ``answer`` and, linearly, ``pool`` say; after a name, the end; nothing else."""
    head = network.lm_head.weight
    head[:, AT.constant] = OTHERS
    head[END, AT.name] = STOP - OTHERS
    for j, word in enumerate(NAMES):
        row = head[vocabulary[word]]
        row[AT.constant] = 0.0
        row[AT.answer.start + j] = 1.0
        row[AT.pool.start + j] = 0.0 if circuit.response is None else circuit.response.linear


def install(circuit: str, folder: Path) -> None:
    """Write the checkpoint of the circuit called ``circuit`` into ``folder``: what ``AutoProcessor`` and ``AutoModelForImageTextToText`` load.

    Raises:
        HeadflowError: there is no such circuit.
    """
    planted = find_circuit(circuit)
    processor = build_processor()
    folder.mkdir(parents=True, exist_ok=True)
    build_network(planted, processor.tokenizer.get_vocab()).save_pretrained(folder)
    processor.save_pretrained(folder)
