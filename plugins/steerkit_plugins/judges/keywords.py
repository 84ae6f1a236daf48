"""Keywords, found in texts as words, as phrases, and in scripts without spaces."""

from __future__ import annotations

from collections.abc import Sequence

from steerkit.data.words import Word, split_words, with_a_word
from steerkit.errors import SteerkitError


class Keywords:
    """The keywords B of Eq. 1 (arXiv 2507.12638).

    A keyword is read as a text is: as its words (`steerkit.data.words`), so that case, signs around words, apostrophes
    and widths don't matter. It is found wherever its words follow on each other, with nothing but whitespace and signs
    between them; letters of a script without spaces must stand as close together as in the keyword. Matches don't
    overlap: from left to right, the keyword with the most words at each place counts, once.

    Args:
        substring: a keyword of one word is found in every word that contains it; of a phrase, the first word may
            begin earlier and the last one may end later.

    Raises:
        SteerkitError: a keyword without a letter or a digit.
    """

    def __init__(self, keywords: Sequence[str], *, substring: bool = False) -> None:
        try:
            phrases = {_phrase(with_a_word(keyword)) for keyword in keywords}
        except ValueError as error:
            raise SteerkitError(f"keywords: {error}") from error
        self._phrases = sorted(phrases, key=len, reverse=True)
        self._substring = substring
        self._by_first: dict[str, list[tuple[Word, ...]]] = {}
        for phrase in self._phrases:
            self._by_first.setdefault(phrase[0].text, []).append(phrase)

    def places(self, text: str) -> list[tuple[int, int]]:
        """(start, end) characters of each match, in order; whole words with the signs at their edges."""
        return self._matches(split_words(text))

    def rate(self, text: str) -> float:
        """b = matches / N, in [0, 1]; N = words of the text. NaN for a text without words."""
        words = split_words(text)
        return len(self._matches(words)) / len(words) if words else float("nan")

    def _matches(self, words: Sequence[Word]) -> list[tuple[int, int]]:
        spoken = [word for word in words if word.text]
        found, at = [], 0
        while at < len(spoken):
            if size := self._size(spoken, at):
                found.append((spoken[at].start, spoken[at + size - 1].end))
            at += size or 1
        return found

    def _size(self, words: Sequence[Word], at: int) -> int:
        """Words of the longest keyword that begins at a word; 0 when none does."""
        phrases = self._phrases if self._substring else self._by_first.get(words[at].text, ())
        return next((len(phrase) for phrase in phrases if self._fits(phrase, words[at : at + len(phrase)])), 0)

    def _fits(self, phrase: Sequence[Word], words: Sequence[Word]) -> bool:
        if len(words) < len(phrase) or any(
            p.joined and not w.joined for p, w in zip(phrase[1:], words[1:], strict=True)
        ):
            return False
        if not self._substring:
            return all(p.text == w.text for p, w in zip(phrase, words, strict=True))
        first, *middle, last = phrase[0].text, *(p.text for p in phrase[1:-1]), phrase[-1].text
        if len(phrase) == 1:
            return first in words[0].text
        return (
            words[0].text.endswith(first)
            and words[-1].text.startswith(last)
            and middle == [w.text for w in words[1:-1]]
        )


def _phrase(keyword: str) -> tuple[Word, ...]:
    """The words of a keyword; places don't count, `joined` does where letters stand side by side."""
    return tuple(Word(word.text, 0, 0, word.joined) for word in split_words(keyword) if word.text)
