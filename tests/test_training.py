"""Training with interventions, against plain trainings, frozen biases and by hand."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState, PartialState
from steerkit_plugins.objectives.response import Response
from test_gradients import Neutralise
from tiny import build
from tiny_training import ADD, ARGUMENTS, Full, chats, hooks, lora, push, rows, run, same, unit, weights
from torch import Tensor, nn
from zoo import breed

from steerkit.data.site import Site
from steerkit.errors import SteerkitError
from steerkit.interfaces import EditContext, Intervention
from steerkit.interventions.edits import Edit
from steerkit.models.language_model import LanguageModel
from steerkit.models.loading import load_model
from steerkit.training.batches import as_dataset, collator
from steerkit.training.contract import Batch, Loss
from steerkit.training.masks import encode_rows


def plain_trainer(model: Any, lm: LanguageModel, folder: Path, **arguments: Any) -> None:
    """transformers' own Trainer and loss on the same rows, which knows nothing of steerkit's."""
    from transformers import Trainer, TrainingArguments

    collate = collator(lm.tokenizer)

    def plain(batch: Any) -> dict[str, Tensor]:
        return {k: v for k, v in collate(batch).items() if k in ("input_ids", "attention_mask", "labels")}

    own: dict[str, Any] = {"optim": "adamw_torch", **ARGUMENTS, **arguments}
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(folder),
            seed=5,
            data_seed=5,
            report_to="none",
            disable_tqdm=True,
            remove_unused_columns=False,
            use_cpu=True,
            **own,
        ),
        data_collator=plain,
        train_dataset=as_dataset(encode_rows(rows(), chats(lm))),  # type: ignore[arg-type]
    )
    trainer.train()


@pytest.mark.parametrize("name", ["llama", "gpt2"])
@pytest.mark.parametrize("kind", ["full", "lora"])
def test_without_edits_it_is_a_plain_trainer(name: str, kind: str, tmp_path: Path) -> None:
    """Bit for bit: same initial adapter, rows, order and optimizer; GPT-2's dropout is off on both sides."""
    lm, twin = build(name), build(name)
    arguments = {"gradient_accumulation_steps": 2}
    adapter = {"adapter": lora()} if kind == "lora" else {}
    trained = run(lm, tmp_path / "a", arguments=arguments, **adapter)
    model = twin.model
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    if kind == "lora":
        from peft import LoraConfig, get_peft_model

        torch.manual_seed(5)
        config = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = get_peft_model(model, config)
    plain_trainer(model, twin, tmp_path / "b", **arguments)
    found = weights(trained.lm)
    expected = {key: value.detach() for key, value in model.state_dict().items()}
    assert same(found, expected)
    assert not same(found, weights(build(name)) if kind == "full" else {})
    assert trained.steps == 4 and len(trained.log) == 4 and trained.steered == 0


@pytest.mark.parametrize("arm", ["strength 0", "direction 0", "rows without"])
def test_nothing_added_is_nothing_changed(arm: str, tmp_path: Path) -> None:
    plain = weights(run(build("llama"), tmp_path / "plain").lm)
    edits: Any = {
        "strength 0": push(norm=0.0),
        "direction 0": (Edit(ADD, 1, 3.0, torch.zeros(16)),),
        "rows without": [()] * 8,
    }[arm]
    trained = run(build("llama"), tmp_path / "arm", edits=edits)
    assert same(weights(trained.lm), plain)
    assert not same(plain, weights(run(build("llama"), tmp_path / "pushed", edits=push()).lm))


@pytest.mark.parametrize("options", [{}, {"gradient_accumulation_steps": 2}], ids=str)
def test_a_push_is_a_frozen_bias(options: dict[str, Any], tmp_path: Path) -> None:
    """h + αv at block 1's output is that block's down projection with a bias αv that is not trained."""
    lm, twin = build("llama"), build("llama")
    down = twin.model.model.layers[1].mlp.down_proj
    down.bias = nn.Parameter(4.0 * unit(), requires_grad=False)
    pushed = weights(run(lm, tmp_path / "a", edits=push(), arguments=options).lm)

    frozen = Full(parts=r"^(?!.*down_proj\.bias)")
    found = weights(run(twin, tmp_path / "b", adapter=frozen, arguments=options).lm)
    assert torch.equal(found.pop("model.layers.1.mlp.down_proj.bias"), 4.0 * unit())
    moved = weights(build("llama"))
    for name, value in pushed.items():
        torch.testing.assert_close(value, found[name], rtol=2e-4, atol=2e-5)
        assert not torch.equal(value, moved[name]), name


