"""One call that fine-tunes a model: rows, an adapter, an objective, and interventions that are on in training alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steerkit.data.chat_format import ChatFormat
from steerkit.errors import SteerkitError
from steerkit.interfaces import Plugin
from steerkit.interventions.edits import Edits
from steerkit.models.limits import check_ids, check_lengths
from steerkit.store.files import digest, file_digest
from steerkit.store.identity import plain
from steerkit.training.arguments import DEFAULTS, HOW, check_arguments, make_arguments, refused
from steerkit.training.as_before import as_before, own_accelerator_state, own_randomness, without_dropout
from steerkit.training.checkpoints import Checkpoints
from steerkit.training.contract import Adapter, Objective
from steerkit.training.edits import TrainingEdits
from steerkit.training.held_out import mean_loss
from steerkit.training.ledger import LoggedStep
from steerkit.training.masks import Encoded, encode_rows
from steerkit.training.rows import TrainingRow
from steerkit.training.watch import Measure, Watch

if TYPE_CHECKING:
    from steerkit.models.language_model import LanguageModel


@dataclass(frozen=True, eq=False)
class Trained:
    """A model that was trained, and what the training says of itself.

    Attributes:
        lm: the model with the adapter on; no intervention is.
        adapter: what was trained of it.
        log: a row for each logged step.
        steps: optimizer steps.
        steered: positions at which interventions changed something, summed over steps, rows and sites; padding is
            never changed.
        trainable, parameters: how many numbers are trained, and how many there are.
        cut: rows that lost their end for `max_tokens`.
        held_out: loss per learned token of the held-out rows before and after; None where there are none.
        measures: of the watch, where there is one.
    """

    lm: LanguageModel
    adapter: Adapter
    log: tuple[LoggedStep, ...]
    steps: int
    steered: int
    trainable: int
    parameters: int
    cut: int
    held_out: tuple[float, float] | None
    measures: tuple[Measure, ...] = ()

    def save(self, folder: Path) -> None:
        """Write what was trained: a PEFT adapter, or a whole model (`Adapter.whole`)."""
        self.adapter.save(self.lm, folder)

    def detach(self) -> None:
        """Make the model that was given to `train` what it was before, bit for bit."""
        self.adapter.detach(self.lm)


def train(
    lm: LanguageModel,
    rows: Sequence[TrainingRow],
    *,
    chats: ChatFormat,
    adapter: Adapter,
    objective: Objective,
    folder: Path,
    edits: Edits = (),
    arguments: Mapping[str, Any] | None = None,
    start: Path | None = None,
    held_out: Sequence[TrainingRow] = (),
    seed: int = 0,
    max_tokens: int | None = None,
    trailing: bool = False,
    allowed: Sequence[str] = (),
    watch: Watch | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Trained:
    """Fine-tune a model in place.

    The same seed gives the same initial values and the same order of rows, whatever the edits are: arms that differ in
    their interventions alone share all randomness. Dropout of the model is off; an adapter's own stays.

    Args:
        lm: the model. Until `Trained.detach` it acts as trained.
        chats: how prompts are formatted, here and at test.
        folder: of the checkpoints. One of the same training that is there is gone on from, to the same weights bit for
            bit; processes may be killed at any moment.
        edits: interventions for all rows (a tuple) or a list with an entry for each. ``tokens: generated`` means the
            response. They are on in forward and backward passes of training steps, and nowhere else.
        arguments: of transformers' TrainingArguments, beside those that steerkit sets (`arguments.OWNED`).
        start: folder of an earlier `Trained.save` with the same adapter, to go on from.
        held_out: rows whose loss is measured before and after, without edits.
        seed: of initial values, order and dropout.
        max_tokens: longer rows lose their end.
        trailing: learn what the chat template writes behind the end of the model's turn, too.
        allowed: special tokens that responses may hold (`</think>`); others are an error.
        watch: measures the model while it is trained, and may end the training; schedules are those of all steps.
        progress: takes (steps done, steps in all).

    Raises:
        InputError: rows or arguments that can't be used, all of them.
        SteerkitError: the model can't be trained, the folder holds another training, an edit changes nothing, or the
            loss is not finite (which step and rows). The model is then as before, and checkpoints stay.
    """
    given = dict(arguments or {})
    check_arguments(given)
    how: dict[str, Any] = {"max_tokens": max_tokens, "trailing": trailing, "allowed": allowed}
    encoded = _encoded(lm, rows, chats, **how)
    apart = _encoded(lm, held_out, chats, **how) if held_out else []
    _check_trainable(lm)
    training, fingerprint = TrainingEdits(lm, edits, len(encoded)), lm.fingerprint
    with ExitStack() as stack:
        for context in (own_accelerator_state(), as_before(lm), without_dropout(lm.model), own_randomness(seed)):
            stack.enter_context(context)
        made = make_arguments(given, folder, seed, lm.device)
        settings = {
            "model": fingerprint,
            "rows": digest([(row.ids, row.labels) for row in encoded]),
            "adapter": _told(adapter),
            "objective": _told(objective),
            "edits": training.settings(),
            "arguments": {name: value for name, value in given.items() if name not in HOW},
            "seed": seed,
            "start": None if start is None else _digests(start),
            "processes": made.world_size,
            "watch": None if watch is None else [watch.every, watch.settings()],
        }
        checkpoints = Checkpoints(
            folder, plain(settings), given.get("save_total_limit") or DEFAULTS["save_total_limit"]
        )
        last = checkpoints.last()
        trained = adapter.attach(lm, seed=seed, start=start)
        undo = stack.enter_context(ExitStack())
        undo.callback(adapter.detach, trained)
        before = mean_loss(trained, apart, objective, made.train_batch_size)
        try:
            trainer = _trainer(trained, encoded, objective, training, made, checkpoints, progress, watch)
        except (ValueError, ImportError) as error:
            raise refused(error, given) from error
        undo.callback(trainer.release)
        trainer.go_on(last)
        trainer.release()
        after = mean_loss(trained, apart, objective, made.train_batch_size)
        undo.pop_all()
    trained.model.eval()
    weights = list(trained.model.parameters())
    return Trained(
        lm=trained,
        adapter=adapter,
        log=tuple(trainer.ledger.rows),
        steps=trainer.state.global_step,
        steered=trainer.ledger.steered,
        trainable=sum(weight.numel() for weight in weights if weight.requires_grad),
        parameters=sum(weight.numel() for weight in weights),
        cut=sum(row.cut for row in encoded),
        held_out=None if before is None or after is None else (before, after),
        measures=tuple(trainer.ledger.measures),
    )


def _trainer(*parts: Any) -> Any:
    from steerkit.training.trainer import InterventionTrainer  # imports transformers

    return InterventionTrainer(*parts)


def _encoded(lm: LanguageModel, rows: Sequence[TrainingRow], chats: ChatFormat, **how: Any) -> list[Encoded]:
    found = encode_rows(rows, chats, **how)
    check_ids(lm, (row.ids for row in found))
    longest = max(found, key=lambda row: len(row.ids))
    check_lengths(lm, len(longest.ids), f"row {longest.id!r}")
    return found


def _check_trainable(lm: LanguageModel) -> None:
    if any(p.device.type == "meta" for p in lm.model.parameters()):
        raise SteerkitError(f"{lm.name}: some of its weights are offloaded; load it on one device to train it")
    if lm.model_is_wrapped:
        raise SteerkitError(
            f"{lm.name}: has an adapter on; load its base and give the adapter's folder as start, or merge it first"
        )


def _told(plugin: Plugin) -> Any:
    """A plugin's class and options. Its registered name is there only where the registry has built it."""
    return [type(plugin).__name__, plugin.config.model_dump(mode="json")]


def _digests(folder: Path) -> dict[str, str]:
    return {path.name: file_digest(path) for path in sorted(folder.glob("*.safetensors"))}
