"""pySBD's English rules, without those parts that lose characters or take quadratic or exponential time.

* Each list item and each abbreviation is replaced in the whole text once for every time that it occurs. Once is
  enough: all its occurrences are replaced at once.
* The pattern for references ("end.[12] The") tries every way to cut a run of digits.
* A backslash and an n behind four spaced dots, and two marks at the end ("? !!"), are lost.
"""

from __future__ import annotations

from typing import Any

from pysbd.lang.english import English
from pysbd.lists_item_replacer import ListItemReplacer
from pysbd.processor import Processor
from pysbd.utils import Rule, Text

_NUMBER = r"\d++(?=[,\s-]),?+\s?+-?+\s?+"  # and what separates it from the next: there is one way to match it
_NUMBERS = rf"\[((?:{_NUMBER})*+)\d{{1,3}}\]"


class _Abbreviations(English.AbbreviationReplacer):
    def search_for_abbreviations_in_string(self, text: str) -> str:
        self._replaced: set[str] = set()
        return str(super().search_for_abbreviations_in_string(text))

    def scan_for_replacements(self, txt: str, am: str, ind: int, char_array: list[str]) -> str:
        name = am.strip()
        prepositive = name.lower() in self.lang.Abbreviation.PREPOSITIVE_ABBREVIATIONS
        if name in self._replaced or (ind < len(char_array) and char_array[ind].isupper() and not prepositive):
            return txt
        self._replaced.add(name)
        return str(super().scan_for_replacements(txt, am, ind, char_array))


class _Lists(ListItemReplacer):
    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._replaced: set[tuple[Any, ...]] = set()

    def substitute_found_list_items(self, regex: str, each: int, strip: bool, replacement: str) -> None:
        if self._is_new(regex, each, replacement):
            super().substitute_found_list_items(regex, each, strip, replacement)

    def replace_correct_alphabet_list(self, a: str, parens: bool) -> str:
        return str(super().replace_correct_alphabet_list(a, parens) if self._is_new(a, parens) else self.text)

    def _is_new(self, *item: Any) -> bool:
        known = item in self._replaced
        self._replaced.add(item)
        return not known


class _Ellipses(English.EllipsisRules):
    All = [  # noqa: RUF012
        Rule(r"(?<=[a-z])(\.\s){3}\.$", rule.replacement) if rule is English.EllipsisRules.FourSpaceRule else rule
        for rule in English.EllipsisRules.All
    ]


class EnglishRules(English):
    AbbreviationReplacer = _Abbreviations
    EllipsisRules = _Ellipses
    SENTENCE_BOUNDARY_REGEX = English.SENTENCE_BOUNDARY_REGEX + "|[☉☈☇☄]"
    NUMBERED_REFERENCE_REGEX = rf"(?<=[^\d\s])(\.|∯)(({_NUMBERS})+|((\d{{1,3}}\s?)?\d{{1,3}}))(\s)(?=[A-Z])"


class _Processor(Processor):
    text: str

    def process(self) -> list[str]:
        """As pySBD's, with the list items above."""
        self.text = _Lists(self.text.replace("\n", "\r")).add_line_break()
        self.replace_abbreviations()
        self.replace_numbers()
        self.replace_continuous_punctuation()
        self.replace_periods_before_numeric_references()
        self.text = Text(self.text).apply(
            self.lang.Abbreviation.WithMultiplePeriodsAndEmailRule, self.lang.GeoLocationRule, self.lang.FileFormatRule
        )
        return list(self.split_into_segments())


def split(text: str) -> list[str]:
    """Sentences of a text, as pySBD writes them: whitespace between and inside them may differ from the text's."""
    return _Processor(text, EnglishRules).process() if text else []
