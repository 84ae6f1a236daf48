"""Settings of a run: those of the run itself, and groups that several steps share.

A recipe's keys at the top are the fields of `RunArguments` and of the groups that its steps use; a step's own options
stand under its name. Names follow HuggingFace's TrainingArguments where the meaning is the same.
"""

from __future__ import annotations

from datetime import date
from os import PathLike, fspath
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from steerkit.artifacts import Kind, PluginSpec
from steerkit.generation.sampling import MinP, Temperature, TopK, TopP
from steerkit.interfaces import Config
from steerkit.models.devices import PATTERN as DEVICE
from steerkit.models.model_spec import ModelSpec

T = TypeVar("T", bound="tuple[Any, ...] | str | None")


def distinct(values: T) -> T:
    """Raises: PydanticCustomError, with the place, when a value stands twice in a list."""
    items = values if isinstance(values, tuple) else ()
    for index, value in enumerate(items):
        if value in items[:index]:
            raise PydanticCustomError("twice", "{value} stands twice", {"value": value, "index": index})
    return values


Numbers = Annotated[tuple[float, ...], AfterValidator(distinct)]
Whole = Annotated[tuple[int, ...], AfterValidator(distinct)]
Texts = Annotated[tuple[str, ...], AfterValidator(distinct)]
Judge = Annotated[PluginSpec, Kind("judges")]


def _text_of_path(value: Any) -> Any:
    """A path as text: code has Path objects."""
    return fspath(value) if isinstance(value, PathLike) else value


def _day(text: str) -> str:
    """The text, when it is a day. Raises: ValueError when it is none."""
    try:
        return date.fromisoformat(text).isoformat()
    except ValueError:
        raise ValueError(f"must be a day, YYYY-MM-DD, not {text!r}") from None


class RunArguments(Config):
    """What no step's result depends on, and what all depend on: the folder, the seed, how models are loaded."""

    output_dir: Annotated[str | None, BeforeValidator(_text_of_path)] = None
    """Run folder; runs/NAME under the current folder when left out. A recipe file's must lie below the current folder;
    any other is named on the command line (--out)."""
    seed: int = Field(default=0, ge=0)
    """Of prompts, sampling and noise: the same seed gives the same texts."""
    executor: Annotated[PluginSpec, Kind("executors")] = PluginSpec(name="local")
    """Where large steps do their work: `local`, in this process, or `ray`, on as many machines as there are."""
    bf16: bool = False
    """bfloat16 weights and activations (statistics stay float64)."""
    attn_implementation: str | None = None
    """transformers' attention (`sdpa`, `flash_attention_2`, `eager`, ...); its own choice when left out."""
    torch_compile: bool = False
    """Compile the blocks' feed-forward parts: a minute or more at first, and on a CPU no gain was measured."""
    device: str = Field(default="auto", pattern=rf"^{DEVICE}$")
    """Where models run: `cpu`, `cuda`, `cuda:1`, `mps`, `xpu`; `auto` is what accelerate finds: a GPU, else the CPU."""
    device_map: str | None = None
    """accelerate's placement over several devices (`auto`, `balanced`, ...), in place of `device`."""
    threads: int = Field(default=0, ge=0)
    """CPU threads; 0 measures which count is fastest."""
    trust_remote_code: bool = False
    """Run Python code that a model repository brings along; a recipe's needs --trust-remote-code, too."""
    report_to: Annotated[
        tuple[Literal["tensorboard", "wandb", "mlflow", "aim", "comet_ml", "trackio"], ...], AfterValidator(distinct)
    ] = ()
    """Experiment trackers that the log also goes to (through accelerate; the package must be installed)."""
    disable_tqdm: bool = False
    """Show no progress: neither bars (lines where there is no terminal) nor the line at the end. Errors are told."""
    push_to_hub: bool = False
    """Upload the run's vectors when it is done; a recipe file's needs `--allow push`."""
    hub_model_id: str | None = None
    """Where to: USER/NAME; each vector gets a repository of its own, whose name begins with this."""
    hub_private_repo: bool | None = None
    """Whether repositories that are made are private; the hub's default for you when left out."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.push_to_hub and not self.hub_model_id:
            raise ValueError("push_to_hub needs hub_model_id, the repository to push to")
        if self.device != "auto" and self.device_map is not None:
            raise ValueError("give device or device_map, not both: the one names a device, the other spreads over all")
        return self


class Generating(Config):
    """How texts are generated."""

    engine: Annotated[PluginSpec, Kind("engines")] = PluginSpec(name="hf")
    """What generates texts."""
    per_device_batch_size: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    """Rows in a generation batch; when one ends, another takes its place. `auto` measures what fits and is fastest."""
    save_rows: int = Field(default=0, ge=0)
    """Rows that are generated between two saves: what a kill can lose; 0 for eight batches (512 with `auto`)."""
    max_new_tokens: int = Field(default=500, ge=1)
    """Tokens a trace and a steered generation may have."""
    temperature: Temperature = 0.7
    """Of the sampling; 0 is greedy."""
    top_k: TopK | None = None
    """Sample from this many of the likeliest tokens; from all when left out."""
    top_p: TopP | None = None
    """Sample from the likeliest tokens, as few as have this probability together (R1's makers: 0.95)."""
    min_p: MinP | None = None
    """Sample from tokens at least this many times as likely as the likeliest. Order: top_k, top_p, min_p."""
    sampling: Literal["recipe", "model"] = "recipe"
    """`model`: temperature, top_k, top_p and min_p are those of the writer's own generation_config, for all models; the
    recipe's are not used."""

    @model_validator(mode="after")
    def _one_sampling(self) -> Self:
        both = [name for name in ("top_k", "top_p", "min_p") if getattr(self, name) is not None]
        if self.sampling == "model" and both:
            raise ValueError(f"sampling: model takes the model's own {', '.join(both)}; leave the recipe's out")
        return self


class Chatting(Config):
    """How prompts become ids, and where the reasoning in a text ends."""

    chat: Literal["auto", "yes", "no"] = "auto"
    """Whether prompts go through the chat template; `auto`: when the tokenizer has one."""
    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict)
    """What the chat template is given beside the messages, e.g. `{enable_thinking: false}` (Qwen3) or
    `{reasoning_effort: low}` (gpt-oss). A name that the template never reads is an error."""
    chat_date: Annotated[str, AfterValidator(_day)] = "2024-07-26"
    """Day that a chat template is told when it asks for today's date, YYYY-MM-DD: a run made on another day is the
    same."""
    think_end: str = "</think>"
    """Text that ends the reasoning; words and sentences after it are not judged. Where the prompt itself has it
    (`enable_thinking: false`), all that is generated counts as the answer."""


