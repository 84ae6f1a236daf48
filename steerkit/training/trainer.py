"""transformers' Trainer with three differences: the objective's loss, interventions around each micro-batch's forward
and backward, and checkpoints that hold what is trained and count only when whole.

Everything else (loader, accumulation, optimizer, schedule, clipping, mixed precision, several processes) is the
Trainer's own. This module imports transformers; `steerkit.training.train` imports it when a training begins.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from steerkit.errors import SteerkitError
from steerkit.models.language_model import LanguageModel
from steerkit.store.files import disk_error
from steerkit.training.as_before import as_before, own_randomness
from steerkit.training.batches import as_dataset, batch_of, collator
from steerkit.training.checkpoints import Checkpoint, Checkpoints
from steerkit.training.contract import Loss, Objective
from steerkit.training.edits import TrainingEdits, positions_changed
from steerkit.training.ledger import Ledger
from steerkit.training.masks import Encoded
from steerkit.training.watch import Measure, Watch

TRAINED = "trained.safetensors"
"""A checkpoint's file of trained weights, by their names in the model."""
REMEMBERED = "objective_{process}.safetensors"
"""A checkpoint's files of what the objective remembers."""


class Reporter(TrainerCallback):
    """Tells how far a training is, and lets a changed `save_steps` count where one is gone on with."""

    def __init__(self, progress: Callable[[int, int], None] | None) -> None:
        self._progress = progress

    def on_train_begin(self, args: TrainingArguments, state: Any, control: Any, **_: Any) -> None:
        state.compute_steps(args, state.max_steps)
        self._tell(state)

    def on_step_end(self, args: TrainingArguments, state: Any, control: Any, **_: Any) -> None:
        self._tell(state)

    def _tell(self, state: Any) -> None:
        if self._progress and state.is_world_process_zero:
            self._progress(state.global_step, state.max_steps)


class Watcher(TrainerCallback):
    """Measures where a watch says so, and ends the training when it has seen enough."""

    def __init__(self, trainer: InterventionTrainer, watch: Watch) -> None:
        self._trainer, self._watch = trainer, watch

    def on_step_end(self, args: TrainingArguments, state: Any, control: Any, **_: Any) -> None:
        if state.global_step % self._watch.every:
            return
        measures = self._trainer.ledger.measures
        measures.append(Measure(step=state.global_step, values=self._trainer.measured(self._watch)))
        if self._watch.enough(measures):
            control.should_training_stop = control.should_log = True
            control.should_save = control.should_save or args.save_strategy != "no"


