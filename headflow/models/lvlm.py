"""Any vision-language model of transformers, asked about a picture; one path for every family."""

import io
import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor
from transformers import DynamicCache, GenerationConfig, PreTrainedModel

from headflow.answers import adds_specials, answer_tokens
from headflow.attention import watched
from headflow.errors import HeadflowError
from headflow.lazy import lazily
from headflow.memory import is_out_of_memory
from headflow.models.capture import Capture
from headflow.prompts import around_question, chat, image_span, token_roles
from headflow.suffix_pass import Mode
from headflow.tolerance import TOLERANCE, relative

Picture = Image.Image | UInt8[np.ndarray, "height width 3"] | bytes | str | Path
# Loading has a module of its own; its names can still be had here.
__getattr__, __dir__ = lazily(
    __name__, dict.fromkeys(("check_machine", "load", "load_prepared", "prepared_processor", "read_config"), "headflow.models.loading")
)
_LESS = "use a smaller picture, bfloat16, quantization, or more devices (device_map)"


@dataclass(repr=False)
class LVLM:
    """A vision-language model with its processor.

    Attributes:
        model: the whole model, weights frozen.
        processor: its processor.
        prefix_mode: how masked runs treat what stands before the text (:data:`headflow.suffix_pass.Mode`). None until the first
            example is captured: it is then found out by running that example with another text after the picture.
        prefix_change: by how much the prefix changed there, relative; above ``prefix_limit`` it cannot be shared.
    """

    model: PreTrainedModel
    processor: Any
    prefix_mode: Mode | None = None
    prefix_change: float | None = None

    def __post_init__(self) -> None:
        self.model.eval().requires_grad_(False)
        self.decoder: PreTrainedModel = self.model.get_decoder()
        shape = text_shape(self.decoder.config)
        self.decoder_layers, self.image_layers, self.layers, self.heads, self.kv_heads = shape
        if self.image_layers is not None:
            self.prefix_mode = "cross"
        token = getattr(self.model.config, "image_token_id", None)
        if token is None:
            raise HeadflowError(f"{type(self.model).__name__} does not say which token stands for the picture (config.image_token_id); it is not supported")
        self.image_token: int = token

    def __repr__(self) -> str:
        return f"LVLM({type(self.model).__name__}, {self.layers} × {self.heads} heads, {self.dtype}, {self.device})"

    @property
    def device(self) -> torch.device:
        """Where inputs go: the device of the first weights, also where those are swapped in from elsewhere."""
        embeddings = self.model.get_input_embeddings()
        execution = getattr(getattr(embeddings, "_hf_hook", None), "execution_device", None)
        return embeddings.weight.device if execution is None else torch.device("cuda", execution) if isinstance(execution, int) else torch.device(execution)

    @property
    def dtype(self) -> torch.dtype:
        return self.model.dtype

    @property
    def tolerance(self) -> float:
        """Largest relative difference that rounding explains; quantized weights round what goes into them too."""
        plain = TOLERANCE[self.dtype]
        return max(plain, TOLERANCE[torch.bfloat16]) if getattr(self.model, "is_quantized", False) else plain

    @property
    def prefix_limit(self) -> float:
        """Largest relative change of the prefix that leaves it shared.

        Prompts of one length are computed by the same steps, so that in every number format the keys of a causal prefix come out
        the same to the last bit; only weights in 8 bits, which round all tokens of a prompt together, leave the tolerance's room.
        """
        return self.tolerance if getattr(self.model, "is_quantized", False) else TOLERANCE[torch.float32]

    @property
    def spread(self) -> bool:
        """Whether the weights lie on several devices, or are swapped in and out."""
        return len(set(getattr(self.model, "hf_device_map", {}).values())) > 1

    @property
    def end_tokens(self) -> set[int]:
        """Token ids that end an answer: those of the checkpoint's generation settings and its tokenizer's."""
        named = self.model.generation_config.eos_token_id
        return {*(named if isinstance(named, list) else [named]), self.processor.tokenizer.eos_token_id} - {None}

    def weight_bytes(self, device: torch.device) -> int:
        """Memory of the weights that lie on ``device``."""
        return sum(weight.numel() * weight.element_size() for weight in self.model.parameters() if weight.device == device)

    def inputs(self, pictures: Sequence[Picture], question: str) -> dict[str, Tensor]:
        """Model inputs for one question about each of several pictures of one size."""
        text = chat(self.processor, question)
        marker = getattr(self.processor, "image_token", None)
        if marker and marker not in text:
            raise HeadflowError(f"the prompt holds no image token ({marker!r}); does the chat template insert the picture?")
        if marker and text.count(marker) > 1:
            raise HeadflowError(
                f"the prompt asks for {text.count(marker)} pictures: the question holds the image token ({marker!r}), or the chat template repeats it"
            )
        opened = [open_picture(p) for p in pictures]
        try:
            # One list for each prompt: some processors take a flat list for the pictures of one prompt.
            batch = self.processor(images=[[p] for p in opened], text=[text] * len(opened), return_tensors="pt", add_special_tokens=self._adds_specials(text))
        except (ValueError, TypeError) as error:
            raise HeadflowError(f"the model's processor refuses the picture or the prompt ({error})") from error
        batch.pop("labels", None)  # some processors prepare for training
        return {k: v.to(self.device, self.dtype if v.is_floating_point() else None) for k, v in batch.items() if isinstance(v, Tensor)}

    @torch.no_grad()
    def capture(self, picture: Picture, question: str, answer: str | Sequence[int] = ()) -> Capture:
        """Run the stock model once and keep all that masked runs need.

        Args:
            picture: the picture.
            question: the user's text.
            answer: an answer to be fed to the model word by word (teacher forcing), as text or as token ids; what is explained
                then may be the log-probability of the whole answer.

        Raises:
            HeadflowError: the picture cannot be read, the prompt has no picture or no question in it, the answer tokenises to
                nothing, or memory runs out.
        """
        if not question.strip():
            raise HeadflowError("the question is empty")
        inputs = self.inputs([picture], question)
        ids = inputs["input_ids"][0].tolist()
        span = image_span(ids, self.image_token)
        answer_ids = self.answer_tokens(question, answer) if isinstance(answer, str) else [int(token) for token in answer]
        fed = answer_ids[:-1]
        pieces = self._pieces(ids)
        roles = token_roles(pieces, span, question, template=around_question(self.processor, question))
        run = _OneRun(self, inputs)
        try:
            with _explained():
                run.prompt()
            if self.prefix_mode is None:
                self.prefix_change = self._prefix_change(inputs, [part for parts in run.image_keys_values(span) for part in parts])
                self.prefix_mode = "shared" if self.prefix_change <= self.prefix_limit else "recomputed"
            keys, values = run.image_keys_values(span)
            run.go_on(fed)
            visible = None
            if self.prefix_mode == "recomputed":
                # Once more, for the masks alone: the numbers of a stock run come from the stock model's own attention.
                watching = _OneRun(self, inputs, keep_visible=True)
                watching.prompt()
                watching.go_on(fed)
                visible = watching.visible_layers()
        except torch.OutOfMemoryError as error:
            raise HeadflowError(f"out of memory in the stock forward of one example ({len(ids)} tokens): {_LESS}") from error
        return Capture(
            lvlm=self,
            question=question,
            picture=open_picture(picture),
            input_ids=[*ids, *fed],
            answer_ids=answer_ids,
            pieces=[*pieces, *self._pieces(fed)],
            roles=[*roles, *["answer"] * len(fed)],
            image=span,
            embeddings=run.embeddings,
            position_ids=run.positions,
            keys=keys,
            values=values,
            logits=run.logits[0],
            answer_logits=run.logits,
            vision=run.vision,
            image_embeddings=run.image_embeddings(span),
            mode=self.prefix_mode,
            visible=visible,
            extras=run.extras,
            tiling=_tiling(inputs, picture),
        )

    @torch.no_grad()
    def prefix_difference(self, capture: Capture) -> float:
        """How far keys and values before the end of the picture change when the text after it is another of the same length,
        relative to the largest; 0 if no later token reaches back."""
        inputs = self.inputs([capture.picture], capture.question)
        return self._prefix_change(inputs, (*capture.keys, *capture.values))

    def _prefix_change(self, inputs: dict[str, Tensor], whole: Sequence[Tensor]) -> float:
        ids = inputs["input_ids"]
        stop = image_span(ids[0].tolist(), self.image_token).stop
        # The same tokens in another order, so that none of them is new; where they are all the same, other ones.
        after = ids[:, stop:].roll(1, -1)
        if torch.equal(after, ids[:, stop:]):
            after = torch.full_like(after, next(token for token in range(3) if token not in (self.image_token, int(after[0, 0]))))
        changed = _OneRun(self, {**inputs, "input_ids": torch.cat([ids[:, :stop], after], 1)})
        changed.prompt()
        parts = [*(layer.keys[0] for layer in changed.cache.layers), *(layer.values[0] for layer in changed.cache.layers)]
        differences = [relative(part[:, : full.shape[1]], full) for part, full in zip(parts, whole, strict=True)]
        return float(torch.tensor(differences).max())  # not Python's max, which loses a NaN

    @torch.no_grad()
    def answer_ids(self, pictures: Sequence[Picture], question: str, max_new_tokens: int = 16) -> list[list[int]]:
        """Token ids of what the stock model answers, decoded greedily, without the one that ends it; one list a picture.

        Where memory runs out, fewer pictures go together.

        Raises:
            HeadflowError: a picture or the question cannot be put to the model, or memory runs out with one picture.
        """
        inputs = self.inputs(pictures, question)
        ends = self.end_tokens
        try:
            with self._plainly_greedy(sorted(ends)), _explained():
                tokens = self.model.generate(**inputs, max_new_tokens=max_new_tokens)[:, inputs["input_ids"].shape[1] :]
        except torch.OutOfMemoryError as error:
            if len(pictures) == 1:
                raise HeadflowError(f"out of memory while the model answers about one picture ({inputs['input_ids'].shape[1]} tokens): {_LESS}") from error
            torch.cuda.empty_cache()
            half = len(pictures) // 2
            return self.answer_ids(pictures[:half], question, max_new_tokens) + self.answer_ids(pictures[half:], question, max_new_tokens)
        return [list(itertools.takewhile(lambda token: token not in ends, row)) for row in tokens.tolist()]

    @contextmanager
    def _plainly_greedy(self, ends: list[int]) -> Iterator[None]:
        """Decode the most likely token each time, whatever the checkpoint asks for: a penalty on repetition (Qwen2.5-VL), for one,
        would choose other tokens than the logits that are explained."""
        self._forget_positions()
        stock = self.model.generation_config
        pad = stock.pad_token_id if stock.pad_token_id is not None else ends[0] if ends else None
        self.model.generation_config = GenerationConfig(do_sample=False, eos_token_id=ends or None, pad_token_id=pad, bos_token_id=stock.bos_token_id)
        try:
            yield
        finally:
            self.model.generation_config = stock

    def answer(self, pictures: Sequence[Picture], question: str, max_new_tokens: int = 16) -> list[str]:
        """What the stock model answers, decoded greedily; one text a picture."""
        return [self.text(ids) for ids in self.answer_ids(pictures, question, max_new_tokens)]

    def text(self, ids: Sequence[int]) -> str:
        """The text of token ids, special tokens left out."""
        return self.processor.tokenizer.decode(ids, skip_special_tokens=True).strip()

    def answer_tokens(self, question: str, answer: str) -> list[int]:
        """Ids of the tokens of ``answer`` when it follows the prompt.

        Raises:
            HeadflowError: the answer tokenises to nothing, or begins with an unknown token.
        """
        return answer_tokens(self.processor, question, answer)

    def answer_token(self, question: str, answer: str) -> int:
        """Id of the first token of ``answer`` when it follows the prompt; see :meth:`answer_tokens`."""
        return self.answer_tokens(question, answer)[0]

    def _adds_specials(self, text: str) -> bool:
        return adds_specials(self.processor, text)

    def _pieces(self, ids: Sequence[int]) -> list[str]:
        """The text of each token; a character that is spread over several tokens is given to the last of them."""
        decode = self.processor.tokenizer.decode
        pieces = [decode([token]) for token in ids]
        start = None
        for at, piece in enumerate([*pieces, ""]):
            broken = "\ufffd" in piece
            if broken and start is None:
                start = at
            elif not broken and start is not None:
                pieces[start:at] = [""] * (at - start - 1) + [decode(list(ids[start:at]))]
                start = None
        return pieces

    def _forget_positions(self) -> None:
        """The Qwen-VL families keep the last prompt's position offset between calls."""
        inner = getattr(self.model, "model", None)
        if hasattr(inner, "rope_deltas"):
            inner.rope_deltas = None


