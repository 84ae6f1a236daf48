"""SteeringTrainer: the object behind a recipe. Built from a pair, arguments and prompts; one verb, `run`."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from steerkit.arguments import PluginSpec, Recipe, SteeringArguments
from steerkit.callbacks import CallbackList, JsonlLog, SteeringCallback, Trackers
from steerkit.conditions import Condition, Experiment, Planner, VectorKey, distinct
from steerkit.errors import SteerkitError
from steerkit.files import atomic, digest, write_json
from steerkit.folder import RunFolder
from steerkit.pair import ModelPair, load_pair
from steerkit.sources import as_prompts, assign_splits, check_splits
from steerkit.stages import (
    generations,
    results,
)
from steerkit.stages import (
    spans as span_stage,
)
from steerkit.stages import (
    traces as trace_stage,
)
from steerkit.stages import (
    vectors as vector_stage,
)
from steerkit.stages.batches import generate_all
from steerkit.statistics import ActivationStatistics
from steerkit.threads import fastest_thread_count, use_threads
from steerkit.trace import Prompt, Span, Trace, read_rows, write_rows
from steerkit.vector import SteeringVector

PACKAGES = (
    "steerkit-hf",
    "torch",
    "transformers",
    "accelerate",
    "peft",
    "datasets",
    "evaluate",
    "numpy",
    "scipy",
)
NOT_PART = ("output_dir", "report_to", "push_to_hub", "hub_model_id", "threads")  # they change no result


class SteeringTrainer:
    """Runs prompts → traces → spans → statistics → vectors → steered generations → results → report.

    Every stage writes its artifact to the run folder the moment it exists; `run` again goes on where it stopped.

    Args:
        base: model before reasoning training: a name, or a LanguageModel.
        reasoning: the reasoning model; None with `adapter`.
        args: how it is done; `SteeringArguments.from_recipe("backtracking")` is a start.
        prompts: strings, mappings, Prompts or a data set (dealt to the splits by the seed), or a PluginSpec of a
            prompt source with the number of prompts a split.
        adapter: PEFT adapter that makes the base the reasoning model.
        id_map: see `ModelPair`.
        callbacks: SteeringCallbacks.
        name: of the run; names the default folder.
        counts: prompts a split; for a list of prompts a third each when left out.
        update: let changed arguments take over a folder; stages whose inputs are the same are kept.
    """

    def __init__(
        self,
        base: Any,
        reasoning: Any = None,
        *,
        args: SteeringArguments,
        prompts: Any,
        adapter: str | None = None,
        id_map: dict[int, int] | None = None,
        callbacks: Sequence[SteeringCallback] = (),
        name: str = "steering",
        about: str = "",
        counts: dict[str, int] | None = None,
        update: bool = False,
    ) -> None:
        self.args = args
        self.name, self.about = name, about
        self._models = (base, reasoning, adapter, id_map or {})
        self._prompts = prompts
        self._counts = counts
        self._update = update
        self.folder = RunFolder(Path(args.output_dir or f"runs/{name}"))
        trackers = [Trackers(args.report_to)] if args.report_to else []
        self.events = CallbackList([JsonlLog(), *trackers, *callbacks])
        self.span_judge = args.span_judge.build("judges")
        self.score_judge = args.score_judge.build("judges")
        self.extractor = args.extractor.build("extractors")
        self.fitter = args.fitter.build("fitters")
        self.experiments: list[Experiment] = []
        self._keys: dict[str, str] = {}  # stage → digest of everything its result depends on

    @classmethod
    def from_recipe(
        cls, recipe: Recipe, *, callbacks: Sequence[SteeringCallback] = (), update: bool = False
    ) -> SteeringTrainer:
        """The trainer that a recipe describes."""
        return cls(
            recipe.base,
            recipe.reasoning,
            args=recipe.arguments(),
            prompts=recipe.prompts.source,
            counts=recipe.prompts.counts(),
            adapter=recipe.adapter,
            id_map=dict(recipe.id_map),
            callbacks=callbacks,
            name=recipe.name,
            about=recipe.about,
            update=update,
        )

    @cached_property
    def pair(self) -> ModelPair:
        """Both models, loaded when first needed."""
        base, reasoning, adapter, id_map = self._models
        return load_pair(
            base, reasoning, adapter=adapter, id_map=id_map, bf16=self.args.bf16, device_map=self.args.device_map,
            trust_remote_code=self.args.trust_remote_code,
        )  # fmt: skip

    def run(self) -> Path:
        """Do what is not done yet.

        Returns:
            The run folder.

        Raises:
            SteerkitError: something is wrong with the input, in words; what is done stays on disk.
        """
        with self.folder:
            self.pair.reasoning.check_layer(self.args.layer)
            for layer in (self.args.layers.layers or ()) if self.args.layers else ():
                self.pair.reasoning.check_layer(layer, "layers.layers")
            self.folder.claim(self._identity(), self._update)
            self.events.on_run_begin(self)
            self._write_recipe()
            prompts = self._stage("prompts", self._prompt_inputs(), self._make_prompts, self._read_prompts)
            by_split = {s: [p for p in prompts if p.split == s] for s in ("extract", "choose", "test")}
            traces = self._trace_stage(by_split["extract"])
            spans = self._span_stage(traces)
            vectors = self._vector_stage(traces, spans)
            chosen = self._choose_stage(by_split["choose"], vectors)
            self._test_stage(by_split["test"], vectors, chosen)
            self._result_stage(prompts, chosen)
            self._report_stage()
            if self.args.push_to_hub:
                for key, vector in vectors.items():
                    vector.push_to_hub(f"{self.args.hub_model_id}-{key.file.removesuffix('.safetensors')}")
            self.events.on_run_end(self)
        return self.folder.path

    # --- stages: each has a key of all that its result depends on ------------------------------------------------

    def _stage(
        self, name: str, inputs: Any, make: Callable[[str], tuple[Any, list[str]]], read: Callable[[], Any]
    ) -> Any:
        """Run a stage, or read what it left when it was done before for the same inputs."""
        key = digest(inputs)
        self._keys[name] = key
        if self.folder.is_done(name, key):
            value = read()
            self.events.on_stage_end(self, name, True)
            return value
        self.events.on_stage_begin(self, name)
        began = time.monotonic()
        value, files = make(key)
        self.folder.finish(name, key, files, time.monotonic() - began)
        self.events.on_stage_end(self, name, False)
        return value

    def _prompt_inputs(self) -> Any:
        if isinstance(self._prompts, PluginSpec):
            return [self._prompts.model_dump(), self._counts, self.args.seed]
        rows = as_prompts(self._prompts)
        return [[[p.id, p.prompt, p.split, p.answer] for p in rows], self._counts, self.args.seed]

    def _make_prompts(self, key: str) -> tuple[list[Prompt], list[str]]:
        if isinstance(self._prompts, PluginSpec):
            source = self._prompts.build("prompts")
            counts = self._counts or {"extract": 300, "choose": 32, "test": 64}
            prompts = list(source.read(counts, self.args.seed))
            check_splits(prompts, counts)
        else:
            rows = as_prompts(self._prompts)
            third = len(rows) // 3
            counts = self._counts or {"extract": len(rows) - 2 * third, "choose": third, "test": third}
            prompts = assign_splits(rows, counts, self.args.seed)
        write_rows(self.folder / "prompts.jsonl", prompts)
        return prompts, ["prompts.jsonl"]

    def _read_prompts(self) -> list[Prompt]:
        return read_rows(self.folder / "prompts.jsonl", Prompt)

    def _trace_stage(self, prompts: list[Prompt]) -> list[Trace]:
        args, path = self.args, self.folder / "traces.jsonl"

        def make(key: str) -> tuple[list[Trace], list[str]]:
            if args.traces:
                traces = trace_stage.read_traces(self, Path(args.traces))
                write_rows(path, traces)
            else:
                traces = trace_stage.make_traces(self, prompts, key)
            self.log(traces=len(traces), mean_tokens=sum(len(t.ids) for t in traces) / len(traces))
            return traces, ["traces.jsonl"]

        inputs = [
            self._keys["prompts"], self.pair.reasoning.fingerprint, args.max_new_tokens, args.temperature, args.seed,
            args.think_end, args.chat, args.per_device_batch_size, args.bf16, _file_key(args.traces),
        ]  # fmt: skip
        return self._stage("traces", inputs, make, lambda: read_rows(path, Trace))

    def _span_stage(self, traces: list[Trace]) -> list[Span]:
        args, path = self.args, self.folder / "spans.jsonl"

        def make(key: str) -> tuple[list[Span], list[str]]:
            notes: dict[str, Any] = {}
            if args.spans:
                spans, notes = span_stage.read_spans(Path(args.spans), traces, self.span_judge.labels())
            else:
                spans = span_stage.judge_spans(self, traces)
            span_stage.check_positives(spans, self.fitter.config.label, traces, args.spans or args.span_judge.name)
            write_rows(path, spans)
            counts = {label: sum(s.label == label for s in spans) for label in sorted({s.label for s in spans})}
            self.log(spans=len(spans), labels=counts, **notes)
            write_json(self.folder / "spans.notes.json", {"labels": counts, **notes})
            return spans, ["spans.jsonl", "spans.notes.json"]

        inputs = [
            self._keys["traces"],
            args.span_judge.model_dump(),
            _file_key(args.spans),
            self.fitter.config.label,
        ]
        return self._stage("spans", inputs, make, lambda: read_rows(path, Span))

    def _vector_stage(self, traces: list[Trace], spans: list[Span]) -> dict[VectorKey, SteeringVector]:
        statistics = {role: self._statistics(role, traces, spans) for role in ("base", "reasoning")}
        keys = Planner(self.args, self.pair.base.depth, {}).vectors()

        def make(key: str) -> tuple[dict[VectorKey, SteeringVector], list[str]]:
            made = {k: vector_stage.fit_vector(self, k, statistics[k.source], self._keys["spans"]) for k in keys}
            for k, vector in made.items():
                vector.save(self.folder / "vectors" / k.file)
            main = self._main_keys()
            self.log(cosine={str(k): round(v, 4) for k, v in made[main[0]].cosine(made[main[1]]).items()})
            return made, [f"vectors/{k.file}" for k in keys]

        inputs = [
            self._keys["extract base"],
            self._keys["extract reasoning"],
            self.args.fitter.model_dump(),
            [k.file for k in keys],
        ]
        return self._stage("vectors", inputs, make, lambda: vector_stage.load_vectors(self.folder.path, keys))

    def _main_keys(self) -> tuple[VectorKey, VectorKey]:
        c = self.fitter.config
        base, reasoning = (VectorKey(source=s, label=c.label, window=tuple(c.window)) for s in ("base", "reasoning"))
        return base, reasoning

    def _statistics(self, role: str, traces: list[Trace], spans: list[Span]) -> ActivationStatistics:
        stage, path = f"extract {role}", self.folder / f"stats/{role}.safetensors"
        labels = sorted({*self.span_judge.labels(), *(s.label for s in spans)})

        def make(key: str) -> tuple[ActivationStatistics, list[str]]:
            items = vector_stage.items_for(self, role, traces, spans)
            found = vector_stage.collect(self, role, items, labels, key)
            main = found.at(tuple(self.fitter.config.window))
            self.log(role=role, dropped_windows=main.dropped, counted={k: main.count(k, "span") for k in labels})
            return found, [f"stats/{role}.safetensors"]

        inputs = [
            self._keys["spans"], self._keys["traces"], self.pair[role].fingerprint, dict(self.pair.id_map), labels,
            self.args.extractor.model_dump(), sorted(self.fitter.needs), self.args.bf16, role if self.pair.id_map else "",
        ]  # fmt: skip
        return self._stage(stage, inputs, make, lambda: ActivationStatistics.load(path))

    def planner(self, vectors: dict[VectorKey, SteeringVector]) -> Planner:
        """The conditions that these vectors make possible."""
        norms = {
            (key.source, layer): vectors[key].norm(layer) for key in self._main_keys() for layer in vectors[key].layers
        }
        return Planner(self.args, self.pair.reasoning.depth, norms)

    def _choose_stage(self, prompts: list[Prompt], vectors: dict[VectorKey, SteeringVector]) -> float:
        path, planner = self.folder / "choice.json", self.planner(vectors)
        self.experiments = planner.choose()

        def make(key: str) -> tuple[float, list[str]]:
            rows = self._generate("choose", key, self.experiments, prompts, vectors)
            scores = results.Scores.of(rows, self.args, self.span_judge, self.score_judge, planner.label)
            chosen, how = results.choose_strength(scores, planner)
            write_json(path, {"strength": chosen, "how": how})
            self.log(chosen_strength=chosen, how=how)
            return chosen, ["choice.json"]

        inputs = [*self._generation_inputs(self.experiments), self.args.choose.model_dump()]
        return float(self._stage("choose", inputs, make, lambda: json.loads(path.read_text())["strength"]))

    def _test_stage(self, prompts: list[Prompt], vectors: dict[VectorKey, SteeringVector], chosen: float) -> None:
        planner = self.planner(vectors)
        testing = planner.test(chosen)

        def make(key: str) -> tuple[None, list[str]]:
            self._generate("test", key, testing, prompts, vectors)
            return None, ["generations.jsonl"]

        self._stage("test", self._generation_inputs(testing), make, lambda: None)
        self.experiments = [*self.experiments, *testing]
        self._planner = planner

    def _generate(
        self, stage: str, key: str, experiments: list[Experiment], prompts: list[Prompt],
        vectors: dict[VectorKey, SteeringVector],
    ) -> list[dict[str, Any]]:  # fmt: skip
        wanted: list[tuple[str, Condition]] = distinct(experiments)
        jobs = generations.steering_jobs(self, wanted, prompts, vectors)
        describe = generations.describe_with(self, wanted)
        return generate_all(self, stage, key, self.folder / "generations.jsonl", jobs, describe)

    def _generation_inputs(self, experiments: list[Experiment]) -> list[Any]:
        args = self.args
        return [
            self._keys["prompts"], self._keys["vectors"], [[s, c.id] for s, c in distinct(experiments)],
            args.steerer.model_dump(), [b.model_dump() for b in args.baselines], args.tokens, args.max_new_tokens,
            args.temperature, args.samples, args.seed, args.chat, args.per_device_batch_size, args.bf16,
        ]  # fmt: skip

    def _result_stage(self, prompts: list[Prompt], chosen: float) -> None:
        from steerkit.files import read_whole_lines

        files = ["results.csv", "comparisons.csv"]

        def make(key: str) -> tuple[None, list[str]]:
            rows = read_whole_lines(self.folder / "generations.jsonl")
            scores = results.Scores.of(rows, self.args, self.span_judge, self.score_judge, self._planner.label)
            found = results.result_rows(self.experiments, scores, self._planner, chosen)
            results.write_csv(self.folder / files[0], results.RESULT_COLUMNS, found)
            compared = results.comparison_rows(self.experiments, scores, self._planner, chosen)
            results.write_csv(self.folder / files[1], results.COMPARISON_COLUMNS, compared)
            return None, files

        args = self.args
        inputs = [
            self._keys["choose"], self._keys["test"], args.span_judge.model_dump(), args.score_judge.model_dump(),
            args.think_end, args.confidence, args.resamples,
        ]  # fmt: skip
        self._stage("results", inputs, make, lambda: None)

    def _report_stage(self) -> None:
        from steerkit.report import write_report

        self._stage(
            "report", [self._keys["results"], self.about, version_of("steerkit-hf")],
            lambda key: (None, write_report(self.folder.path)), lambda: None,
        )  # fmt: skip

    # --- helpers -------------------------------------------------------------------------------------------------

    def log(self, **values: Any) -> None:
        """Send figures to the log, and to whoever listens."""
        self.events.on_log(self, values)

    def thread_count(self) -> int:
        """CPU threads to generate with: as told, else measured."""
        lm = self.pair.reasoning
        return self.args.threads or fastest_thread_count(lm.width, self.args.per_device_batch_size)

    def threads(self, count: int) -> AbstractContextManager[None]:
        """Run torch with this many CPU threads inside."""
        return use_threads(count)

    def provenance(self) -> dict[str, Any]:
        """What made an artifact: recipe hash, versions, plugins, seed."""
        return {
            "run": self.name,
            "recipe": digest(self._identity()),
            "seed": self.args.seed,
            "versions": {name: version_of(name) for name in PACKAGES},
            "plugins": vector_stage.plugin_versions(self.args),
        }

    def _identity(self) -> dict[str, Any]:
        """All settings that results depend on, defaults filled in."""
        base, reasoning, adapter, id_map = self._models
        settings = {k: v for k, v in json.loads(self.args.model_dump_json()).items() if k not in NOT_PART}
        for name, plugin in (
            ("span_judge", self.span_judge), ("score_judge", self.score_judge), ("extractor", self.extractor),
            ("fitter", self.fitter),
        ):  # fmt: skip
            settings[name] = {"name": settings[name]["name"], **json.loads(plugin.config.model_dump_json())}
        return {
            "name": self.name,
            "about": self.about,
            "base": _model_name(base),
            "reasoning": _model_name(reasoning),
            "adapter": adapter,
            "id_map": {str(k): v for k, v in id_map.items()},
            "prompts": digest(self._prompt_inputs()),
            **settings,
        }

    def _write_recipe(self) -> None:
        """``recipe.yaml``: resolved, with versions, seed and model fingerprints."""
        import yaml

        base, reasoning = self.pair.base, self.pair.reasoning
        made = {
            **self.provenance(),
            "python": platform.python_version(),
            "base": {
                "model": base.name,
                "fingerprint": base.fingerprint,
                "blocks": base.depth,
                "width": base.width,
            },
            "reasoning": {
                "model": reasoning.name,
                "fingerprint": reasoning.fingerprint,
                "same_model": self.pair.same,
            },
        }
        identity = self._identity()
        if isinstance(self._prompts, PluginSpec):
            identity["prompts"] = {"source": self._prompts.model_dump(), **(self._counts or {})}
        text = yaml.safe_dump({**identity, "made_with": made}, sort_keys=False, allow_unicode=True, width=110)
        with atomic(self.folder / "recipe.yaml") as temporary:
            temporary.write_text(
                "# The recipe as it was run: every default filled in, and what it was run with.\n" + text
            )


def _model_name(model: Any) -> str | None:
    return model if isinstance(model, str) or model is None else str(getattr(model, "name", type(model).__name__))


def _file_key(path: str | None) -> str | None:
    from steerkit.files import file_digest

    if path is None:
        return None
    if not Path(path).is_file():
        raise SteerkitError(f"{path}: no such file; the path is relative to {Path.cwd()}")
    return file_digest(Path(path))


def version_of(package: str) -> str:
    """Installed version of a package."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