class InterventionTrainer(Trainer):
    """A Trainer of one model, objective and set of rows. Its `ledger` has the log."""

    objective: Objective

    def __init__(
        self,
        lm: LanguageModel,
        rows: Sequence[Encoded],
        objective: Objective,
        edits: TrainingEdits,
        arguments: TrainingArguments,
        checkpoints: Checkpoints,
        progress: Callable[[int, int], None] | None,
        watch: Watch | None = None,
    ) -> None:
        self.lm, self.rows, self.objective, self.edits, self.watch = lm, rows, objective, edits, watch
        self.checkpoints, self.ledger = checkpoints, Ledger()
        self._had_forward = "forward" in vars(lm.model)
        super().__init__(
            model=lm.model,
            args=arguments,
            data_collator=collator(lm.tokenizer),
            train_dataset=as_dataset(rows),
            callbacks=[Reporter(progress), *([Watcher(self, watch)] if watch else [])],
        )
        self.remove_callback(PrinterCallback)
        self.create_optimizer()  # now, so that one that isn't installed is told before anything is done
        self.model_accepts_loss_kwargs = True  # learned tokens of the accumulated batch are counted, for `Batch.tokens`

    def go_on(self, last: Checkpoint | None) -> None:
        """Train to the end, from a checkpoint if there is one."""
        if self.accelerator.is_main_process:
            self.checkpoints.drop_after(last)
        self.accelerator.wait_for_everyone()
        if last is not None:
            self.ledger.restore(last.state, first=self.accelerator.is_main_process)
            if self.watch and self.watch.enough(self.ledger.measures):  # it had ended there
                self._load_from_checkpoint(str(last.path))
                self.state.global_step = last.step
                return
        logger = logging.getLogger("transformers.trainer_utils")
        logger.addFilter(_compared)
        try:
            self.train(resume_from_checkpoint=None if last is None else str(last.path))
        finally:
            logger.removeFilter(_compared)
        self.ledger.gather(self.accelerator)

    def release(self) -> None:
        """Take off what accelerate has put around the model's forward (mixed precision)."""
        self.accelerator.unwrap_model(self.lm.model, keep_fp32_wrapper=False)
        if not self._had_forward:  # accelerate puts the class's own back as an attribute
            vars(self.lm.model).pop("forward", None)

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """Forward and backward of a micro-batch, both with the edits: checkpointed blocks run again in the second."""
        rows, lengths = inputs["row"].tolist(), inputs["prompt_length"].tolist()
        with self.edits.on(self.lm, rows, lengths) as steering:
            loss = super().training_step(model, inputs, num_items_in_batch)
        self.ledger.steered += positions_changed(steering)
        return loss

    def compute_loss(
        self, model: Any, inputs: Mapping[str, Tensor], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The objective's loss; times the number of processes, whose gradients are averaged."""
        batch = batch_of(inputs, num_items_in_batch)
        found = within(model, self.lm.model, lambda: self.objective.loss(self.lm, batch))
        if not self.ledger.add(found):
            names = ", ".join(repr(self.rows[row].id) for row in batch.rows)
            self._stop(f"the loss is {float(found.total.detach()):g} on rows {names}")
        return found.total * self.accelerator.num_processes

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """A row of the ledger in place of transformers' own; its summary at the end is left out."""
        if "loss" not in logs:
            return
        self.ledger.gather(self.accelerator)
        size = logs.get("grad_norm")
        self.ledger.close(self.state.global_step, size, logs["learning_rate"])
        if size is not None and not math.isfinite(size) and self.accelerator.scaler is None:
            self._stop("the gradient is not finite")

    def measured(self, watch: Watch) -> dict[str, float]:
        """A watch's numbers, the first process's in all of them."""
        found: list[dict[str, float]] = [{}]
        if self.accelerator.is_main_process:
            with torch.no_grad(), as_before(self.lm), own_randomness(self.args.seed):
                self.lm.model.eval()
                found = [{name: float(value) for name, value in watch.measure(self.lm).items()}]
        if self.accelerator.num_processes > 1:
            broadcast_object_list(found)
        return found[0]

    def _stop(self, what: str) -> None:
        done = self.state.global_step
        raise SteerkitError(
            f"{self.lm.name}: {what}, at step {done + 1} of {self.state.max_steps}: lower the learning rate or the "
            "strength. Checkpoints of earlier steps stay as they are"
        )

    def _trained(self) -> dict[str, Tensor]:
        return {name: p for name, p in self.lm.model.named_parameters() if p.requires_grad}

    def _save_checkpoint(self, model: Any, trial: Any = None) -> None:
        if not all(bool(torch.isfinite(weight).all()) for weight in self._trained().values()):
            self._stop("weights are not finite")
        folder = Path(str(self.args.output_dir))
        try:
            super()._save_checkpoint(model, trial)
            if remembered := self.objective.state(self.lm):
                file = REMEMBERED.format(process=self.args.process_index)
                save_file(dict(remembered), folder / f"checkpoint-{self.state.global_step}" / file)
        except (OSError, RuntimeError, SafetensorError) as error:  # torch's writer has a RuntimeError for a full disk
            raise disk_error(folder, error) from error
        self.ledger.gather(self.accelerator)
        self.accelerator.wait_for_everyone()  # every process writes a random state of its own
        if self.args.should_save:
            self.checkpoints.seal(self.state.global_step, self.ledger.state())
        self.accelerator.wait_for_everyone()

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """What is trained, and nothing else."""
        folder = Path(output_dir or str(self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        own = {name: weight.detach().contiguous() for name, weight in self._trained().items()}
        save_file(own, folder / TRAINED)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        kept = load_file(Path(resume_from_checkpoint) / TRAINED)
        with torch.no_grad():
            for name, weight in self._trained().items():
                weight.copy_(kept[name])
        remembered = Path(resume_from_checkpoint) / REMEMBERED.format(process=self.args.process_index)
        if remembered.is_file():
            self.objective.restore(self.lm, load_file(remembered))


def _compared(record: logging.LogRecord) -> bool:
    """Whether a warning says more than that ``save_steps: 0.1`` became a number of steps; seals compare settings."""
    return "do not match the ones in the `trainer_state.json`" not in record.getMessage()


def within(model: Any, own: Any, run: Callable[[], Loss]) -> Loss:
    """What `run` returns, called inside the forward of a wrapper around the model (DistributedDataParallel).

    The wrapper brings gradients of several processes together only if its own forward was called, and an objective
    calls the model inside as often as it likes. So the wrapper is called once, and the model that it calls runs the
    objective in place of its forward.

    Args:
        model: what the Trainer calls: the model, or a wrapper.
        own: the model itself.
    """
    if model is own:
        return run()
    before = own.__dict__.get("forward")

    def put_back() -> None:
        if before is None:
            own.__dict__.pop("forward", None)
        else:
            own.forward = before

    def once(_: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        put_back()
        found = run()
        return found.total, dict(found.parts)

    own.forward = once
    try:
        total, parts = model(torch.zeros(1))
    finally:
        put_back()
    return Loss(total, parts)
