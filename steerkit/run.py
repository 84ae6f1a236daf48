"""SteeringTrainer: the object behind a recipe. Built from a pair, arguments and prompts; one verb, `run`."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import closing, suppress
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from steerkit import steps as stages
from steerkit.callbacks import CallbackList, JsonlLog, SteeringCallback, Trackers
from steerkit.data.chat_format import ChatFormat
from steerkit.data.rows import as_prompts
from steerkit.data.trace import Prompt
from steerkit.errors import SteerkitError
from steerkit.generation.engine import Engine
from steerkit.generation.generation_config import sampling_for
from steerkit.generation.sampling import Sampling
from steerkit.generation.stream import end_ids
from steerkit.identity import Identity, keyed, made_of, within
from steerkit.interfaces import Judge
from steerkit.judging.metrics import run_metrics
from steerkit.merging import take_over
from steerkit.methods import Methods
from steerkit.models.hub import repo_for
from steerkit.models.pair import ModelPair, load_pair
from steerkit.models.threads import fastest_thread_count
from steerkit.provenance import settings_of, write_recipe
from steerkit.settings import PluginSpec, Recipe, SteeringArguments
from steerkit.shards import Parts, PartsMissing, Shard
from steerkit.sources import PromptSource, checks_answers
from steerkit.store.files import digest
from steerkit.store.folder import RunFolder

T = TypeVar("T")


class SteeringTrainer:
    """Runs prompts → traces → spans → statistics → vectors → steered generations → results → report.

    Every stage writes its artifact to the run folder the moment it exists; `run` again goes on where it stopped.

    Args:
        base: model before reasoning training: a name, or a LanguageModel.
        reasoning: the reasoning model; None with `adapter`.
        args: how it is done; `SteeringArguments.from_recipe("backtracking")` is a start.
        prompts: texts, chats (lists of messages), mappings, Prompts or a data set (dealt to the splits by the seed), or
            a PluginSpec that names a prompt source.
        counts: prompts a split (extract, choose, test); a third of a list each when left out.
        adapter: PEFT adapter that makes the base the reasoning model.
        id_map: see `ModelPair`.
        callbacks: SteeringCallbacks.
        name: of the run; names the default folder.
        about: the question, in a sentence; opens the report.
        update: let changed arguments take over a folder; stages whose inputs are the same are kept.
        shard: this process's share of the run, where several make it together; as torchrun or accelerate launch
            say when left out, else all of it.

    Raises:
        SteerkitError: a plugin is unknown or its options don't fit, or the judges' labels or metrics don't.
    """

    def __init__(
        self,
        base: Any,
        reasoning: Any = None,
        *,
        args: SteeringArguments,
        prompts: Any,
        counts: Mapping[str, int] | None = None,
        adapter: str | None = None,
        id_map: Mapping[int, int] | None = None,
        callbacks: Sequence[SteeringCallback] = (),
        name: str = "steering",
        about: str = "",
        update: bool = False,
        shard: Shard | None = None,
    ) -> None:
        self.args, self.name, self.about = args, name, about
        self.methods = Methods.of(args)
        self.models = (base, reasoning, adapter, dict(id_map or {}))
        self.prompts = prompts if isinstance(prompts, PluginSpec) else as_prompts(prompts)
        self.source: PromptSource | None = None
        self.given: Sequence[Prompt] = ()  # prompts that came without a source
        if isinstance(self.prompts, PluginSpec):
            self.source = self.prompts.build("prompts")
        else:
            self.given = self.prompts
        self.counts = dict(counts or _default_counts(self.prompts))
        self.shard = shard or Shard.of()
        self.folder = RunFolder(Path(args.output_dir or f"runs/{name}"), self.shard)
        if args.report_to and self.shard.count > 1:
            raise SteerkitError(
                "report_to: trackers follow a run by one process; leave it out (log.jsonl in the run folder has all "
                "figures, of every shard)"
            )
        trackers = [Trackers(args.report_to)] if args.report_to else []
        self.events = CallbackList([JsonlLog(), *trackers, *callbacks])
        self.span_judge = self.judge(args.span_judge)
        self.score_judge = self.judge(args.score_judge)
        self.extractor = args.extractor.build("extractors")
        self.fitter = args.fitter.build("fitters")
        self.metrics = run_metrics(
            args, self.span_judge, self.score_judge, label=self.fitter.config.label, answers=checks_answers(self.source)
        )
        self._engine: Engine = args.engine.build("engines")
        self.baseline_fitter = (args.baseline_fitter or args.fitter).build("fitters")
        self.needs = self.fitter.needs | self.baseline_fitter.needs
        self.keys: dict[str, str] = {}  # stage → digest of everything its result depends on
        self._stage = ""
        self._told = "", 0.0  # what is waited for, and when it was said
        self._update = update

    @classmethod
    def from_recipe(
        cls,
        recipe: Recipe,
        *,
        callbacks: Sequence[SteeringCallback] = (),
        update: bool = False,
        shard: Shard | None = None,
    ) -> SteeringTrainer:
        """The trainer that a recipe describes."""
        return cls(
            recipe.base,
            recipe.reasoning,
            args=recipe.arguments(),
            prompts=recipe.prompts.source,
            counts=recipe.prompts.counts(),
            adapter=recipe.adapter,
            id_map=recipe.id_map,
            callbacks=callbacks,
            name=recipe.name,
            about=recipe.about,
            update=update,
            shard=shard,
        )

    @cached_property
    def pair(self) -> ModelPair:
        """Both models, loaded when first needed."""
        base, reasoning, adapter, id_map = self.models
        self.shard.take_devices(self.args.device_map, self.args.device)
        return load_pair(
            base,
            reasoning,
            adapter=adapter,
            id_map=id_map,
            bf16=self.args.bf16,
            device=self.args.device,
            device_map=self.args.device_map,
            trust_remote_code=self.args.trust_remote_code,
            attn_implementation=self.args.attn_implementation,
            torch_compile=self.args.torch_compile,
        )

    @cached_property
    def identities(self) -> dict[str, Identity]:
        """What results depend on besides the arguments, as it is when a run begins: plugins' code, files, models."""
        return stages.identities(self)

    @cached_property
    def engine(self) -> Engine:
        """What generates, started when first needed."""
        args = self.args
        loaded = {"bf16": args.bf16, "device_map": args.device_map, "trust_remote_code": args.trust_remote_code}
        self._engine.start(self.pair, loaded)
        return self._engine

    @cached_property
    def sampling(self) -> Sampling:
        """How texts are sampled: as the arguments say, or as the reasoning model's generation_config does.

        Raises:
            SteerkitError: the model's own is asked for, and it has none, or one that can't be followed.
        """
        lm = self.pair.reasoning
        return sampling_for(self.args, lm.name, lambda: getattr(lm.model, "generation_config", None))

    def decoding(self, *roles: str) -> list[Any]:
        """JSON of how these models' texts are drawn, and of the token ids that end them: part of a stage's key."""
        return [self.sampling.model_dump(), *(end_ids(self.pair[role]) for role in roles)]

    @cached_property
    def chats(self) -> ChatFormat:
        """How prompts become ids, by the reasoning model's tokenizer."""
        args = self.args
        return ChatFormat(self.pair.reasoning.tokenizer, args.chat, args.chat_template_kwargs, args.chat_date)

    def run(self, merge: Sequence[Path] = ()) -> Path:
        """Do what is not done yet.

        Args:
            merge: folders in which other shards of this run worked; what they have done is taken over first.

        Returns:
            The run folder.

        Raises:
            PartsMissing: this shard has done what it can, and doesn't wait for the others.
            SteerkitError: something is wrong with the input, in words; what is done stays on disk.
        """
        with self.folder, closing(self._engine):
            self._check_layers()
            self.identities = stages.identities(self)  # files may have changed since an earlier run of this object
            sampling = self.sampling
            self.chats.settings()  # a wrong template argument is found before anything is written or paid for
            with self.folder.held():
                self.folder.claim(settings_of(self), self._update, made_of=self.identities.values())
                for other in merge:
                    take_over(self.folder, other)
                write_recipe(self)
            self.events.on_run_begin(self)
            if self.args.sampling == "model":
                self.log(sampling=sampling.model_dump(exclude_none=True), sampling_of=self.pair.reasoning.name)
            prompts = stages.prompts(self)
            stages.chats(self, prompts)
            traces = stages.traces(self, [p for p in prompts if p.split == "extract"])
            spans = stages.spans(self, traces)
            vectors = stages.vectors(self, traces, spans)
            stages.lens(self, vectors)
            chosen, choosing = stages.choose(self, prompts, vectors)
            testing = stages.test(self, prompts, vectors, chosen)
            stages.projection(self, prompts, vectors)
            stages.perplexity(self, prompts)
            stages.agreement(self, vectors)
            stages.results(self, prompts, vectors, chosen, [*choosing, *testing])
            stages.report(self)
            if self.args.push_to_hub:
                with self.folder.held():  # the second shard finds the same files there
                    for key, vector in vectors.items():
                        name = repo_for(str(self.args.hub_model_id), key.file)
                        vector.push_to_hub(name, private=self.args.hub_private_repo)
            with suppress(OSError):
                (self.folder / "parts").rmdir()
            self.events.on_run_end(self)
        return self.folder.path

    def stage(
        self,
        name: str,
        inputs: Any,
        make: Callable[[str], tuple[T, list[str]]],
        read: Callable[[], T],
        *,
        part: Callable[[], None] | None = None,
        sealed: bool | Collection[str] = True,
    ) -> T:
        """Run a stage, or read what it left when it was done before for the same inputs.

        One process does a stage while the other shards wait, except for its parts, which they make at the same time.

        Args:
            inputs: all that the result depends on, JSON and `Identity`; its digest is the stage's key.
            make: key → (value, names of the files it wrote); finds all `parts` there.
            read: the value of files that are there already.
            part: fills this process's part, `parts(name).growing`, and goes on with what is there.
            sealed: whether a file that was changed afterwards is an error; or the names of the files of which it is.
        """
        inputs = [self.identities["steerkit"], inputs]
        key = self.keys[name] = digest(keyed(inputs))
        used = list(within(inputs))
        parts = self.parts(name)
        began = 0.0
        while True:
            with self.folder.held(lambda: self._tell(name, "another shard, which does what is done once for all")):
                if self.folder.is_done(name, key):
                    parts.remove()
                    value = read()
                    self.events.on_stage_end(self, name, True)
                    return value
                if not began:
                    began = time.monotonic()
                    self._stage = name
                    if changed := self.folder.changed(name, used):
                        self.log(stage=name, again=f"{', '.join(changed)} since this run")
                    self.events.on_stage_begin(self, name)
                missing = parts.missing() if part else []
                if not missing:
                    value, files = make(key)
                    seconds = time.monotonic() - began
                    self.folder.finish(name, key, files, seconds, sealed=sealed, made_of=made_of(used))
                    parts.remove()
                    self.events.on_stage_end(self, name, False)
                    return value
            if part and self.shard.index in missing:
                part()
                parts.growing.replace(parts.own)
            else:
                self._wait_for(name, missing)

    def parts(self, stage: str) -> Parts:
        """The parts that shards make of a stage whose inputs are known."""
        return Parts(self.folder.path, stage, self.keys[stage], self.shard)

    def _wait_for(self, stage: str, missing: Sequence[int]) -> None:
        """Wait a moment for the parts of other shards. Raises: PartsMissing when this one doesn't wait."""
        names = [f"{index}/{self.shard.count}" for index in missing]
        if not self.shard.wait:
            raise PartsMissing(
                f"shard {self.shard} has done its part of {stage!r}; not there yet: shard {', '.join(names)}. The same "
                "command goes on when they are (--wait waits for them; --merge FOLDER takes parts from another folder)"
            )
        self._tell(stage, f"the part of shard {', '.join(names)}", names)
        time.sleep(1)

    def _tell(self, stage: str, what: str, names: Sequence[str] = ()) -> None:
        """Say what is waited for: when it changes, and every minute."""
        if self._told[0] == what and time.monotonic() < self._told[1] + 60:
            return
        running = self.folder.running() if names else {}
        idle = [name for name in names if name not in running]
        self._told = what, time.monotonic()
        self.events.on_wait(self, stage, what + (f" ({', '.join(idle)} is not running now)" if idle else ""))

    def log(self, **values: Any) -> None:
        """Send figures to the log, and to whoever listens."""
        self.events.on_log(self, values)

    def progress(self, done: int, total: int) -> None:
        """Tell whoever listens how far the stage is that is under way."""
        self.events.on_progress(self, self._stage, done, total)

    def log_estimate(self, judge: Judge, texts: Sequence[str]) -> None:
        """Log what a judge will take for these texts, before it is asked."""
        if estimate := judge.estimate(texts):
            self.log(judge=judge.name, estimate=estimate)

    def thread_count(self) -> int:
        """CPU threads to generate with: as told, else measured."""
        lm, rows = self.pair.reasoning, self.args.per_device_batch_size
        return self.args.threads or fastest_thread_count(lm.width, 64 if rows == "auto" else rows, lm.device)

    def judge(self, spec: PluginSpec) -> Judge:
        """A judge that keeps what it must in the run folder."""
        judge: Judge = spec.build("judges")
        judge.open(self.folder / f"judges/{spec.name}", self.progress)
        return judge

    def _check_layers(self) -> None:
        self.pair.reasoning.check_layer(self.args.layer)
        for layer in (self.args.layers.layers or ()) if self.args.layers else ():
            self.pair.reasoning.check_layer(layer, "layers.layers")


def _default_counts(prompts: Any) -> dict[str, int]:
    if isinstance(prompts, PluginSpec):
        return {"extract": 300, "choose": 32, "test": 64}
    third = len(prompts) // 3
    return {"extract": len(prompts) - 2 * third, "choose": third, "test": third}
