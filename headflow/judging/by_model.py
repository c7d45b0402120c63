"""A text model of transformers as judge, run on this machine: nothing leaves it."""

import warnings
from functools import cached_property
from pathlib import Path
from typing import Any

from headflow.errors import HeadflowError
from headflow.execution.fingerprint import digest_files
from headflow.judging.asking import AskingJudge
from headflow.judging.prompt import Unusable
from headflow.params import LocalJudgeParams


class ModelJudge(AskingJudge):
    """Judges by asking a causal language model with a chat template; greedy decoding. It is loaded when first asked: not at all where every
    answer is known.

    Raises:
        HeadflowError: the model cannot be found.
    """

    def __init__(self, settings: LocalJudgeParams, cache: Path) -> None:
        if settings.id is None:
            raise HeadflowError("judge local: judging.local.id names no model")
        self._settings = settings
        about = {"model": settings.id, "version": self._version(), "dtype": settings.dtype, "max_new_tokens": str(settings.max_new_tokens)}
        super().__init__("local", about, cache, retries=settings.retries, concurrency=1, group="judging.local")

    def ask(self, conversation: list[dict[str, str]]) -> str:
        """See :meth:`AskingJudge.ask`."""
        import torch

        tokenizer, model = self._tokenizer, self._model
        inputs = self._tokens(conversation).to(model.device)
        length = inputs["input_ids"].shape[1]
        longest = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        if longest is not None and length >= longest:
            raise self._fault(f"the prompt has {length:,} tokens, and the model reads {longest:,} at most; take a model with a longer context")
        room = self._settings.max_new_tokens if longest is None else min(self._settings.max_new_tokens, longest - length)
        try:
            with torch.inference_mode():
                tokens = model.generate(
                    **inputs, max_new_tokens=room, do_sample=False, temperature=None, top_p=None, top_k=None, pad_token_id=self._padding
                )[0, length:]  # fmt: skip
        except torch.OutOfMemoryError:
            raise self._fault("it does not fit into memory; take bfloat16, several devices (judging.local.device_map) or a smaller model") from None
        ends = model.generation_config.eos_token_id
        ended = int(tokens[-1]) in (ends if isinstance(ends, list) else [ends])
        if not ended and len(tokens) >= room:
            raise Unusable(f"it does not end within {room:,} tokens (judging.local.max_new_tokens)")
        return tokenizer.decode(tokens, skip_special_tokens=True)

    def _tokens(self, conversation: list[dict[str, str]]) -> Any:
        """The conversation in the model's chat format; where that has no system message, it goes before the user's first."""
        system, user, *rest = conversation
        joined = {"role": "user", "content": f"{system['content']}\n\n{user['content']}"}
        for form in (conversation, [joined, *rest]):
            try:
                options = {"add_generation_prompt": True, "return_tensors": "pt", "return_dict": True, "enable_thinking": False}
                return self._tokenizer.apply_chat_template(form, **options)
            except Exception as error:  # a template is a program of its own and may raise anything
                reason = _line(error)
        raise self._fault(f"its chat template fails ({reason}); take a chat (instruct) model")

    def _version(self) -> str:
        """What the weights are: a hash of a folder's files, or the hub's commit."""
        folder = Path(self._settings.id)
        if folder.is_dir():
            return digest_files(path for path in folder.iterdir() if path.is_file())
        from transformers import AutoConfig

        return self._loaded(AutoConfig)._commit_hash or "unknown"

    @cached_property
    def _tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        tokenizer = self._loaded(AutoTokenizer)
        if not tokenizer.chat_template:
            raise self._fault("its tokenizer has no chat template; take a chat (instruct) model")
        return tokenizer

    @cached_property
    def _model(self) -> Any:
        import torch
        from transformers import AutoModelForCausalLM

        if self._settings.device_map.startswith("cuda") and not torch.cuda.is_available():
            raise HeadflowError(f"judging.local.device_map = {self._settings.device_map!r}: torch sees no GPU; use auto or cpu")
        options = {"dtype": getattr(torch, self._settings.dtype), "device_map": self._settings.device_map, "use_safetensors": True}
        model, found = self._loaded(AutoModelForCausalLM, output_loading_info=True, **options)
        if found["missing_keys"]:
            raise self._fault(f"its files lack the weight {sorted(found['missing_keys'])[0]}; get the checkpoint anew")
        return model.eval()

    @property
    def _padding(self) -> int | None:
        ends = self._model.generation_config.eos_token_id
        return self._tokenizer.pad_token_id if self._tokenizer.pad_token_id is not None else (ends[0] if isinstance(ends, list) else ends)

    def _loaded(self, kind: Any, **options: Any) -> Any:
        try:
            with warnings.catch_warnings(action="ignore"):
                return kind.from_pretrained(self._settings.id, revision=self._settings.revision, trust_remote_code=False, **options)
        except Exception as error:  # a damaged file raises whatever its reader raises
            raise self._fault(f"it cannot be loaded ({_line(error)})") from None

    def _fault(self, what: str) -> HeadflowError:
        return HeadflowError(f"judge local: model {self._settings.id!r}: {what}")


def _line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:300]
