"""vLLM in processes of its own: every request with its own edit, in one continuous batch."""

from __future__ import annotations

import contextlib
import hashlib
import os
import pickle
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field

from steerkit.errors import SteerkitError
from steerkit.generation.engine import Engine, Greedy
from steerkit.generation.sampling import GREEDY, Sampling
from steerkit.generation.stream import Generated, GenerationRow, end_ids
from steerkit.interfaces import Config, Intervention
from steerkit.models.adapters import merged_model
from steerkit.models.extras import need

if TYPE_CHECKING:
    from steerkit.interventions.steering import Edit
    from steerkit.models.language_model import LanguageModel
    from steerkit.models.models import Models

PACKAGE = "steerkit-hf[vllm]"
EXTENSION = "steerkit_plugins.engines.vllm_worker.SteeringExtension"
SAMPLING = "steerkit_plugins.engines.vllm_sampling:PairedNoise"


class VLLMConfig(Config):
    how = frozenset({"gpu_memory_utilization"})

    gpu_memory_utilization: float = Field(default=0.5, gt=0, le=1)
    """Share of each GPU's memory (on a CPU build, of the machine's) that vLLM takes for weights and cache; the
    pair's own weights, which extraction needs, lie beside it."""
    tensor_parallel_size: int = Field(default=1, ge=1)
    """GPUs that every layer is split over."""
    pipeline_parallel_size: int = Field(default=1, ge=1)
    """Groups of GPUs that the blocks are dealt to."""
    max_model_len: int | None = Field(default=None, ge=1)
    """Longest prompt and text together, in tokens; the model's own limit when left out."""
    max_num_seqs: int | None = Field(default=None, ge=1)
    """Rows in a step; vLLM's own choice when left out. per_device_batch_size is not used."""
    prefix_caching: bool = True
    """Keep the prompts' keys and values for rows that begin alike; only rows of one condition share them."""


