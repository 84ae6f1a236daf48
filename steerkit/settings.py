"""SteeringArguments: everything that says how a run is done. A recipe is these, plus models and prompts.

Names follow HuggingFace's TrainingArguments where the meaning is the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from steerkit.data.words import with_a_word
from steerkit.generation.sampling import MinP, Temperature, TopK, TopP
from steerkit.interfaces import Config
from steerkit.models.devices import PATTERN as DEVICE

if TYPE_CHECKING:
    from steerkit.identity import Identity


T = TypeVar("T", bound="tuple[Any, ...] | str | None")


class Kind(str):
    """Marks a field that names a plugin of this kind."""


class PluginSpec(BaseModel):
    """A plugin by name with its options: ``{name: dom, window: [-13, -8]}``, or the name alone."""

    model_config = ConfigDict(extra="allow", frozen=True)

    name: str

    @model_validator(mode="before")
    @classmethod
    def _name_alone(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.model_extra or {})

    def settings(self, kind: str) -> dict[str, Any]:
        """Name and all options, defaults filled in, without those that change no result (`Config.how`)."""
        from steerkit.identity import options_of

        return {"name": self.name, **options_of(self.build(kind))}

    def identity(self, kind: str, title: str = "") -> Identity:
        """What the plugin's results depend on: its code, all options, and the files that they name."""
        from steerkit.identity import plugin_identity

        return plugin_identity(kind, self.build(kind), title)

    def build(self, kind: str) -> Any:
        """The plugin, built from its options.

        Raises:
            SteerkitError: no such plugin, or options that don't fit it.
        """
        from pydantic import ValidationError

        from steerkit import registry
        from steerkit.errors import InputError, Problem

        cls = registry.get(kind, self.name)
        try:
            return cls(**self.options)
        except ValidationError as error:
            problems = [Problem(".".join(map(str, e["loc"])) or self.name, e["msg"]) for e in error.errors()]
            raise InputError(f"options of {kind[:-1]} {self.name!r}", problems) from error


def _distinct(values: T) -> T:
    """Raises: PydanticCustomError, with the place, when a value stands twice in a list."""
    items = values if isinstance(values, tuple) else ()
    for index, value in enumerate(items):
        if value in items[:index]:
            raise PydanticCustomError("twice", "{value} stands twice", {"value": value, "index": index})
    return values


Role = Literal["base", "reasoning"]
Numbers = Annotated[tuple[float, ...], AfterValidator(_distinct)]
Whole = Annotated[tuple[int, ...], AfterValidator(_distinct)]
Texts = Annotated[tuple[str, ...], AfterValidator(_distinct)]


def _day(text: str) -> str:
    """The text, when it is a day. Raises: ValueError when it is none."""
    try:
        return date.fromisoformat(text).isoformat()
    except ValueError:
        raise ValueError(f"must be a day, YYYY-MM-DD, not {text!r}") from None


class Choose(Config):
    metric: str = "judged_sentences"
    """What the strength is chosen by, on the choose prompts: `judged_sentences` or `judged_uncollapsed` (the span
    judge's), `accuracy`, or a metric that the score judge declares, as the keyword judge's `keyword` (and
    `keyword_uncollapsed`, with collapsed texts counted as unsteered). The best mean wins: the highest where up is
    better, the lowest where down is."""
    max_other: float = Field(default=0.35, ge=0, le=1)
    """A strength is left out when more than this share of its sentences fits no label (text damage) ..."""
    max_collapsed: float = Field(default=0.2, ge=0, le=1)
    """... or more than this share of its generations is collapsed."""


