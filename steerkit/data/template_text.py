"""Chat templates as text: the date that one asks for, the arguments that it reads, the tags that it writes."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import date

_GIVEN = (
    "messages tools documents add_generation_prompt continue_final_message raise_exception strftime_now namespace "
    "range dict lipsum cycler joiner"
)
GIVEN = frozenset(_GIVEN.split())
"""Names that every template is given."""

_GENERATION = re.compile(r"\{%-?\s*(?:end)?generation\s*-?%\}")
_DIRECTIVES = "%a %A %w %d %-d %e %b %B %m %-m %y %Y %H %I %p %M %S %f %j %U %W %G %u %V %F %D %T %R %c %x %X %z %Z %%"


def pinned(template: str, day: str) -> str:
    """The template with `strftime_now` giving a fixed day at 0:00, so that a run made on another day is the same.

    A macro of that name hides the function. The line break after it is dropped by `trim_blocks`, which transformers
    sets for every template.

    Args:
        day: YYYY-MM-DD.
    """
    if "strftime_now" not in template:
        return template
    given = date.fromisoformat(day)
    parts = "".join(f' | replace("{name}", "{given.strftime(name)}")' for name in _DIRECTIVES.split())
    return f"{{% macro strftime_now(format) %}}{{{{ format{parts} }}}}{{% endmacro %}}\n{template}"


def arguments_of(template: str) -> list[str]:
    """Names that a template reads and is not given: what `chat_template_kwargs` can set.

    Names that it sets itself are its own, unless it first asks whether they are defined.

    Raises:
        jinja2.TemplateError: it is no template.
    """
    from jinja2 import Environment, nodes
    from jinja2.meta import find_undeclared_variables

    parsed = Environment(extensions=["jinja2.ext.loopcontrols"]).parse(_GENERATION.sub("", template))
    own = {name.name for name in parsed.find_all(nodes.Name) if name.ctx == "store"}
    asked = {test.node.name for test in parsed.find_all(nodes.Test) if isinstance(test.node, nodes.Name)}
    return sorted(find_undeclared_variables(parsed) - GIVEN - (own - asked))


_TAG = re.compile(r"<[^<>\s]+>")


def tags_in(text: str, tokens: Iterable[str]) -> list[int]:
    """Where a tag begins in a text: one of these tokens, or ``<...>``."""
    there = [re.compile(re.escape(token)) for token in tokens if token.strip() and token in text]
    return [match.start() for tag in (_TAG, *there) for match in tag.finditer(text)]


def past_tag(text: str) -> int:
    """Where a text goes on behind a tag that it begins with; 0 when it begins with none."""
    rest = _TAG.sub("", text, count=1).lstrip()
    return len(text) - len(rest) if _TAG.match(text) else 0


def shared(a: str, b: str) -> int:
    """How many characters two texts begin with alike."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def repeated_from(opening: str, text: str, places: Iterable[int]) -> int:
    """The first of these places from which on `opening` is what the text begins with; its end when there is none.

    White space at the ends makes no difference, white space alone is no piece, and a word is not cut in two.
    """
    text = text.lstrip()
    for place in sorted(set(places)):
        piece = opening[place:].strip()
        in_a_word = piece[-1:].isalnum() and text[len(piece) : len(piece) + 1].isalnum()
        if piece and text.startswith(piece) and not in_a_word:
            return place
    return len(opening)