class VLLMEngine(Engine):
    """vLLM beside this process (`pip install 'steerkit-hf[vllm]'`), one model of the pair at a time.

    It always runs eagerly: CUDA graphs and torch.compile would leave out the hooks that steer. Each row's edit is
    named by its request; the sampling noise is steerkit's own, so texts are paired as with `hf`.
    """

    Config = VLLMConfig

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._llm: Any = None
        self._serves = ""
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._interventions: list[Intervention] = []  # kept, so that a place in this list names one for good

    def start(self, models: Models, options: Mapping[str, Any]) -> None:
        os.environ["VLLM_USE_V2_MODEL_RUNNER"] = "0"  # the worker extension reads the first runner's batch
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        need("vllm", PACKAGE, "engine: vllm")
        self.models, self.options = models, dict(options)

    def generate(
        self,
        model: str,
        rows: Sequence[GenerationRow],
        *,
        max_new_tokens: int,
        sampling: Sampling,
        batch_size: int,
        progress: Callable[[int], None],
    ) -> list[Generated]:
        outputs, steered = self._run(model, rows, max_new_tokens, sampling, progress)
        texts = [_generated(output) for output in outputs]
        edited = [text for text, row in zip(texts, rows, strict=True) if only_edit(row)]
        if edited and not steered and not all(text.finished and not text.ids for text in edited):
            raise SteerkitError(
                f"steering changed no position of {len(edited)} rows in vLLM: with tokens: generated nothing was "
                "generated, or the hooked block did not run; `steerkit engine check` compares it with transformers"
            )
        return texts

    def greedy(self, model: str, rows: Sequence[GenerationRow], *, max_new_tokens: int) -> Greedy:
        outputs, steered = self._run(model, rows, max_new_tokens, GREEDY, lambda done: None, log_probs=True)
        texts = [_generated(output) for output in outputs]
        found = []
        for output, text in zip(outputs, texts, strict=True):
            steps = output.outputs[0].logprobs
            found.append([step[token].logprob for step, token in zip(steps, text.ids, strict=False)])
        return Greedy(texts, found, steered)

    def close(self) -> None:
        if self._llm is not None:
            self._llm.llm_engine.engine_core.shutdown()
            self._llm, self._serves = None, ""
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def _run(
        self,
        model: str,
        rows: Sequence[GenerationRow],
        max_new_tokens: int,
        sampling: Sampling,
        progress: Callable[[int], None],
        *,
        log_probs: bool = False,
    ) -> tuple[list[Any], int]:
        """vLLM's outputs in the rows' order, and how many positions were steered."""
        from vllm import SamplingParams
        from vllm.inputs import tokens_input

        from steerkit_plugins.engines.vllm_worker import EDIT

        if not rows:
            return [], 0
        refuse_edits(rows)
        lm = self.models[model]
        engine = self._serve(lm).llm_engine
        self._check_lengths(rows, max_new_tokens, engine.model_config.max_model_len)
        ends = [i for i in end_ids(lm) if i >= 0]
        edits = [edit for row in rows if (edit := only_edit(row)) is not None]
        for edit in edits:
            lm.check_layer(edit.layer)
        self._call(engine, "steerkit_begin", _pickled(edits))
        place, open_rows = 0, {}
        found: list[Any] = [None] * len(rows)
        try:
            for number, row in enumerate(rows):
                extra: dict[str, Any] = {}
                if sampling.temperature:
                    extra["steerkit_noise"] = [row.key, sampling.model_dump()]
                salt = "unsteered"
                edit = only_edit(row)
                if edit is not None:
                    extra[EDIT], salt, place = place, self._salt(edit), place + 1
                params = SamplingParams(
                    temperature=0,
                    max_tokens=max_new_tokens,
                    stop_token_ids=ends,
                    ignore_eos=True,
                    detokenize=False,
                    extra_args=extra,
                    logprobs=0 if log_probs else None,
                )
                with self._explained():
                    engine.add_request(str(number), tokens_input(list(row.prompt_ids), cache_salt=salt), params)
                open_rows[str(number)] = row
            done = 0
            while open_rows:
                with self._explained():
                    ended = [output for output in engine.step() if output.finished]
                for output in ended:
                    found[int(output.request_id)] = output
                    del open_rows[output.request_id]
                if ended:
                    done += len(ended)
                    progress(done)
        finally:
            if open_rows and self._llm is not None:
                engine.abort_request(list(open_rows))
        # Tensor-parallel workers count the same positions, pipeline stages those of their own blocks.
        counts = self._call(engine, "steerkit_end")
        steered = sum(max(by_worker) for by_worker in zip(*(c for c in counts if c), strict=True))
        return found, steered + sum(_cached(row, output) for row, output in zip(rows, found, strict=True))

    def _serve(self, lm: LanguageModel) -> Any:
        """The vLLM instance that serves this model; another one is shut down first."""
        if self._llm is not None and self._serves == lm.fingerprint:
            return self._llm
        from vllm import LLM

        self.close()
        config, sizes = self.config, {}
        if config.max_num_seqs is not None:
            sizes["max_num_seqs"] = config.max_num_seqs
        try:
            self._llm = LLM(
                model=self._weights(lm),
                skip_tokenizer_init=True,
                generation_config="vllm",
                enforce_eager=True,
                dtype="bfloat16" if self.options.get("bf16") else "float32",
                trust_remote_code=bool(self.options.get("trust_remote_code")),
                worker_extension_cls=EXTENSION,
                logits_processors=[SAMPLING],
                enable_prefix_caching=config.prefix_caching,
                async_scheduling=False,  # a step's edits and counts are read when the step before is known
                gpu_memory_utilization=config.gpu_memory_utilization,
                max_model_len=config.max_model_len,
                tensor_parallel_size=config.tensor_parallel_size,
                pipeline_parallel_size=config.pipeline_parallel_size,
                disable_log_stats=True,
                use_tqdm_on_load=False,
                **sizes,
            )
        except (RuntimeError, ValueError, OSError) as error:
            self.close()
            first = str(error).strip().splitlines()[0]
            raise SteerkitError(
                f"vLLM does not start with {lm.name}: {first}\n  What it printed above says more; often memory: lower "
                "engine.gpu_memory_utilization or engine.max_model_len"
            ) from error
        self._serves = lm.fingerprint
        return self._llm

    def _weights(self, lm: LanguageModel) -> str:
        """Where vLLM reads the model: where it came from, or a temporary folder that it is written to."""
        import copy

        if lm.origin:
            return lm.origin
        model = lm.model
        if lm.model_is_wrapped:
            both = copy.deepcopy(model)
            model = merged_model(both, lm.name) if lm.adapter else both.unload()
        self._folder = tempfile.TemporaryDirectory(prefix="steerkit-vllm-")
        model.save_pretrained(self._folder.name)
        return self._folder.name

    def _check_lengths(self, rows: Sequence[GenerationRow], new: int, limit: int) -> None:
        longest = max(len(row.prompt_ids) for row in rows)
        if longest + new > limit:
            raise SteerkitError(
                f"a prompt of {longest} tokens and {new} new ones are more than the {limit} that vLLM was started "
                "for; lower max_new_tokens or raise engine.max_model_len (as far as the model goes)"
            )

    def _call(self, engine: Any, method: str, *args: Any) -> Any:
        with self._explained():
            return engine.collective_rpc(method, args=args)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self.close()
            raise SteerkitError(f"vLLM stopped: {error}\n  What it printed above says why") from error

    def _salt(self, edit: Edit) -> str:
        """Rows whose keys and values may be shared: one edit in all respects, noise included.

        With `tokens: generated` the prompt's could be shared with unsteered rows, but vLLM also keeps those of
        the generated tokens under the same name, and those are steered.
        """
        place = next((i for i, known in enumerate(self._interventions) if known is edit.intervention), None)
        if place is None:
            place = len(self._interventions)
            self._interventions.append(edit.intervention)
        state = hashlib.sha256(f"{place} {edit.layer} {edit.norm!r} {edit.tokens} {edit.key}".encode())
        if edit.direction is not None:
            state.update(edit.direction.detach().cpu().double().numpy().tobytes())
        return state.hexdigest()