class Offsets(Config):
    starts: Whole = (-40, -34, -27, -20, -13, -8, -4, 0)
    """First token offsets of the windows that are compared; all read the same spans."""
    width: int = Field(default=6, ge=1)
    """Tokens a window."""
    source: Role = "base"
    """Model whose activations the windows are read from (the paper's figure 2: reasoning)."""
    strengths: Annotated[tuple[float, ...] | Literal["all"] | None, AfterValidator(_distinct)] = None
    """Strengths to run: a list, `all` of the recipe's, or the chosen one when left out."""

    def windows(self) -> tuple[tuple[int, int], ...]:
        return tuple((start, start + self.width - 1) for start in self.starts)


class Layers(Config):
    layers: Whole | None = None
    """Blocks whose output is steered, 0-based; every block when left out."""
    sources: Annotated[tuple[Role, ...], AfterValidator(_distinct)] = Field(default=("base",), min_length=1)
    """Models whose vectors are compared (the paper's figure B.1: both)."""
    strengths: Annotated[tuple[float, ...] | Literal["all"] | None, AfterValidator(_distinct)] = None
    """Strengths to run: a list, `all` of the recipe's, or the chosen one when left out."""


class Lens(Config):
    words: tuple[Annotated[str, AfterValidator(with_a_word)], ...] = Field(default=("wait", "but"), min_length=1)
    """B of Eq. 2: the score is the mean logit of the tokens that contain one of these, in any case. Each must be in a
    token of the vocabulary, which phrases seldom are."""
    final_norm: bool = False
    """Send the vector through the model's final norm first."""
    top: int = Field(default=10, ge=1)
    """Tokens listed for each vector, the highest logits first."""


class Projection(Config):
    source: Role = "base"
    """Model that the vector comes from."""
    target: Role | None = None
    """Model whose activations are projected; the vector's own source when left out."""
    within: Whole = Field(default=(1, 2, 4, 8, 16, 32, 64), min_length=1)
    """Tokens ahead: a token counts as a hit when a span with the label begins at most this many tokens later."""

    @property
    def role(self) -> Role:
        return self.target or self.source