def step_gradients(lm: LanguageModel, folder: Path, edits: Any, **arguments: Any) -> tuple[dict[str, Tensor], float]:
    """Gradients of the first step (one batch of all rows), read from one step of SGD without clipping, and the loss."""
    before = weights(lm)
    options = {"optim": "sgd", "learning_rate": 1.0, "max_grad_norm": 0.0, "warmup_steps": 0, "weight_decay": 0.0}
    sizes = {"per_device_train_batch_size": 8, "max_steps": 1, "lr_scheduler_type": "constant"}
    trained = run(lm, folder, edits=edits, arguments={**options, **sizes, **arguments})
    after = weights(trained.lm)
    trained.detach()
    return {name: before[name] - after[name] for name in before}, trained.log[0].loss


@pytest.mark.parametrize("reentrant", [True, False])
def test_recomputed_blocks_have_their_edits_again(reentrant: bool, tmp_path: Path) -> None:
    """Gradient checkpointing on and off: forward and backward edits, tokens of each kind, one row without."""
    edits = [
        (Edit(ADD, 1, 3.0, unit(), tokens), Edit(Neutralise(), Site(2, "mlp"), 1.0, unit()))
        for tokens in ("all", "prompt", "generated") * 3
    ]
    sets: list[Any] = [*edits[:7], ()]
    lm = build("llama")
    plain, loss = step_gradients(lm, tmp_path / "a", sets)
    checkpointing = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": reentrant}}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`gradient_checkpointing", FutureWarning)  # its name before 5.2x
        found, again = step_gradients(lm, tmp_path / "b", sets, **checkpointing)
    assert math.isclose(loss, again, rel_tol=1e-6)
    for name, value in plain.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-6)
    assert not any(getattr(module, "gradient_checkpointing", False) for module in lm.model.modules())
    assert hooks(lm) == []


def test_gradients_changed_at_a_block_reach_what_is_before_it_alone(tmp_path: Path) -> None:
    plain, _ = step_gradients(build("llama"), tmp_path / "a", ())
    found, _ = step_gradients(build("llama"), tmp_path / "b", (Edit(Neutralise(), 1, 1.0, unit()),))
    changed = {name for name, value in plain.items() if not torch.equal(found[name], value)}
    behind = ("layers.2.", "layers.3.", "model.norm", "lm_head")
    assert changed == {name for name in plain if not any(part in name for part in behind)} and changed


@pytest.mark.parametrize("reentrant", [True, False])
def test_recomputed_blocks_under_an_adapter(reentrant: bool, tmp_path: Path) -> None:
    options: dict[str, Any] = {"adapter": lora(), "edits": (*push(), Edit(Neutralise(), 2, 1.0, unit()))}
    plain = weights(run(build("llama"), tmp_path / "a", **options).lm)
    checkpointing = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": reentrant}}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`gradient_checkpointing", FutureWarning)  # its name before 5.2x
        found = weights(run(build("llama"), tmp_path / "b", arguments=checkpointing, **options).lm)
    for name, value in plain.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5)


def test_two_micro_batches_of_two_are_a_batch_of_four(tmp_path: Path) -> None:
    """Rows of 2 to 6 response tokens: a mean of means would weigh them otherwise."""
    edits = [push(norm=float(n), tokens="generated") for n in range(8)]
    whole, loss = step_gradients(build("llama"), tmp_path / "a", edits)
    for size, parts in ((4, 2), (2, 4), (1, 8)):
        arguments = {"per_device_train_batch_size": size, "gradient_accumulation_steps": parts}
        found, again = step_gradients(build("llama"), tmp_path / f"b{size}", edits, **arguments)
        assert math.isclose(loss, again, rel_tol=1e-6)
        for name, value in whole.items():
            torch.testing.assert_close(found[name], value, rtol=1e-4, atol=2e-6)