def only_edit(row: GenerationRow) -> Edit | None:
    """The row's edit, once `refuse_edits` has let it pass; None where nothing is done to it."""
    return next((edit for edit in row.edits if edit.norm), None)


def refuse_edits(rows: Sequence[GenerationRow]) -> None:
    """Raises: SteerkitError when rows have edits that the worker's hooks can't make, all kinds of them at once."""
    sets = [[edit for edit in row.edits if edit.norm] for row in rows]
    active = [edit for own in sets for edit in own]
    problems = []
    if sites := sorted({edit.site for edit in active if not edit.site.is_block_output}):
        problems.append(f"edits at {', '.join(map(str, sites))}: it edits the outputs of blocks alone")
    if any(len(own) > 1 for own in sets):
        problems.append(f"{sum(len(own) > 1 for own in sets)} rows with several edits: it makes one edit a row")
    if other := sorted({type(e.intervention).__name__ for e in active if e.replaces or e.changes_backward}):
        problems.append(f"{', '.join(other)}: it changes neither modules nor gradients")
    if stateful := sorted({type(e.intervention).__name__ for e in active if not e.intervention.shares_prefix}):
        problems.append(f"{', '.join(stateful)}: rows with one edit share their prompts' keys and values")
    if problems:
        raise SteerkitError("\n  ".join(["engine vllm can't do what was asked for; engine: hf can:", *problems]))


def _generated(output: Any) -> Generated:
    """vLLM keeps the stop token among the ids."""
    text = output.outputs[0]
    ids, finished = list(text.token_ids), text.finish_reason == "stop"
    return Generated(ids[:-1] if finished else ids, finished)


def _cached(row: GenerationRow, output: Any) -> int:
    """Steered positions that came from the prefix cache, where a row of the same condition had left them."""
    edit = only_edit(row)
    if edit is None or edit.tokens == "generated":
        return 0
    return int(output.num_cached_tokens or 0)


def _pickled(edits: Sequence[Edit]) -> bytes:
    """For the workers; local files and their helpers go by value: only this process knows their modules."""
    import cloudpickle

    modules = {sys.modules[type(edit.intervention).__module__.partition(".")[0]] for edit in edits}
    own = [module for module in modules if not _importable(module.__name__)]
    with contextlib.ExitStack() as stack:
        for module in own:
            cloudpickle.register_pickle_by_value(module)
            stack.callback(cloudpickle.unregister_pickle_by_value, module)
        pickled: bytes = cloudpickle.dumps(list(edits), protocol=pickle.HIGHEST_PROTOCOL)
    return pickled


def _importable(module: str) -> bool:
    """Whether another process finds the module by name (cloudpickle itself takes care of `__main__`)."""
    top = module.partition(".")[0]
    return top == "__main__" or any(finder.find_spec(top, None) for finder in sys.meta_path)
