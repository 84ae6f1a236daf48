"""The contract between the core and its plugins, kind by kind.

Steps and experiments, which a recipe runs and which are made of these, stand in `steerkit.parts`. The contract of
engines, which speaks of token ids and sampling, stands in `steerkit.generation.engine`.

Shapes: B batch rows, T tokens, H hidden width, S spans, O offsets of a window.
A `layer` is a 0-based decoder block, output side: its activations are HF's ``hidden_states[layer + 1]``
(before the final norm). A `window` is inclusive token offsets from a span's first token, negative = before.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from steerkit.data.site import Site
from steerkit.errors import SteerkitError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

    from steerkit.data.trace import Prompt, Span, Trace
    from steerkit.data.windows import WindowStatistics

Need = Literal["means", "squares", "raw"]
"""What a fitter asks of the extraction: sums, sums of squares, or each span's window mean (kept on disk)."""

OWN_TOKENS = (0, -1)
"""The window that is a span's own tokens, first to last; each counts once, so it has no offsets."""

OTHER = "other"
"""Label of spans that fit none of a judge's labels."""

Window = Annotated[tuple[int, int], Field(description="first and last token offset, inclusive")]


class Config(BaseModel):
    """A plugin's options. Every field has a docstring (with its unit): `recipe show` prints it."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)

    how: ClassVar[frozenset[str]] = frozenset()
    """Options that don't affect results (retries, prices); changing them keeps what a run has made."""
    writes: ClassVar[frozenset[str]] = frozenset()
    """Fields that name a folder which the plugin writes to: a recipe's must lie below the current folder."""
    outward: ClassVar[frozenset[str]] = frozenset()
    """Fields that decide which server is asked, and what it is sent; `asks` says it in words."""

    def asks(self) -> str:
        """Which server is sent what, to be allowed; empty for none, this computer, or the plugin's usual one."""
        return ""

    def reads(self) -> Mapping[str, Sequence[Path]]:
        """Field → local files that its value names. When one changes, what was made of it is done again."""
        return {}


class Plugin(ABC):  # noqa: B024  (the kinds below have the abstract methods)
    """Base of all plugins: built from its options by keyword, and it remembers them (for provenance)."""

    Config: ClassVar[type[Config]] = Config
    name: ClassVar[str] = ""  # set when registered
    code: ClassVar[Any] = None  # the same: its `steerkit.code.plugin_code.Code`; None in a notebook

    def __init__(self, **options: Any) -> None:
        self.config: Any = self.Config(**options)

    def replace(self, **options: Any) -> Self:
        """The same plugin with some options changed."""
        return type(self)(**{**self.config.model_dump(), **options})

    def open(self, folder: Path, progress: Callable[[int, int], None]) -> None:  # noqa: B027  (most keep nothing)
        """Called before a run uses the plugin.

        Args:
            folder: where to keep what must outlive the process (answers that were paid for); may not exist yet.
                Plugins of one name share it, also where their options differ: tell apart what you keep there.
            progress: takes (done, total), for work of more than two seconds.
        """

    def notes(self) -> dict[str, Any]:
        """JSON figures on the last call: what was lost, what it cost. They go to the run's log and notes."""
        return {}


class Extractor(Plugin):
    """Chooses the token positions whose activations are read; the core reads them at every layer at once."""

    @abstractmethod
    def windows(self) -> Sequence[tuple[int, int]]:
        """Windows with statistics of their own. A span counts in each one in which it is eligible."""

    @abstractmethod
    def positions(self, trace: Trace, spans: Sequence[Span], window: tuple[int, int]) -> np.ndarray:
        """[S, O] int64 token positions in ``trace.tokens``; a row of -1 drops that span (it is counted)."""

    def once(self, window: tuple[int, int]) -> bool:
        """Whether a position that several spans of a group share in a trace counts once for this window."""
        return window == OWN_TOKENS


class FitterConfig(Config):
    label: str
    """Label of the positive spans."""
    window: Window
    """Inclusive token offsets from a span's first token."""
    scale: Literal["unit", "raw", "mean-norm", "residual-norm"] = "unit"
    """Length of the vector that strength 1 adds: 1 (`unit`), the fitted vector's own (`raw`), that of the
    mean activation (`mean-norm`, Venhoff et al.) or the mean length of the activations (`residual-norm`)."""


