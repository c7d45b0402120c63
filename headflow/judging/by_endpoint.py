"""A language model behind an endpoint that speaks OpenAI's protocol (OpenAI, vLLM, Ollama, llama.cpp …) as judge.

Sent are the prompt and the two texts, nothing else. The key comes from the environment; it is kept out of params, cache, tables and messages.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

from headflow.errors import HeadflowError
from headflow.judging.asking import AskingJudge
from headflow.judging.prompt import SCHEMA, Unusable
from headflow.params import EndpointParams

OPENAI = "https://api.openai.com/v1"
"""The endpoint where the params name none."""

# Ways to ask for JSON, the strictest first; an endpoint that refuses one gets the next.
_FORMATS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("json_schema", {"response_format": {"type": "json_schema", "json_schema": {"name": "judgement", "strict": True, "schema": SCHEMA}}}),
    ("json_object", {"response_format": {"type": "json_object"}}),
    ("no response format", {}),
)


class EndpointJudge(AskingJudge):
    """Judges by asking an endpoint.

    Raises:
        HeadflowError: the package openai or the key is missing.
    """

    def __init__(self, settings: EndpointParams, cache: Path) -> None:
        try:
            import openai
        except ImportError:
            raise HeadflowError("judge llm needs the package openai: pip install 'headflow[llm]', or set judging.judge to match") from None
        if settings.model is None:
            raise HeadflowError("judge llm: judging.llm.model names no model")
        key = _key(settings.key_variable)
        self._openai, self._settings, self._format = openai, settings, 0
        self._hide = lambda text: text.replace(key, "…") if key else text
        # Time-outs, lost connections, 408, 409, 429 and 5xx are tried again by the client, with growing pauses, or those that the endpoint asks for.
        self._url = settings.base_url or OPENAI  # said, so that no environment variable leads elsewhere
        self._client = openai.OpenAI(api_key=key or "none", base_url=self._url, timeout=settings.timeout_s, max_retries=settings.retries)
        sampling = {"temperature": settings.temperature, "seed": settings.seed, "max_tokens": settings.max_tokens}
        self._sampling = {name: value for name, value in sampling.items() if value is not None}
        about = {"base_url": self._url, "model": settings.model, "sampling": json.dumps(self._sampling, sort_keys=True)}
        super().__init__("llm", about, cache, retries=settings.retries, concurrency=settings.concurrency, group="judging.llm")

    def ask(self, conversation: list[dict[str, str]]) -> str:
        """See :meth:`AskingJudge.ask`."""
        first = self._format
        refusal = None
        for index in range(first, len(_FORMATS)):
            try:
                answer = self._send(conversation, _FORMATS[index][1])
            except (self._openai.BadRequestError, self._openai.UnprocessableEntityError) as error:
                refusal = refusal or self._said(error)
                continue
            if index > self._format:
                self._format = index
                print(f"judge llm: {self._where} refuses {_FORMATS[first][0]} ({refusal}); asked with {_FORMATS[index][0]} from now on", file=sys.stderr)
            return _content(answer)
        raise HeadflowError(f"judge llm: {self._where} refuses the request ({refusal}); see judging.llm (temperature, seed, max_tokens: null = not sent)")

    def hang_up(self) -> None:
        """See :meth:`AskingJudge.hang_up`."""
        super().hang_up()
        self._client.close()

    @property
    def _where(self) -> str:
        return f"model {self._settings.model!r} at {self._url}"

    def _send(self, conversation: list[dict[str, str]], format: dict[str, Any]) -> Any:
        """One request, tried again by the client where that can help.

        Raises:
            BadRequestError, UnprocessableEntityError: the endpoint does not take this request.
            HeadflowError: any other failure. Nothing of it is kept as a cause, which would hold the request with its key.
        """
        api, tries = self._openai, self._settings.retries + 1
        try:
            return self._client.chat.completions.create(model=self._settings.model, messages=conversation, **self._sampling, **format)
        except (api.BadRequestError, api.UnprocessableEntityError):
            raise
        except (api.AuthenticationError, api.PermissionDeniedError) as error:
            variable = self._settings.key_variable
            advice = f"check the key in the environment variable {variable}" if variable else "it wants a key: name its environment variable with key_variable"
            reason = f"{self._where} refuses the key ({error.status_code}); {advice}"
        except api.NotFoundError as error:
            reason = f"{self._where} is not found ({self._said(error)}); check judging.llm.base_url, which often ends in /v1, and model"
        except api.RateLimitError as error:
            reason = f"{self._where} is overloaded, or the quota is used up, after {tries} tries ({self._said(error)}); wait, or lower judging.llm.concurrency"
        except api.APIStatusError as error:
            reason = f"{self._where} fails with status {error.status_code} after {tries} tries ({self._said(error)})"
        except api.APITimeoutError:
            reason = f"{self._where} gave no answer within {self._settings.timeout_s:g} s, {tries} times; raise judging.llm.timeout_s or lower concurrency"
        except api.APIConnectionError as error:
            reason = f"{self._where} cannot be reached ({self._line(error.__cause__ or error)}); check judging.llm.base_url and the network"
        except (ValueError, api.APIResponseValidationError) as error:  # a body that is no JSON, or not of the protocol
            raise Unusable(f"the body is not of the protocol ({self._line(error)})") from None
        except api.OpenAIError as error:
            reason = f"{self._where}: {self._line(error)}"
        raise HeadflowError(f"judge llm: {reason}")

    def _said(self, error: Any) -> str:
        """What an endpoint says of its refusal."""
        body = error.body if isinstance(error.body, dict) else {}
        return self._line(body.get("message") or error.message)

    def _line(self, error: object) -> str:
        """One line without the key."""
        return self._hide(" ".join(str(error).split()))[:200] or type(error).__name__


def _key(variable: str | None) -> str:
    """The key; empty where the endpoint needs none.

    Raises:
        HeadflowError: the variable is not set, or does not hold what can be a key; the message does not show it.
    """
    if variable is None:
        return ""
    key = os.environ.get(variable, "").strip()
    if not key:
        raise HeadflowError(
            f"judge llm: the environment variable {variable} holds no key: export {variable}=…, or name another with judging.llm.key_variable "
            "(null for an endpoint that needs none)"
        )
    if not key.isascii() or not key.isprintable():
        raise HeadflowError(f"judge llm: what the environment variable {variable} holds is no key: it has letters outside ASCII, or line breaks")
    return key


def _content(answer: Any) -> str:
    """The text of a chat completion.

    Raises:
        Unusable: there is none: the body has another shape, the model refuses, or the answer is cut off.
    """
    choices = getattr(answer, "choices", None)
    message = getattr(choices[0], "message", None) if isinstance(choices, list) and choices else None
    if message is None:
        raise Unusable("the body is no chat completion")
    if refusal := getattr(message, "refusal", None):
        raise Unusable(f"the model refuses ({str(refusal)[:100]})")
    if getattr(choices[0], "finish_reason", None) == "length":
        raise Unusable("it is cut off at the limit of its length (judging.llm.max_tokens)")
    if not isinstance(message.content, str):
        raise Unusable("it has no text")
    return message.content