def test_edits_reach_their_rows_and_tokens_and_no_padding(tmp_path: Path) -> None:
    """Seen by an intervention of the test's own; rows differ in length, so that most batches are padded."""
    seen: list[tuple[float, int]] = []

    class Watch(Intervention):
        def forward(self, x: Tensor, at: EditContext) -> Tensor:
            seen.extend((float(norm), x.shape[1]) for norm in at.norm.flatten())
            return x + 1.0

    watch, encoded = Watch(), encode_rows(rows(), chats(build("llama")))
    kinds = ["all", "prompt", "generated", "all", "prompt", "all", "all"]
    edits = [(Edit(watch, 1, n + 1.0, None, kind),) for n, kind in enumerate(kinds)]  # type: ignore[arg-type]
    trained = run(build("llama"), tmp_path / "a", edits=[*edits, None], held_out=rows(2))
    assert sorted({norm for norm, _ in seen}) == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0] and len(seen) == 2 * 7
    lengths = [(row.prompt_length, len(row.ids) - row.prompt_length) for row in encoded]
    counts = {"all": sum, "prompt": lambda both: both[0], "generated": lambda both: both[1]}
    assert trained.steered == 2 * sum(counts[kind](own) for kind, own in zip(kinds, lengths, strict=False))
    assert max(length for _, length in seen) > min(sum(own) for own in lengths)  # some were padded


def test_the_same_rows_in_the_same_order_in_every_arm(tmp_path: Path) -> None:
    """Whatever the arm, the adapter, or the state of the global generators."""
    orders = []

    class Told(Response):
        def loss(self, lm: LanguageModel, batch: Batch) -> Loss:
            orders[-1].append(batch.rows)
            return super().loss(lm, batch)

    arms: list[dict[str, Any]] = [{}, {"edits": push()}, {"adapter": lora()}, {"seed": 6}]
    for number, arm in enumerate(arms):
        orders.append([])
        lm = build("llama")
        torch.manual_seed(number)
        state = torch.get_rng_state()
        run(lm, tmp_path / str(number), objective=Told(), **arm)
        assert torch.equal(torch.get_rng_state(), state)
    assert orders[0] == orders[1] == orders[2] != orders[3]
    assert sorted(row for rows_ in orders[0][:4] for row in rows_) == list(range(8))


def test_what_is_given_back(tmp_path: Path) -> None:
    """Log, counts, held-out loss by hand, progress, and a model in eval mode without hooks."""
    lm = build("llama")
    AcceleratorState._reset_state(reset_partial_state=True)
    told: list[tuple[int, int]] = []
    encoded = encode_rows(rows(3), chats(lm))

    def by_hand() -> float:
        total = 0.0
        for row in encoded:
            with torch.no_grad():
                logits = lm.model(torch.tensor([row.ids])).logits[0].log_softmax(-1)
            total -= sum(float(logits[t - 1, row.ids[t]]) for t in range(row.prompt_length, len(row.ids)))
        return total / sum(row.learned for row in encoded)

    before = by_hand()
    trained = run(
        lm,
        tmp_path,
        edits=push(),
        held_out=rows(3),
        progress=lambda *at: told.append(at),
        arguments={"logging_steps": 3},
    )
    assert told == [(n, 8) for n in range(9)]
    assert [row.step for row in trained.log] == [3, 6] and trained.steps == 8
    assert all(row.loss > 0 and row.grad_norm > 0 and row.learning_rate > 0 for row in trained.log)
    assert trained.held_out == (pytest.approx(before, rel=1e-6), pytest.approx(by_hand(), rel=1e-6))
    assert trained.trainable == trained.parameters == lm.model.num_parameters()
    assert not any(module.training for module in lm.model.modules()) and hooks(lm) == []
    assert all(p.grad is None for p in lm.model.parameters())
    assert not PartialState._shared_state  # accelerate's: models that are loaded later look for their own device


class Odd(Response):
    """Not finite at the third micro-batch; fails at the `fails`-th."""

    def __init__(self, *, fails: int = 99) -> None:
        super().__init__()
        self.calls, self.fails = 0, fails

    def loss(self, lm: LanguageModel, batch: Batch) -> Loss:
        self.calls += 1
        found = super().loss(lm, batch)
        if self.calls == self.fails:
            raise ZeroDivisionError
        if self.calls == 3:
            return Loss(found.total * math.nan)
        return Loss(found.total, {"watched": 2 * found.total.detach()})