class VectorFitter(Plugin):
    """Statistics → one direction a layer. Says beforehand, in `needs`, what it must be given."""

    Config = FitterConfig
    needs: ClassVar[frozenset[Need]] = frozenset({"means"})

    @abstractmethod
    def fit(self, statistics: WindowStatistics) -> Mapping[int, Tensor]:
        """layer → direction [H], float64, not normalised. Positive and other spans are unpaired, n differs."""


@dataclass(frozen=True, slots=True)
class EditContext:
    """Where an edit is applied: R rows of one site's tensor that share an intervention.

    Attributes:
        site: which tensor is edited.
        norm: [R, 1, 1] L2 norm to add, signed, in the tensor's dtype.
        direction: [R, 1, D] unit vector of each row; zeros [R, 1, 1] when the intervention takes none.
        position: [R, T] token index in the row's own sequence, left padding not counted.
        key: [R] int64 hash of (seed, prompt): the only randomness that an intervention may use.
    """

    site: Site
    norm: Tensor
    direction: Tensor
    position: Tensor
    key: Tensor

    @property
    def layer(self) -> int:
        """0-based block that the site belongs to."""
        return self.site.layer


class Intervention(Plugin):
    """Changes what passes a site, forward or backward, or the module there. Has at least one of the three methods.

    The core owns hooks, row and position masks, counting, checks of what comes out, and taking off. The methods are
    pure: what they return depends on their arguments alone.
    """

    direction: ClassVar[Literal["vector", "mean", "none"]] = "none"
    """What `EditContext.direction` holds: the condition's vector, the source's mean activation, or nothing."""

    shares_prefix: ClassVar[bool] = True
    """Whether rows with the same prompt may share the blocks below the first edited site, and rows with the same edits
    one reading of it. False for one that keeps a state from pass to pass: every row's prompt is then read in full."""

    def sites(self, depth: int) -> Sequence[Site]:
        """Where it acts in a model of `depth` blocks, when no site is named; empty: one must be named."""
        return ()

    def forward(self, x: Tensor, at: EditContext) -> Tensor:
        """[R, T, D] → [R, T, D], same dtype and device; never in place."""
        return x

    def backward(self, grad: Tensor, x: Tensor, at: EditContext) -> Tensor:
        """[R, T, D] → [R, T, D]: the gradient that goes on to what was computed before the site.

        Args:
            grad: of the loss with respect to what `forward` returned.
            x: what `forward` was given.
        """
        return grad

    def replace_module(self, site: Site, module: nn.Module) -> nn.Module:
        """The module that stands in for the site's own: for all rows and tokens, while the `with` lasts."""
        return module


class Steerer(Intervention):
    """A pure edit of hidden states, the simplest intervention."""

    direction: ClassVar[Literal["vector", "mean", "none"]] = "vector"

    @abstractmethod
    def edit(self, hidden: Tensor, at: EditContext) -> Tensor:
        """[R, T, H] → [R, T, H], same dtype and device; never in place."""

    def forward(self, x: Tensor, at: EditContext) -> Tensor:
        return self.edit(x, at)


@dataclass(frozen=True)
class Metric:
    """What a number of a judge means. Tables, intervals, claims and reports follow it.

    Attributes:
        name: its key in what `Judge.score` returns, and its name in tables and recipes.
        unit: in words, e.g. ``points 0 to 100``. Where it is ``share of ...`` and the bounds are 0 and 1, reports
            print percent.
        bounds: lowest and highest value that is possible, None for no limit. Values beyond them are an error, and
            intervals end there.
        better: the direction in which a strength is chosen by it and claims are made about it; neither is done
            with a metric that has none.
        title: its name in reports; the name itself when left out.
        about: what it counts, in a line, above the panels of figures; the title when left out.

    Raises:
        SteerkitError: no name or unit, bounds that aren't in order, or another direction.
    """

    name: str
    unit: str
    bounds: tuple[float | None, float | None] = (None, None)
    better: Literal["up", "down", "neither"] = "neither"
    title: str = ""
    about: str = ""

    def __post_init__(self) -> None:
        if not (self.name.strip() and self.unit.strip()):
            raise SteerkitError(f"metric {self.name!r}: needs a name, and a unit in words")
        low, high = self.limits
        if not low < high or any(map(math.isinf, (end or 0.0 for end in self.bounds))):
            raise SteerkitError(
                f"metric {self.name!r}: bounds are (lowest, highest), None for no limit, not {self.bounds}"
            )
        if self.better not in ("up", "down", "neither"):
            raise SteerkitError(f"metric {self.name!r}: better is up, down or neither, not {self.better!r}")

    @property
    def limits(self) -> tuple[float, float]:
        """The bounds, infinite where there is no limit."""
        low, high = self.bounds
        return -math.inf if low is None else low, math.inf if high is None else high

    @property
    def of(self) -> str:
        """What it is a share of (``words``); empty for what isn't a share."""
        before, share, whole = self.unit.partition("share of ")
        return whole if share and not before and self.bounds == (0, 1) else ""