class SteeringArguments(Config):
    output_dir: str | None = None
    """Run folder; runs/NAME under the current folder when left out. A recipe file's must lie below the current folder;
    any other is named on the command line (--out)."""
    seed: int = Field(default=0, ge=0)
    """Of prompts, sampling and noise: the same seed and batch plan give the same texts."""
    engine: Annotated[PluginSpec, Kind("engines")] = PluginSpec(name="hf")
    """What generates texts."""
    per_device_batch_size: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    """Rows in a generation batch; when one ends, another takes its place. `auto` measures what fits and is fastest."""
    save_rows: int = Field(default=0, ge=0)
    """Rows that are generated between two saves: what a kill can lose; 0 for eight batches (512 with `auto`)."""
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
        tuple[Literal["tensorboard", "wandb", "mlflow", "aim", "comet_ml", "trackio"], ...], AfterValidator(_distinct)
    ] = ()
    """Experiment trackers that the log also goes to (through accelerate; the package must be installed)."""
    push_to_hub: bool = False
    """Upload the run's vectors when it is done; a recipe file's needs `--allow push`."""
    hub_model_id: str | None = None
    """Where to: USER/NAME; each vector gets a repository of its own, whose name begins with this."""
    hub_private_repo: bool | None = None
    """Whether repositories that are made are private; the hub's default for you when left out."""

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
    """`model`: temperature, top_k, top_p and min_p are those of the reasoning model's own generation_config, for both
    models; the recipe's are not used."""
    samples: int = Field(default=1, ge=1)
    """Steered generations for each prompt and condition."""
    scored: Literal["trace", "output", "everything"] = "trace"
    """Text that the score judge reads: the reasoning, the answer after it too, or the prompt as well (the author's
    code)."""
    per: Literal["words", "tokens"] = "words"
    """What the score judge's rates per word (`share of words`, as b) are per: words, or tokens of the same text. Its
    other metrics stay as they are; where it has no such rate, tokens are refused."""
    think_end: str = "</think>"
    """Text that ends the reasoning; words and sentences after it are not judged. Where the prompt itself has it
    (`enable_thinking: false`), all that is generated counts as the answer."""
    chat: Literal["auto", "yes", "no"] = "auto"
    """Whether prompts go through the chat template; `auto`: when the tokenizer has one."""
    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict)
    """What the chat template is given beside the messages, e.g. `{enable_thinking: false}` (Qwen3) or
    `{reasoning_effort: low}` (gpt-oss). A name that the template never reads is an error."""
    chat_date: Annotated[str, AfterValidator(_day)] = "2024-07-26"
    """Day that a chat template is told when it asks for today's date, YYYY-MM-DD: a run made on another day is the
    same."""

    traces: str | None = None
    """jsonl of traces to use in place of generated ones: steerkit's own, or rows with id, prompt (a text or messages)
    and trace, or with messages whose last one is the trace."""
    spans: str | None = None
    """jsonl of labelled spans to use in place of the judge's: steerkit's own, or rows with id and annotated
    (tagged text), which is aligned to the traces."""
    annotation_labels: tuple[str, ...] | None = None
    """Labels that annotations in `spans` may use (others are rejected and counted); the span judge's when left out."""
    min_coverage: float = Field(default=0.0, ge=0, le=1)
    """Share of a trace's characters that its annotation must cover; the spans of others are left out and counted."""
    span_judge: Annotated[PluginSpec, Kind("judges")]
    """Labels the spans of traces and the sentences of generations."""
    score_judge: Annotated[PluginSpec, Kind("judges")]
    """Gives each generation its numbers, under the names, units and bounds that it declares: the keyword judge b
    (Eq. 1) as `keyword`, a judge of labels each label's share."""
    extractor: Annotated[PluginSpec, Kind("extractors")]
    """Which activations are read."""
    fitter: Annotated[PluginSpec, Kind("fitters")]
    """How a vector is made of them."""
    steerer: Annotated[PluginSpec, Kind("steerers")]
    """How the vector is used."""
    batch_tokens: int = Field(default=8192, ge=1)
    """Padded tokens in an extraction batch."""

    layer: int = Field(ge=0)
    """Decoder block whose output is steered, 0-based (hidden_states[layer + 1])."""
    strengths: Numbers = Field(min_length=1)
    """Multipliers of the fitter's scale; 0, the unsteered run, is always there."""
    tokens: Literal["all", "prompt", "generated"] = "all"
    """Which tokens are steered."""
    baselines: tuple[Annotated[PluginSpec, Kind("steerers")], ...] = ()
    """Steerers that add the same norm at every strength."""
    baseline_labels: Texts = ()
    """Labels whose vectors add the same norm."""
    baseline_fitter: Annotated[PluginSpec, Kind("fitters")] | None = None
    """How these vectors are made; as the fitted one when left out. Window [0, -1] is the labelled tokens themselves."""
    choose: Choose = Choose()
    """How the strength that claims are made at is chosen, on prompts that no claim is made on."""
    transfer: bool = True
    """Both vectors on both models at every strength."""
    offsets: Offsets | None = None
    """Window start × strength; skipped when left out."""
    layers: Layers | None = None
    """Layer × strength; skipped when left out."""
    lens: Lens | None = None
    """Logit-lens scores of the vectors at every layer, and their top tokens; skipped when left out."""
    projection: Projection | None = None
    """Projection of unsteered test texts on the vector, token by token; skipped when left out."""
    agreement: Annotated[PluginSpec, Kind("judges")] | None = None
    """Judge that is held against the span judge, on sentences of test texts at every strength; skipped when left
    out."""
    perplexity: bool = False
    """Read every generation with the unsteered model, for its perplexity."""
    confidence: float = Field(default=0.95, gt=0, lt=1)
    """Level of the intervals (over prompts)."""
    resamples: int = Field(default=2000, ge=100)
    """Bootstrap resamples of texts, for the agreement of judges and for AUROC; means need none."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        both = [name for name in ("top_k", "top_p", "min_p") if getattr(self, name) is not None]
        if self.sampling == "model" and both:
            raise ValueError(f"sampling: model takes the model's own {', '.join(both)}; leave the recipe's out")
        if self.push_to_hub and not self.hub_model_id:
            raise ValueError("push_to_hub needs hub_model_id, the repository to push to")
        if self.device != "auto" and self.device_map is not None:
            raise ValueError("give device or device_map, not both: the one names a device, the other spreads over all")
        if any(s < 0 for s in self.strengths):
            raise ValueError("strengths are not negative here; a negative one is tried with `steerkit generate`")
        if not self.nonzero:
            raise ValueError("strengths needs one above 0; the unsteered run is always there")
        return self

    @property
    def nonzero(self) -> tuple[float, ...]:
        """Strengths without 0."""
        return tuple(s for s in self.strengths if s)

    @classmethod
    def from_recipe(cls, name: str | Path, **changes: Any) -> SteeringArguments:
        """The arguments of a recipe (a file or a shipped one's name), some of them changed.

        Raises:
            InputError: the recipe, or a change, is wrong.
        """
        from steerkit.recipe.load import load_recipe

        recipe = load_recipe(str(name), own=tuple(changes), trust_remote_code="trust_remote_code" in changes)
        data = {**recipe.model_dump(), **changes}
        return cls(**{key: data[key] for key in cls.model_fields})


class Prompts(Config):
    source: Annotated[PluginSpec, Kind("prompts")]
    """Where they come from."""
    extract: int = Field(default=300, ge=1)
    """Prompts whose traces make the vectors."""
    choose: int = Field(default=32, ge=1)
    """Prompts on which the strength is chosen."""
    test: int = Field(default=64, ge=1)
    """Prompts on which claims are made; the three sets are disjoint."""

    def counts(self) -> dict[str, int]:
        return {"extract": self.extract, "choose": self.choose, "test": self.test}


class Recipe(SteeringArguments):
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)
    """Name of the run; letters, digits, dots, dashes; at most 100."""
    about: str = ""
    """What the recipe asks, in a sentence; opens the report."""
    plugins: tuple[str, ...] = ()
    """Local Python files whose plugins the recipe uses, relative to the recipe and inside its folder; others need
    `--allow plugins`."""
    base: str
    """Model before reasoning training: `source:name`, a folder, a .gguf file or a hub id."""
    reasoning: str | None = None
    """Reasoning model made from it; may be the same."""
    adapter: str | None = None
    """PEFT adapter that turns the base into the reasoning model, in place of `reasoning`."""
    id_map: dict[int, int] = Field(default_factory=dict)
    """Reasoning model's id → id that the base reads in its place, for special tokens that differ."""
    prompts: Prompts
    """Prompts of the run."""

    @model_validator(mode="after")
    def _one_reasoning_model(self) -> Self:
        if (self.reasoning is None) == (self.adapter is None):
            raise ValueError("name either `reasoning` or `adapter`")
        return self

    def arguments(self) -> SteeringArguments:
        """The part that doesn't name models or prompts."""
        return SteeringArguments(**{key: getattr(self, key) for key in SteeringArguments.model_fields})


def plugin_fields(model: type[BaseModel]) -> Mapping[tuple[str | int, ...], str]:
    """Path of each field that names a plugin (a list's field too) → its kind."""
    found: dict[tuple[str | int, ...], str] = {}
    for name, info in model.model_fields.items():
        kinds = [m for m in info.metadata if isinstance(m, Kind)]
        for argument in getattr(info.annotation, "__args__", ()):
            kinds += [m for m in getattr(argument, "__metadata__", ()) if isinstance(m, Kind)]
        if kinds:
            found[(name,)] = str(kinds[0])
        elif isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            found |= {(name, *rest): kind for rest, kind in plugin_fields(info.annotation).items()}
    return found
