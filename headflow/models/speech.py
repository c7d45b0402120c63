"""What a model has said: its text, and which characters of it each token wrote."""

from collections.abc import Sequence
from dataclasses import dataclass
from os.path import commonprefix

from headflow.models.lvlm import LVLM


@dataclass(frozen=True)
class Speech:
    """Generated tokens as text.

    Attributes:
        text: the text of all tokens, special ones left out.
        tokens: their ids.
        starts, stops: characters of ``text`` that each token wrote, ``text[starts[i]:stops[i]]``; they follow one another without a gap. A
            token that shows nothing, or only a part of a character, has none.
    """

    text: str
    tokens: list[int]
    starts: list[int]
    stops: list[int]


def spoken(lvlm: LVLM, tokens: Sequence[int]) -> Speech:
    """The text of ``tokens``, token by token.

    A tokenizer may write a token differently beside others (white space, characters of several tokens), so a token's characters are those
    that the text has more of the whole with it than without it.
    """
    text = lvlm.text(tokens)
    stops = [len(commonprefix([lvlm.text(tokens[: count + 1]), text])) for count in range(len(tokens))]  # noqa: RUF071 (these are no paths)
    # A text that ends in white space or half a character shows less than the one before it.
    stops = [max(stops[: place + 1]) for place in range(len(stops))]
    return Speech(text, list(tokens), [0, *stops[:-1]] if stops else [], stops)