class Judge(Plugin):
    """Texts → labelled spans, and texts → numbers. Keyword, rules, LLM and human judges are interchangeable.

    A judge of spans has `labels` and `annotate`, and its numbers are the shares of its labels. A judge of whole texts
    has `metrics` and `score`.
    """

    labels_texts: ClassVar[bool] = True
    """Whether `annotate` labels any text. False for a judge that labels traces by what they were asked: then no
    sentences of generations are counted."""

    def labels(self) -> Sequence[str]:
        """The labels that `annotate` may answer; what fits none of them is labelled ``other``."""
        return ()

    def annotate(self, texts: Sequence[str]) -> list[list[tuple[int, int, str]]]:
        """For each text its spans in order: (start, end, label), characters, ``text[start:end]``."""
        does = "gives numbers and labels no spans" if self.labels_texts else "labels traces by their prompts, no texts"
        raise SteerkitError(f"judge {self.name!r} {does}; use another one for that")

    def annotate_traces(self, traces: Sequence[Trace]) -> list[list[tuple[int, int, str]]]:
        """The spans of each trace's text, as `annotate` gives them, for a judge that must know the prompts, too."""
        return self.annotate([trace.text for trace in traces])

    def estimate(self, texts: Iterable[str]) -> dict[str, float]:
        """What annotating these texts will take, by unit (calls, tokens, dollars); empty when nothing is paid."""
        return {}

    def metrics(self) -> Sequence[Metric]:
        """What `score` returns: the share of each label's spans, if no subclass has others.

        Claims are made about the first one; about the fitted label's share where these are shares of labels.
        """
        by = f" by {self.name}" if self.name else ""
        return [
            Metric(label, "share of spans", (0.0, 1.0), title=f"spans labelled {label}{by}")
            for label in dict.fromkeys((*self.labels(), OTHER))
        ]

    def score(self, texts: Sequence[str]) -> list[dict[str, float]]:
        """For each text, the values of `metrics` by name; those that it has none of, as an empty text, are left out.

        A name that `metrics` doesn't have, one that no text has, and a value out of bounds end the run.
        """
        labels = self.labels()
        return [label_shares(spans, labels) for spans in self.annotate(texts)]

    def marks(self, texts: Sequence[str]) -> list[list[tuple[int, int]]]:
        """For each text, what `score` counts in it, (start, end) in characters: reports put a box around it."""
        return [[] for _ in texts]


def label_shares(spans: Sequence[tuple[int, int, str]], labels: Sequence[str]) -> dict[str, float]:
    """The share of spans that each label has, and ``other``; empty where there are no spans."""
    found = [label for _, _, label in spans]
    return {name: found.count(name) / len(found) for name in (*labels, OTHER)} if found else {}


class ModelSource(Plugin):
    """Gives `prefix:name` a meaning wherever a model may be named."""

    @abstractmethod
    def path(self, name: str) -> Path:
        """Folder of a transformers model. Raises SteerkitError when there is no such model."""


class PromptSource(Plugin):
    """Where prompts come from."""

    @abstractmethod
    def read(self, counts: Mapping[str, int], seed: int) -> list[Prompt]:
        """`counts[split]` prompts a split, `Prompt.split` set. `assign_splits` does it for a finite list."""

    def at_hand(self) -> bool:
        """Whether `read` only looks into local files: no server is asked, nothing paid. A plan reads then, too."""
        return False

    def correct(self, prompt: Prompt, answer: str) -> float | None:
        """How right an answer to one of this source's prompts is.

        Args:
            prompt: as `read` gave it, maybe in another process.
            answer: what the model wrote after the end of its reasoning, marker left out; empty when it got no further.

        Returns:
            From 0 (wrong) to 1 (right); None when this source can't tell, as here.
        """
        return None


def checks_answers(source: PromptSource | type[PromptSource] | None) -> bool:
    """Whether a prompt source can say that an answer is right."""
    cls = source if isinstance(source, type) or source is None else type(source)
    return cls is not None and cls.correct is not PromptSource.correct
