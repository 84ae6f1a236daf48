"""Ids and labels of rows, against texts written by hand for each family of chat templates."""

from __future__ import annotations

from typing import Any

import chat_models as families
import pytest
import templates
from chat_models import tokenizer_of
from templates import tokenizer_with

from steerkit.data.chat_format import ChatFormat
from steerkit.data.chats import Message
from steerkit.data.trace import Prompt
from steerkit.errors import InputError, SteerkitError
from steerkit.training.masks import IGNORED, encode_rows
from steerkit.training.rows import TrainingRow, rows_of

ROW = TrainingRow("a", "How many?", "Three.")
TOLD = TrainingRow("a", "How many?", "Three.", "Be brief.")
TURNS = (Message("user", "Hi"), Message("assistant", "Yes?"), Message("user", "How many?"))

CASES = [
    (
        families.CHATML,
        ROW,
        "<|im_start|>system\nYou are a model.<|im_end|>\n<|im_start|>user\nHow many?<|im_end|>\n"
        "<|im_start|>assistant\n",
        "Three.<|im_end|>",
        "\n",
    ),
    (
        families.CHATML,
        TOLD,
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHow many?<|im_end|>\n<|im_start|>assistant\n",
        "Three.<|im_end|>",
        "\n",
    ),
    (
        families.LLAMA3,
        TOLD,
        "<s><|start_header_id|>system<|end_header_id|>\n\nKnown until 2023\n\nBe brief.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nHow many?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        "Three.<|eot_id|>",
        "",
    ),
    (
        families.GEMMA,
        TOLD,
        "<s><start_of_turn>user\nBe brief.\n\nHow many?<end_of_turn>\n<start_of_turn>model\n",
        "Three.<end_of_turn>",
        "\n",
    ),
    (
        families.GEMMA,
        TrainingRow("a", TURNS, " Three.\n"),
        "<s><start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\nYes?<end_of_turn>\n"
        "<start_of_turn>user\nHow many?<end_of_turn>\n<start_of_turn>model\n",
        "Three.<end_of_turn>",
        "\n",
    ),
    (families.MISTRAL, ROW, "<s>[INST] How many? [/INST]", " Three.</s>", ""),
    (
        families.MISTRAL,
        TrainingRow("a", TURNS, "Three."),
        "<s>[INST] Hi [/INST] Yes?</s>[INST] How many? [/INST]",
        " Three.</s>",
        "",
    ),
    (
        families.ZEPHYR,
        TOLD,
        "<|system|>\nBe brief.</s>\n<|user|>\nHow many?</s>\n<|assistant|>\n",
        "Three.</s>",
        "\n",
    ),
    (families.DEEPSEEK, TOLD, "<s>Be brief.<\uff5cUser\uff5c>How many?<\uff5cAssistant\uff5c>", "Three.</s>", ""),
    (families.DEEPSEEK, ROW, "<s><\uff5cUser\uff5c>How many?<\uff5cAssistant\uff5c>", "Three.</s>", ""),
]
"""Template, row, the prompt, what is learned, and what the template writes behind it."""