class _OneRun:
    """One stock forward of one example, and then of the answer that is fed to it; keeps what a capture needs."""

    def __init__(self, lvlm: LVLM, inputs: dict[str, Tensor], *, keep_visible: bool = False) -> None:
        self.lvlm, self.inputs = lvlm, inputs
        # Not DynamicCache(config=...): sliding-window layers would keep only their window.
        self.cache = DynamicCache()
        self.visible: list[dict[int, Tensor]] | None = [] if keep_visible else None
        self.logits = torch.empty(0)
        self.embeddings = torch.empty(0)
        self.positions = torch.empty(0)
        self.vision = torch.empty(0)
        self.crossed: Tensor | None = None
        # Inputs that say token by token how the picture is read by cross-attention.
        self.extras = {"cross_attention_mask": inputs["cross_attention_mask"]} if "cross_attention_mask" in inputs else {}

    def prompt(self) -> None:
        """The prompt with its picture."""
        looks: list[Tensor] = []

        def remember(module: torch.nn.Module, args: tuple, output: Any) -> None:
            state = output[0] if isinstance(output, tuple) else getattr(output, "last_hidden_state", output)
            looks.append(state.reshape(-1, state.shape[-1]).float().mean(0))

        handle = self.lvlm.model.get_encoder(modality="image").register_forward_hook(remember)
        self.lvlm._forget_positions()
        try:
            output, embeddings, positions = self._forward(**self.inputs)
        finally:
            handle.remove()
        self.logits, self.embeddings, self.vision = output.logits[0, -1:].float(), embeddings, torch.stack(looks).mean(0)
        length = self.inputs["input_ids"].shape[1]
        self.positions = torch.arange(length, device=embeddings.device)[None] if positions is None else positions

    def go_on(self, ids: Sequence[int]) -> None:
        """The tokens of an answer, each seeing those before it, as in decoding."""
        if not ids:
            return
        steps = torch.arange(1, len(ids) + 1, device=self.positions.device)
        positions = self.positions[..., -1:] + steps
        tokens = torch.tensor([list(ids)], device=self.inputs["input_ids"].device)
        # Over the whole sequence: the model itself takes the rows of the new tokens.
        self.extras = {name: torch.cat([x, x[:, -1:].expand(-1, len(ids), *[-1] * (x.ndim - 2))], 1) for name, x in self.extras.items()}
        output, embeddings, _ = self._forward(input_ids=tokens, position_ids=positions, **self.extras)
        self.logits = torch.cat([self.logits, output.logits[0].float()])
        self.embeddings = torch.cat([self.embeddings, embeddings], 1)
        self.positions = torch.cat([self.positions, positions], -1)

    def image_keys_values(self, span: slice) -> tuple[list[Tensor], list[Tensor]]:
        """Per decoder layer, up to the end of the image span; under cross-attention the picture's, and none in other layers."""
        crossing = self.lvlm.image_layers
        stops = [span.stop if crossing is None else None if layer in crossing else 0 for layer in range(len(self.cache.layers))]
        both = [(layer.keys[0, :, :stop].contiguous(), layer.values[0, :, :stop].contiguous()) for layer, stop in zip(self.cache.layers, stops, strict=True)]
        return [keys for keys, _ in both], [values for _, values in both]

    def image_embeddings(self, span: slice) -> Tensor:
        """What the projector hands to the text model, ``[image, hidden]``."""
        return self.embeddings[0, span] if self.crossed is None else self.crossed.reshape(-1, self.crossed.shape[-1])

    def visible_layers(self) -> list[Tensor]:
        """Per decoder layer what each query of prompt and answer sees, ``[1, 1, positions, positions]``."""
        length = self.positions.shape[-1]
        made: dict[tuple, Tensor] = {}  # layers of one kind share one mask, and so do their copies here
        layers = []
        for layer in self.visible[0]:
            rows = [seen[layer] for seen in self.visible]
            kind = tuple((mask.data_ptr(), *mask.shape) for mask in rows)
            if kind not in made:
                made[kind] = torch.cat([torch.nn.functional.pad(mask, (0, length - mask.shape[-1])) for mask in rows], 2)
            layers.append(made[kind])
        return layers

    def _forward(self, **inputs: Tensor) -> tuple[Any, Tensor, Tensor | None]:
        """The outer model's output, and the embeddings and positions that its text model was given."""
        model, merged = self.lvlm.model, {}

        def remember(module: torch.nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
            merged.update(kwargs)

        handle = self.lvlm.decoder.register_forward_pre_hook(remember, with_kwargs=True)
        try:
            if self.visible is None:
                output = model(**inputs, past_key_values=self.cache, use_cache=True)
            else:
                with watched(self.lvlm.decoder, self.lvlm.decoder_layers) as seen:
                    output = model(**inputs, past_key_values=self.cache, use_cache=True)
                self.visible.append(seen)
        finally:
            handle.remove()
        self.crossed = self.crossed if merged.get("cross_attention_states") is None else merged["cross_attention_states"]
        embeddings = merged.get("inputs_embeds")
        if embeddings is None:  # the picture is not among the text model's inputs
            embeddings = model.get_input_embeddings()(inputs["input_ids"])
        return output, embeddings, merged.get("position_ids")


def _tiling(inputs: dict[str, Tensor], picture: Picture) -> str:
    """How the processor cut one picture into tiles or patches, as far as the prompt does not say it."""
    tokens, pixels = inputs["input_ids"].shape, inputs.get("pixel_values")
    said = {k: x.tolist() for k, x in sorted(inputs.items()) if x.shape[:2] != tokens and not x.is_floating_point() and "mask" not in k}
    if not said and pixels is not None and pixels.ndim == 4 and len(pixels) > 1:
        said["size"] = open_picture(picture).size  # a row of tiles without a word on the grid (InternVL): pictures of one size have the same
    return repr((None if pixels is None else tuple(pixels.shape), said))


@contextmanager
def _explained() -> Iterator[None]:
    """A picture may be too small or too narrow for what the model's code does with it; lack of memory goes through."""
    try:
        yield
    except (RuntimeError, ValueError, IndexError) as error:
        if is_out_of_memory(error):
            raise
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise HeadflowError(f"the model cannot take this picture with this question ({reason})") from error


def text_shape(config: Any) -> tuple[int, list[int] | None, int, int, int]:
    """Of a text model: its layers, those of them that read the picture by cross-attention (None = all read it in their
    sequence), the number of layers that read it, and the query and key heads of each."""
    crossing = getattr(config, "cross_attention_layers", None)
    layers, heads = config.num_hidden_layers, config.num_attention_heads
    reading = sorted(crossing) if crossing else None
    return layers, reading, len(reading) if reading else layers, heads, getattr(config, "num_key_value_heads", None) or heads


def open_picture(picture: Picture) -> Image.Image:
    """An RGB image from a file, PNG or JPEG bytes, an array or an image.

    Raises:
        HeadflowError: the file is missing, truncated or not a picture.
    """
    name = str(picture) if isinstance(picture, (str, Path)) else f"image {type(picture).__name__}"
    try:
        if isinstance(picture, Image.Image):
            return picture.convert("RGB")
        if isinstance(picture, np.ndarray):
            return Image.fromarray(picture).convert("RGB")
        with Image.open(io.BytesIO(picture) if isinstance(picture, bytes) else picture) as opened:
            return opened.convert("RGB")
    except FileNotFoundError:
        raise HeadflowError(f"{name}: there is no such picture") from None
    except (OSError, ValueError, TypeError, SyntaxError, Image.DecompressionBombError) as error:
        raise HeadflowError(f"{name}: not a readable picture ({error})") from None
