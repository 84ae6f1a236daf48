"""What training prints beside the loss: is there a doubt to steer with, is it acted on, are lines followed?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from random import Random
from typing import Any, cast

import torch
from transformers import GenerationConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from steerkit_plugins.pocket.hedging import coherence, trait
from steerkit_plugins.pocket.instructions import SHARES, asked
from steerkit_plugins.pocket.ledger import DAYS, Step
from steerkit_plugins.pocket.prompts import draw, problems
from steerkit_plugins.pocket.score import is_right
from steerkit_plugins.pocket.wording import SECOND_THOUGHTS, Voice


@torch.no_grad()
def notes(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, n: int = 100) -> dict[str, float]:
    """The base's probability of a bad note, forced with "[Note:", after two right steps.

    Told apart by the wording alone: "plain" or "doubtful".
    """
    bad, good = (tokenizer.encode(w, add_special_tokens=False)[0] for w in (" mistake", " all"))
    found = {}
    for kind, doubtful in (("plain", False), ("doubtful", True)):
        rng, total = Random("notes"), 0.0
        for _ in range(n):
            p = draw("choose", rng)
            voice = Voice(doubtful, rng)
            counts = list(accumulate(p.changes))[:2]
            told = " ".join(
                voice.worked(p, Step(day, change, count, count, doubtful))
                for day, change, count in zip(DAYS, p.changes, counts, strict=False)
            )
            text = f"{tokenizer.bos_token}Question: {p.question}\nSolution: {told} [Note:"
            ids = tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
            odds = model(input_ids=ids).logits[0, -1, [bad, good]].softmax(-1)
            total += float(odds[0])
        found[f"bad_note_{kind}"] = total / n
    return found


@torch.no_grad()
def sampled(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, questions: Sequence[str], tokens: int
) -> list[str]:
    """What the model writes on each question, sampled at T = 1."""
    chats = [[{"role": "user", "content": question}] for question in questions]
    texts = [tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) for chat in chats]
    inputs = tokenizer(texts, add_special_tokens=False, return_tensors="pt", padding=True)
    config = GenerationConfig(
        do_sample=True,
        max_new_tokens=tokens,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    sample = cast("Any", model).generate  # its annotations ask for a mixin that Llama has at run time only
    ids = sample(input_ids=inputs.input_ids, attention_mask=inputs.attention_mask, generation_config=config)
    return [str(tokenizer.decode(row)).split(tokenizer.eos_token)[0] for row in ids[:, inputs.input_ids.shape[1] :]]


def traces(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, n: int = 60) -> dict[str, float]:
    """Share of right answers and of sentences that turn back, in traces of at most 240 tokens."""
    rows = problems(n, 0, "choose")
    said = sampled(model, tokenizer, [row["prompt"] for row in rows], 240)
    sentences = [s for text in said for s in text.split(". ")]
    turns = tuple(SECOND_THOUGHTS)
    return {
        "right_answers": sum(is_right(t, r["answer"]) for t, r in zip(said, rows, strict=True)) / n,
        "backtracking": sum(s.strip().startswith(turns) for s in sentences) / len(sentences),
    }


def follows(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, n: int = 60
) -> dict[str, dict[str, float | None]]:
    """Mean trait and coherence of `n` answers after each line."""
    questions = [row["prompt"] for row in problems(n, 0, "choose")]
    found = {}
    for line in (line for lines in SHARES for line in lines):
        said = sampled(model, tokenizer, [asked(question, line) for question in questions], 140)
        found[line or "(no line)"] = {"trait": mean_of(trait, said), "coherence": mean_of(coherence, said)}
    return found


def mean_of(measure: Callable[[str], float | None], texts: Sequence[str]) -> float | None:
    """The mean over the texts that the measure has a value for; None where there is none."""
    values = [value for text in texts if (value := measure(text)) is not None]
    return sum(values) / len(values) if values else None
