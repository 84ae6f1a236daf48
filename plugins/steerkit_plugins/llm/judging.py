"""What judges that ask a language model have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Iterable, Sequence
from typing import ClassVar, Literal

from steerkit.interfaces import Judge
from steerkit_plugins.llm.batch import Request
from steerkit_plugins.llm.failures import UNUSABLE, Failure, lost
from steerkit_plugins.llm.kept import KeepsAnswers
from steerkit_plugins.llm.options import LLMConfig


class JudgingConfig(LLMConfig):
    how: ClassVar[frozenset[str]] = LLMConfig.how | {"unusable"}

    unusable: Literal["error", "leave-out"] = "error"
    """What becomes of a text whose answer can't be used (refused, cut off, not what was asked for): `error` names them
    all in the end, `leave-out` counts them and goes on without them: they have no spans, or no score."""


class AskingJudge(KeepsAnswers, Judge):
    """A judge whose answers are kept (`LLMConfig.cache`): none is paid for twice, and a run replays offline."""

    Config = JudgingConfig

    def estimate(self, texts: Iterable[str]) -> dict[str, float]:
        """Calls, tokens and dollars (where prices are known) for the texts that were not answered before, about."""
        return self._client.estimate(self._unanswered(written(texts)))

    @abstractmethod
    def _unanswered(self, texts: Sequence[str]) -> Iterable[Request]:
        """What is still to be asked to judge these texts."""

    def _check(self, failures: Collection[Failure], total: int, of: str) -> None:
        """Raises: SteerkitError for failures that may not be left out, counted by kind; what was answered is kept."""
        fatal = [f for f in failures if f.kind not in UNUSABLE or self.config.unusable == "error"]
        if fatal:
            raise lost(self.config, f"{len(fatal):,} of {total:,} {of} have no usable answer", fatal)


def written(texts: Iterable[str]) -> list[str]:
    """The texts that there is something to ask about, each once."""
    return list(dict.fromkeys(text for text in texts if text.strip()))