class Labelling(Config):
    """Who labels sentences."""

    span_judge: Judge
    """Labels the spans of traces and the sentences of generations."""


class Scoring(Config):
    """Which numbers a generation gets."""

    score_judge: Judge
    """Gives each generation its numbers, under the names, units and bounds that it declares: the keyword judge b
    (Eq. 1) as `keyword`, a judge of labels each label's share."""
    scored: Literal["trace", "output", "everything"] = "trace"
    """Text that the score judge reads: the reasoning, the answer after it too, or the prompt as well."""
    per: Literal["words", "tokens"] = "words"
    """What the score judge's rates per word (`share of words`, as b) are per: words, or tokens of the same text. Its
    other metrics stay as they are; where it has no such rate, tokens are refused."""
    perplexity: bool = False
    """Read every generation with the unsteered model, for its perplexity."""


class Reading(Config):
    """Which activations are read."""

    how = frozenset({"batch_tokens"})

    extractor: Annotated[PluginSpec, Kind("extractors")]
    """Which activations are read."""
    batch_tokens: int = Field(default=8192, ge=1)
    """Padded tokens in an extraction batch."""


class Drawing(Config):
    """What a vector is held against: pseudo-labels and folds, summed in the same reading."""

    draws: int = Field(default=20, ge=0)
    """Labels shuffled within each trace, and over all traces, so many times each: the scale of cosines. 0 for none."""
    folds: int = Field(default=20, ge=0)
    """Folds of whole traces: how reliable a vector is, and what it tells of traces that it is not fitted to. 0 for
    none, else 2 or more."""

    @model_validator(mode="after")
    def _two_folds(self) -> Self:
        if self.folds == 1:
            raise ValueError("folds: one fold can't be held against another; 0 for none, or 2 and more")
        return self


class Fitting(Config):
    """How vectors are made."""

    fitter: Annotated[PluginSpec, Kind("fitters")]
    """How a vector is made of the activations."""


class Steering(Config):
    """How vectors are used."""

    steerer: Annotated[PluginSpec, Kind("steerers")] = PluginSpec(name="residual-add")
    """How the vector is used."""
    layer: int = Field(ge=0)
    """Decoder block whose output is steered, 0-based (hidden_states[layer + 1])."""
    strengths: Numbers = Field(min_length=1)
    """Multipliers of the fitter's scale; 0, the unsteered run, is always there."""
    tokens: Literal["all", "prompt", "generated"] = "all"
    """Which tokens are steered."""

    @model_validator(mode="after")
    def _strengths(self) -> Self:
        if any(s < 0 for s in self.strengths):
            raise ValueError("strengths are not negative here; a negative one is tried with `steerkit generate`")
        if not self.nonzero:
            raise ValueError("strengths needs one above 0; the unsteered run is always there")
        return self

    @property
    def nonzero(self) -> tuple[float, ...]:
        """Strengths without 0."""
        return tuple(s for s in self.strengths if s)


class Samples(Config):
    """How many texts."""

    samples: int = Field(default=1, ge=1)
    """Steered generations for each prompt and condition."""


class Intervals(Config):
    """How sure a figure is."""

    confidence: float = Field(default=0.95, gt=0, lt=1)
    """Level of the intervals (over prompts)."""
    resamples: int = Field(default=2000, ge=100)
    """Bootstrap resamples of texts, for the agreement of judges and for AUROC; means need none."""


class SteeringArguments(RunArguments):
    """Everything that says how a run is done: the run's own settings, and those of the steps that it uses.

    Fields beside the ones below are checked when a `SteeringTrainer` is made of them: shared settings
    (`max_new_tokens`, `strengths`, ...) and, under a step's or an experiment's name, its own.
    """

    model_config = ConfigDict(extra="allow")

    writer: str = ""
    """Name of the model that writes the traces. Its tokenizer and chat template make ids of prompts; where there is one
    model it is that one."""
    experiments: tuple[Annotated[PluginSpec, Kind("experiments")], ...] = ()
    """What is asked, in the order of the report: names of experiments (`steerkit experiment ls`)."""

    @property
    def shared(self) -> dict[str, Any]:
        """Shared settings and steps' own, as given."""
        return dict(self.model_extra or {})


class Recipe(SteeringArguments):
    """SteeringArguments, with the models and a name."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)
    """Name of the run, the recipe file's when left out; letters, digits, dots, dashes; at most 100."""
    about: str = ""
    """What the recipe asks, in a sentence; opens the report. It is not taken from a recipe that is extended."""
    plugins: tuple[str, ...] = ()
    """Local Python files whose plugins the recipe uses, relative to the recipe and inside its folder; others need
    `--allow plugins`."""
    models: dict[str, ModelSpec] = Field(min_length=1)
    """Models of the run by name."""