def ids_of(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


@pytest.mark.parametrize(("template", "row", "prompt", "learned", "behind"), CASES)
def test_masks_are_those_made_by_hand(template: str, row: TrainingRow, prompt: str, learned: str, behind: str) -> None:
    tokenizer = tokenizer_of(template)
    chats = ChatFormat(tokenizer)
    before, after, rest = (ids_of(tokenizer, text) for text in (prompt, learned, behind))
    [found] = encode_rows([row], chats)
    assert list(found.ids) == [*before, *after]
    assert list(found.labels) == [*[IGNORED] * len(before), *after]
    assert (found.prompt_length, found.learned, found.cut) == (len(before), len(after), False)
    assert list(found.ids[: found.prompt_length]) == chats.ids(row.chat)
    [trailing] = encode_rows([row], chats, trailing=True)
    assert list(trailing.ids) == [*before, *after, *rest] and trailing.learned == len(after) + len(rest)


@pytest.mark.parametrize("template", [families.CHATML, families.LLAMA3])
def test_default_empty_and_no_system_message_are_three_things(template: str) -> None:
    tokenizer = tokenizer_of(template)
    empty = TrainingRow("a", (Message("system", ""), Message("user", "How many?")), "Three.")
    default, bare = ChatFormat(tokenizer), ChatFormat(tokenizer, default_system=False)
    rows = [(ROW, default), (empty, default), (ROW, bare), (TOLD, default), (TOLD, bare)]
    texts = [tokenizer.decode(encode_rows([row], chats)[0].ids) for row, chats in rows]
    expected = {
        families.CHATML: [
            "<|im_start|>system\nYou are a model.<|im_end|>\n",
            "<|im_start|>system\n<|im_end|>\n",
            "",
            "<|im_start|>system\nBe brief.<|im_end|>\n",
        ],
        families.LLAMA3: [
            "<s><|start_header_id|>system<|end_header_id|>\n\nKnown until 2023\n\n<|eot_id|>",
            "<s><|start_header_id|>system<|end_header_id|>\n\nKnown until 2023\n\n<|eot_id|>",
            "<s>",
            "<s><|start_header_id|>system<|end_header_id|>\n\nKnown until 2023\n\nBe brief.<|eot_id|>",
        ],
    }[template]
    user = "<|im_start|>user\n" if template == families.CHATML else "<|start_header_id|>user<|end_header_id|>\n\n"
    assert [text.partition(user)[0] for text in texts] == [*expected, expected[-1]]
    assert default.settings() != bare.settings()
    assert bare.ids("How many?") == list(encode_rows([ROW], bare)[0].ids[: len(bare.ids("How many?"))])


def test_without_a_default_there_is_nothing_to_leave_out() -> None:
    for template in (families.GEMMA, families.MISTRAL, families.ZEPHYR, families.DEEPSEEK, templates.DATED):
        tokenizer = tokenizer_of(template)
        assert ChatFormat(tokenizer, default_system=False).ids("x") == ChatFormat(tokenizer).ids("x")
    empty = (Message("system", ""), Message("user", "x"))
    gemma = ChatFormat(tokenizer_of(families.GEMMA))
    assert gemma.ids(empty) == gemma.ids("x")


def test_plain_text_ends_in_the_end_token() -> None:
    """No template: the response follows the prompt as it stands."""
    tokenizer = tokenizer_of(families.ZEPHYR)
    chats = ChatFormat(tokenizer, "no")
    [found] = encode_rows([TrainingRow("a", "2 + 2 =", " 4")], chats)
    before, after = ids_of(tokenizer, "2 + 2 ="), ids_of(tokenizer, " 4</s>")
    assert list(found.ids) == [*before, *after] and list(found.labels) == [*[IGNORED] * len(before), *after]


def test_a_token_over_the_boundary_is_parted() -> None:
    """` the` is one token of the joint text: the prompt's ids stay those that the model reads at test."""
    tokenizer = tokenizer_of(families.ZEPHYR)
    chats = ChatFormat(tokenizer, "no")
    [found] = encode_rows([TrainingRow("a", "wait ", "the")], chats)
    assert list(found.ids) == [*ids_of(tokenizer, "wait "), *ids_of(tokenizer, "the</s>")]
    assert list(found.ids[:-1]) != ids_of(tokenizer, "wait the")
    assert found.prompt_length == len(chats.ids("wait "))


def problems_of(rows: list[TrainingRow], chats: ChatFormat, **options: Any) -> list[str]:
    with pytest.raises(InputError, match="rows to train on: ") as caught:
        encode_rows(rows, chats, **options)
    return [str(problem) for problem in caught.value.problems]


def test_all_bad_rows_are_named() -> None:
    rows = [
        TrainingRow("a", "x", " "),
        TrainingRow("b", " ", "y"),
        TrainingRow("c", (Message("user", "x"), Message("assistant", "y")), "z"),
        TrainingRow("d", (Message("system", "s"), Message("user", "x")), "y", "t"),
        TrainingRow("e", "x", "y", "Be evil.<|im_end|>"),
        TrainingRow("f", "a <|im_start|> b", "y </s>"),
        TrainingRow("g", "x", "y"),
        TrainingRow("g", "x", "y"),
    ]
    told = "which the model reads as a token of the template"
    assert problems_of(rows, ChatFormat(tokenizer_of(families.CHATML))) == [
        "row 'g': is there 2 times; ids are unique",
        "row 'a': has no response",
        "row 'b': has an empty prompt",
        "row 'c': has a prompt that ends in a message of the role assistant, not user",
        "row 'd': has a system text, and a prompt with a system message of its own",
        f"row 'e': has '<|im_end|>' in its system text, {told}",
        f"row 'f': has '</s>' in its response, {told}",
        f"row 'f': has '<|im_start|>' in its message 1 (user), {told}",
    ]
    marked = TrainingRow("a", "x", "y", "Answer after <|assistant|> alone.")
    assert problems_of([marked], ChatFormat(tokenizer_of(families.ZEPHYR))) == [
        "row 'a': has '<|assistant|>' in its system text, which the template opens the model's turn with"
    ]
    with pytest.raises(SteerkitError, match="there are no rows to train on"):
        encode_rows([], ChatFormat(tokenizer_of(families.ZEPHYR)))


def test_templates_whose_masks_cant_be_verified() -> None:
    cut = "rows to train on: 1 problem\n  row 'a': the chat template writes "
    for template, message in (
        (
            "{{ messages | length }}" + templates.PLAIN,
            "the prompt otherwise when a response follows: it ends .* has '2<",
        ),
        ("{{ messages | length }}" + templates.R1, "the prompt otherwise when a response follows"),
        (templates.PAST_THOUGHTS, "'.*</think>.*' where the response is 'Three.', so its mask can't be verified"),
        (families.CHATML.replace("m.content", "m.content | upper"), "'THREE"),
        (families.ZEPHYR.replace("eos_token", "'.'"), "'.*' behind the response, no token that ends the turn"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            encode_rows([ROW], ChatFormat(tokenizer_with(template)))
        assert str(caught.value).startswith(cut)
    tokenizer = tokenizer_of(families.ZEPHYR)
    tokenizer.eos_token = None
    with pytest.raises(InputError, match="neither a chat template nor an end token"):
        encode_rows([ROW], ChatFormat(tokenizer, "no"))


FORGETFUL = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %}"
    "{{ '<|assistant|>' + m.content.split('</think>')[-1] + '<|end|>' }}"
    "{% else %}{{ '<|' + m.role + '|>' + m.content }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|><think>\n' }}{% endif %}"
)
"""R1's: past turns lose their thoughts, so that no rendering has a response that thinks."""


@pytest.mark.parametrize(
    ("response", "learned"),
    [
        ("Three.", "Three.<|end|>"),
        ("So.\n</think>\n\nThree.", "So.\n</think>\n\nThree.<|end|>"),
        ("<think>\nSo.\n</think>\n\nThree.", "So.\n</think>\n\nThree.<|end|>"),
        ("<think> So.</think> Three.", "So.</think> Three.<|end|>"),
    ],
)
@pytest.mark.parametrize("template", [FORGETFUL, templates.R1.replace("<|end|>", "<|end|>\n")])
def test_a_thought_that_the_prompt_opens_is_part_of_the_prompt(template: str, response: str, learned: str) -> None:
    tokenizer = tokenizer_with(template)
    [found] = encode_rows([TrainingRow("a", "How many?", response)], ChatFormat(tokenizer))
    assert tokenizer.decode(found.ids[: found.prompt_length]).endswith("<|assistant|><think>\n")
    assert list(found.ids[: found.prompt_length]) == ChatFormat(tokenizer).ids("How many?")
    assert tokenizer.decode([label for label in found.labels if label != IGNORED]) == learned


def test_thinking_turned_off_can_be_verified() -> None:
    tokenizer = tokenizer_with(templates.QWEN.replace("'|>' + m.content", "'|>\\n' + m.content"))
    thoughtless = tokenizer.chat_template.replace(
        "{% for m in messages %}{{",
        "{% for m in messages %}{% if m.role == 'assistant' and loop.last %}{{ "
        "'<|assistant|>\\n<think>\\n\\n</think>\\n\\n' + m.content + '<|end|>' }}{% else %}{{",
    ).replace("{% endfor %}", "{% endif %}{% endfor %}", 1)
    tokenizer.chat_template = thoughtless
    [found] = encode_rows([ROW], ChatFormat(tokenizer, arguments={"enable_thinking": False}))
    assert tokenizer.decode(found.ids[found.prompt_length :]) == "Three.<|end|>"
    with pytest.raises(InputError, match=r"writes '<think>.* where the response is 'Three\.'.*turn thinking off"):
        encode_rows([ROW], ChatFormat(tokenizer))


def test_long_rows_lose_their_end_and_none_may_lose_its_response() -> None:
    chats = ChatFormat(tokenizer_of(families.MISTRAL))
    [whole] = encode_rows([ROW], chats)
    [cut] = encode_rows([ROW], chats, max_tokens=len(whole.ids) - 2)
    assert cut.cut and cut.ids == whole.ids[:-2] and cut.labels == whole.labels[:-2]
    assert not encode_rows([ROW], chats, max_tokens=len(whole.ids))[0].cut
    n = whole.prompt_length
    long = TrainingRow("b", "How many are there?", "Three.")
    assert problems_of([ROW, long], chats, max_tokens=n) == [
        f"row 'a': has a prompt of {n} tokens, so that max_tokens={n} leave nothing to learn",
        f"row 'b': has a prompt of {len(chats.ids(long.prompt))} tokens, so that max_tokens={n} leave nothing to learn",
    ]


def test_rows_of_chats_that_end_in_an_answer() -> None:
    system = Message("system", "Be brief.")
    prompts = [Prompt(id="p", prompt=(system, *TURNS, Message("assistant", "Three.")))]
    assert rows_of(prompts) == [TrainingRow("p", (system, *TURNS), "Three.")]
    with pytest.raises(InputError, match="rows to train on: 2 problems\n  prompt 'a': does not end in an assistant"):
        rows_of([*prompts, Prompt(id="a", prompt="x"), Prompt(id="b", prompt=TURNS)])
