"""Load any vision-language model of transformers and ask it about a picture; one path for every family."""

import difflib
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, DynamicCache, PretrainedConfig, PreTrainedModel

from headflow.errors import HeadflowError
from headflow.models.capture import Capture
from headflow.models.prepared import CHECKPOINT, read_prepared
from headflow.prompts import chat, image_span, token_roles

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}
Picture = Image.Image | UInt8[np.ndarray, "height width 3"] | bytes | str | Path


@dataclass
class LVLM:
    """A vision-language model with its processor.

    Attributes:
        model: the whole model, weights frozen.
        processor: its processor.
    """

    model: PreTrainedModel
    processor: Any

    def __post_init__(self) -> None:
        self.model.eval().requires_grad_(False)
        self.decoder: PreTrainedModel = self.model.get_decoder()
        config = self.decoder.config
        self.layers: int = config.num_hidden_layers
        self.heads: int = config.num_attention_heads
        self.kv_heads: int = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        token = getattr(self.model.config, "image_token_id", None)
        if token is None:
            raise HeadflowError(f"{type(self.model).__name__} does not say which token stands for the picture (config.image_token_id); it is not supported")
        self.image_token: int = token

    @property
    def device(self) -> torch.device:
        return self.model.get_input_embeddings().weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.model.dtype

    def inputs(self, pictures: Sequence[Picture], question: str, answer: str | None = None) -> dict[str, Tensor]:
        """Model inputs for one question about each of several pictures of one size."""
        text = chat(self.processor, question, answer)
        marker = getattr(self.processor, "image_token", None)
        if marker and marker not in text:
            raise HeadflowError(f"the prompt holds no image token ({marker!r}); does the chat template insert the picture?")
        opened = [open_picture(p) for p in pictures]
        try:
            batch = self.processor(images=opened, text=[text] * len(opened), return_tensors="pt", add_special_tokens=self._adds_specials(text))
        except ValueError as error:
            raise HeadflowError(f"the model's processor refuses the picture or the prompt ({error})") from error
        return {k: v.to(self.device, self.dtype if v.is_floating_point() else None) for k, v in batch.items() if isinstance(v, Tensor)}

    @torch.no_grad()
    def capture(self, picture: Picture, question: str) -> Capture:
        """Run the stock model once and keep all that masked runs need.

        Raises:
            HeadflowError: the picture cannot be read, or the prompt has no picture or no question in it.
        """
        inputs = self.inputs([picture], question)
        ids = inputs["input_ids"][0].tolist()
        span = image_span(ids, self.image_token)
        pieces = self._pieces(ids)
        roles = token_roles(pieces, span, question)
        merged: dict[str, Any] = {}
        looks: list[Tensor] = []

        def remember_call(module: torch.nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
            merged.update(kwargs)

        def remember_looks(module: torch.nn.Module, args: tuple, output: Any) -> None:
            state = output[0] if isinstance(output, tuple) else getattr(output, "last_hidden_state", output)
            looks.append(state.reshape(-1, state.shape[-1]).float().mean(0))

        # Not DynamicCache(config=...): sliding-window layers would keep only their window.
        cache = DynamicCache()
        self._forget_positions()
        handles = [
            self.decoder.register_forward_pre_hook(remember_call, with_kwargs=True),
            self.model.get_encoder(modality="image").register_forward_hook(remember_looks),
        ]
        try:
            output = self.model(**inputs, past_key_values=cache, use_cache=True)
        finally:
            for handle in handles:
                handle.remove()
        embeddings = merged["inputs_embeds"]
        positions = merged.get("position_ids")
        if positions is None:
            positions = torch.arange(len(ids), device=embeddings.device)[None]
        return Capture(
            lvlm=self,
            question=question,
            picture=open_picture(picture),
            input_ids=ids,
            pieces=pieces,
            roles=roles,
            image=span,
            embeddings=embeddings,
            position_ids=positions,
            keys=[layer.keys[0, :, : span.stop].contiguous() for layer in cache.layers],
            values=[layer.values[0, :, : span.stop].contiguous() for layer in cache.layers],
            logits=output.logits[0, -1].float(),
            vision=torch.stack(looks).mean(0),
        )

    @torch.no_grad()
    def prefix_only(self, capture: Capture) -> tuple[list[Tensor], list[Tensor]]:
        """Keys and values per layer of a run that ends with the image span; equal to the capture's if no later token reaches back."""
        cache = DynamicCache()
        self._forget_positions()
        stop = capture.image.stop
        self.model(
            inputs_embeds=capture.embeddings[:, :stop], position_ids=capture.position_ids[..., :stop], past_key_values=cache, use_cache=True, logits_to_keep=1
        )
        return [layer.keys[0] for layer in cache.layers], [layer.values[0] for layer in cache.layers]

    @torch.no_grad()
    def answer(self, pictures: Sequence[Picture], question: str, max_new_tokens: int = 16) -> list[str]:
        """What the stock model answers, decoded greedily; one text a picture."""
        inputs = self.inputs(pictures, question)
        self._forget_positions()
        tokens = self.model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
        texts = self.processor.batch_decode(tokens[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        return [text.strip() for text in texts]

    def answer_token(self, question: str, answer: str) -> int:
        """Id of the first token of ``answer`` when it follows the prompt.

        Raises:
            HeadflowError: the answer tokenises to nothing, or to an unknown token.
        """
        tokenizer = self.processor.tokenizer
        # After a role's colon the answer begins with a space, after a line break it does not.
        text = chat(self.processor, question)
        options = {"add_special_tokens": self._adds_specials(text)}
        whole = tokenizer(text + (answer if text[-1:].isspace() else " " + answer), **options)["input_ids"]
        prompt = tokenizer(text, **options)["input_ids"]
        rest = whole[len(prompt) :] if whole[: len(prompt)] == prompt else tokenizer(answer, add_special_tokens=False)["input_ids"]
        if not rest:
            raise HeadflowError(f"the answer {answer!r} tokenises to nothing")
        if rest[0] == tokenizer.unk_token_id:
            raise HeadflowError(f"the answer {answer!r} begins with a token that this model does not know")
        return rest[0]

    def _adds_specials(self, text: str) -> bool:
        """Whether the tokenizer is to add its special tokens: not where the chat template has written the first one itself."""
        first = self.processor.tokenizer.bos_token
        return not (first and text.startswith(first))

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


def load(
    source: str | Path, *, revision: str | None = None, dtype: str = "float32", device: str = "auto", trust_remote_code: bool = False
) -> LVLM:
    """Load a model from a folder, from the Hugging Face hub, or ``"embedded"``, the small one that ships with headflow.

    Args:
        source: folder, hub id, or ``"embedded"``.
        revision: commit, tag or branch on the hub.
        dtype: ``float32``, ``bfloat16``, ``float16`` or ``float64``.
        device: ``cpu``, ``cuda``, ``cuda:1`` …; ``auto`` takes the first GPU if there is one.
        trust_remote_code: run code that comes with the checkpoint.

    Raises:
        HeadflowError: the model cannot be found or loaded, or the device does not exist.
    """
    if source == "embedded":
        from headflow.models.embedded.sealing import verify
        from headflow.models.embedded.shipped import SHIPPED_FOLDER

        verify(SHIPPED_FOLDER)
        source = SHIPPED_FOLDER
    elif str(source).startswith((".", "/", "~")) and not Path(source).is_dir():
        raise HeadflowError(f"model {str(source)!r} cannot be loaded: there is no such folder")
    elif close := difflib.get_close_matches(str(source), ["embedded"], cutoff=0.8):
        raise HeadflowError(f"model {str(source)!r} cannot be loaded: did you mean {close[0]!r}?")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise HeadflowError(f"device {device!r} was asked for, but torch sees no GPU; use `device: auto` or `cpu`")
    options = {"revision": revision, "trust_remote_code": trust_remote_code}
    if dtype not in DTYPES:
        raise HeadflowError(f"dtype {dtype!r} is not one of {', '.join(DTYPES)}")
    with _loading(source):
        processor = AutoProcessor.from_pretrained(source, **options)
        model = AutoModelForImageTextToText.from_pretrained(source, dtype=DTYPES[dtype], **options)
    try:
        return LVLM(model.to(device), processor)
    except (RuntimeError, AssertionError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise HeadflowError(f"model {str(source)!r} does not fit into the memory of device {device!r}; use bfloat16 or another device") from error
        raise HeadflowError(f"device {device!r} cannot be used ({str(error).splitlines()[0]}); use `auto`, `cpu` or `cuda`") from error


def load_prepared(folder: Path, device: str) -> LVLM:
    """Load the model that ``prepare_model`` left in ``folder`` (see :mod:`headflow.models.prepared`).

    Raises:
        HeadflowError: see :func:`load`; or the description is missing or damaged.
    """
    prepared = read_prepared(folder)
    return load(
        folder / CHECKPOINT if prepared.source is None else prepared.source,
        revision=prepared.revision,
        dtype=prepared.dtype,
        device=device,
        trust_remote_code=prepared.trust_remote_code,
    )


def read_config(source: str | Path, *, revision: str | None = None, trust_remote_code: bool = False) -> PretrainedConfig:
    """A model's configuration, without its weights.

    Raises:
        HeadflowError: there is no such model, or the hub cannot be reached.
    """
    with _loading(source):
        return AutoConfig.from_pretrained(source, revision=revision, trust_remote_code=trust_remote_code)


@contextmanager
def _loading(source: str | Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise HeadflowError(f"model {str(source)!r} cannot be loaded: {reason}") from error


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