@pytest.mark.parametrize("adapter", [lora(), Full()], ids=["lora", "full"])
def test_a_loss_that_is_not_finite_ends_it_and_the_model_is_as_before(adapter: Any, tmp_path: Path) -> None:
    lm = build("llama")
    before, told = weights(lm), [p.requires_grad for p in lm.model.parameters()]
    message = r"llama: the loss is nan on rows 'r\d', 'r\d', at step 3 of 8: lower the learning rate or the strength"
    with pytest.raises(SteerkitError, match=message):
        run(lm, tmp_path, adapter=adapter, objective=Odd(), edits=push(), arguments={"save_strategy": "steps"})
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["checkpoint-1", "checkpoint-2"]
    with pytest.raises(ZeroDivisionError):
        run(lm, tmp_path / "b", adapter=adapter, objective=Odd(fails=2), edits=push())
    assert same(weights(lm), before) and hooks(lm) == []
    assert [p.requires_grad for p in lm.model.parameters()] == told
    assert not any(module.training for module in lm.model.modules())


def test_parts_of_a_loss_are_logged(tmp_path: Path) -> None:
    objective = Odd()
    objective.calls = 3
    arguments = {"gradient_accumulation_steps": 2}
    trained = run(build("llama"), tmp_path, objective=objective, arguments=arguments)
    assert all(row.parts == {"watched": pytest.approx(2 * row.loss, rel=1e-6)} for row in trained.log)


def test_an_edit_that_changes_nothing_ends_it(tmp_path: Path) -> None:
    """An adapter above the site leaves nothing to compute before it whose gradient could be changed."""
    edits = (Edit(Neutralise(), 1, 1.0, unit()),)
    with pytest.raises(SteerkitError, match="no gradient was changed at block 1 of llama"):
        run(build("llama"), tmp_path, adapter=lora(layers=(2, 3)), edits=edits)
    trained = run(build("llama"), tmp_path, adapter=lora(layers=(0, 1)), edits=edits)
    assert trained.steered == 2 * sum(len(row.ids) for row in encode_rows(rows(), chats(trained.lm)))
    with pytest.raises(SteerkitError, match="edits for 2 rows were given, and there are 8"):
        run(build("llama"), tmp_path / "b", edits=[push(), push()])
    with pytest.raises(SteerkitError, match="layer: 4 is not a block of llama: it has 4, numbered 0 to 3"):
        run(build("llama"), tmp_path / "b", edits=push(layer=4))


def test_mixed_precision(tmp_path: Path) -> None:
    """bfloat16 autocast, which accelerate puts around the model's forward: the edits are there, and it comes off."""
    lm = build("llama")
    plain = run(build("llama"), tmp_path / "a", edits=push()).log
    trained = run(lm, tmp_path / "b", edits=push(), arguments={"bf16": True})
    assert hooks(lm) == [] and trained.steered > 0
    assert [row.loss for row in trained.log] == pytest.approx([row.loss for row in plain], rel=0.03)
    assert trained.log != plain


@pytest.mark.parametrize("name", ["gpt2", "opt", "falcon", "gemma2"])
def test_dropout_is_off_and_comes_back(name: str, tmp_path: Path) -> None:
    """Two trainings with other random numbers at each step are the same; rates are as before afterwards."""
    lm = breed(name)
    for owner in (*lm.model.modules(), lm.model.config):
        for key, value in list(vars(owner).items()):
            if ("drop" in key and isinstance(value, float)) or (key == "p" and isinstance(owner, nn.Dropout)):
                setattr(owner, key, 0.5)

    class Noisy(Response):
        def loss(self, lm: LanguageModel, batch: Batch) -> Loss:
            torch.rand(self.noise)
            return super().loss(lm, batch)

    found = []
    for noise in (1, 2):
        objective = Noisy()
        objective.noise = noise  # type: ignore[attr-defined]
        trained = run(lm, tmp_path / str(noise), objective=objective, edits=push(0), arguments={"max_steps": 2})
        found.append(weights(lm))
        trained.detach()
    assert same(*found)
    rates = [module.p for module in lm.model.modules() if isinstance(module, nn.Dropout)]
    assert set(rates) <= {0.5}


def test_the_page_on_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its code runs as it stands, and what it saves is the trained model."""
    page = (Path(__file__).parent.parent / "docs/training.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(page.split("```python\n")[1].split("```")[0], names)
    before, after = names["trained"].held_out
    assert after < before and names["trained"].steered > 0 and str(before) in capsys.readouterr().out
    base = load_model("pocket:reasoning", device="cpu")
    assert same(weights(names["lm"]), weights(base))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)  # peft's, on loading
        load_model("pocket:reasoning", adapter="adapter", device="cpu")
