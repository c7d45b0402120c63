"""Judges that are asked in words: one prompt, one way to read the answer, one cache, whoever answers."""

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice
from pathlib import Path

from headflow.errors import HeadflowError
from headflow.execution.fingerprint import digest_json
from headflow.judging.cache import AnswerCache
from headflow.judging.judgement import Judgement, Pair, as_expected
from headflow.judging.prompt import PROMPT_VERSION, Unusable, again, messages, read_reply
from headflow.progress import Counter, progress


class AskingJudge(ABC):
    """A language model as judge.

    Args:
        name: ``llm`` or ``local``.
        about: all that its answers depend on beside the prompt and the descriptions; goes into the keys of the cache and into the metrics.
        cache: file of the answers.
        retries: further tries after an answer that cannot be used.
        concurrency: questions at once.
        group: its params, as errors name them.
    """

    def __init__(self, name: str, about: dict[str, str], cache: Path, *, retries: int, concurrency: int, group: str) -> None:
        self.name, self._asked, self._group = name, about, group
        self.about = {**about, "prompt": PROMPT_VERSION}
        self._cache, self._retries, self._concurrency = AnswerCache(cache), retries, concurrency

    @abstractmethod
    def ask(self, conversation: list[dict[str, str]]) -> str:
        """The model's answer to a conversation.

        Raises:
            Unusable: it answered, but with nothing to read.
            HeadflowError: it cannot be asked.
        """

    def hang_up(self) -> None:
        """Ask nothing more: whoever is under way fails at the next try."""
        self._retries = 0

    def judge(self, expected: str | Sequence[str], said: str) -> Judgement:
        """See :class:`headflow.judging.judgement.Judge`."""
        return self.judge_all([(as_expected(expected), said)])[0]

    def judge_all(self, pairs: Sequence[Pair], title: str = "judge") -> list[Judgement]:
        """See :class:`headflow.judging.judgement.Judge`."""
        keys = {pair: self._key(pair) for pair in pairs}
        known = self._known(keys)
        missing = [pair for pair in keys if pair not in known]
        with progress(f"{title} ({self.name})", len(keys), "pairs of texts") as bar:
            bar.skip(len(known))
            try:
                self._ask_all(missing, keys, known, bar)
            except HeadflowError as error:
                raise HeadflowError(f"{error}; {len(known):,} of {len(keys):,} pairs of texts are judged and kept: run it again to go on") from error.__cause__
        return [known[pair] for pair in pairs]

    def close(self) -> None:
        self._cache.close()

    def _key(self, pair: Pair) -> str:
        expected, said = pair
        return digest_json([self.name, self._asked, PROMPT_VERSION, expected if isinstance(expected, str) else list(expected), said])

    def _known(self, keys: dict[Pair, str]) -> dict[Pair, Judgement]:
        """Judgements of an earlier run; an answer that is not taken any more is asked for again."""
        kept, found = self._cache.get(keys.values()), {}
        for pair, key in keys.items():
            if key in kept:
                try:
                    found[pair] = read_reply(kept[key], *pair)
                except Unusable:
                    continue
        return found

    def _ask_all(self, missing: list[Pair], keys: dict[Pair, str], known: dict[Pair, Judgement], bar: Counter) -> None:
        """Ask what is missing, some at once; each answer is kept as it comes. After a failure those under way are waited for."""

        def keep(pair: Pair, answer: tuple[str, Judgement]) -> None:
            self._cache.put(keys[pair], json.dumps({"judge": self.name, **self.about}, sort_keys=True), answer[0])
            known[pair] = answer[1]
            bar.advance()

        if self._concurrency == 1 or len(missing) == 1:
            for pair in missing:
                keep(pair, self._answer(pair))
            return
        waiting, running, failed = iter(missing), {}, []
        with ThreadPoolExecutor(self._concurrency, thread_name_prefix="judge") as pool:
            try:
                while True:
                    for pair in islice(waiting, 0 if failed else self._concurrency - len(running)):
                        running[pool.submit(self._answer, pair)] = pair
                    if not running:
                        break
                    done: set[Future] = wait(running, return_when=FIRST_COMPLETED).done
                    for future in done:
                        pair = running.pop(future)
                        if future.exception() is not None:
                            failed.append(future.exception())
                        else:
                            keep(pair, future.result())
            except BaseException:  # Ctrl-C, for one: the pool waits for those under way, so these shall not try again
                self.hang_up()
                raise
        if failed:
            raise failed[0]

    def _answer(self, pair: Pair) -> tuple[str, Judgement]:
        """An answer that can be used, and what it says."""
        start, conversation, fault = messages(*pair), messages(*pair), None
        for _ in range(self._retries + 1):
            answer = None
            try:
                answer = self.ask(conversation)
                return answer, read_reply(answer, *pair)
            except Unusable as found:
                fault = found
                conversation = [*start, *again(answer, fault)]
        raise HeadflowError(
            f"judge {self.name}: {self._retries + 1} answers about one pair of texts cannot be used, the last because {fault}; "
            f"take a more able model, or raise {self._group}.retries"
        )
