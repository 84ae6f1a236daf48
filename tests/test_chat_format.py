"""Prompts through chat templates: system texts, turns, arguments, dates, continued answers, doubled beginnings."""

from __future__ import annotations

from datetime import date, datetime
from typing import Any

import pytest
import templates
from templates import tokenizer_with
from tiny import word_tokenizer

from steerkit.data.chat_format import ChatFormat, format_prompt, in_words
from steerkit.data.chats import Chat, Message
from steerkit.data.template_text import arguments_of, repeated_from
from steerkit.data.tokens import decode, encode_trace
from steerkit.data.trace import Prompt, Trace
from steerkit.errors import InputError, SteerkitError

SYSTEM, USER = Message("system", "Be brief."), Message("user", "How many?")
ANSWER, AGAIN = Message("assistant", "Three."), Message("user", "Sure?")
CHAT, LONG = (SYSTEM, USER), (SYSTEM, USER, ANSWER, AGAIN)


def formatted(template: str | None, chat: Chat, **options: Any) -> str:
    tokenizer = tokenizer_with(template)
    return decode(tokenizer, ChatFormat(tokenizer, **options).ids(chat))


def test_a_text_is_read_as_before() -> None:
    """By transformers' own call, for every template that takes a user's turn."""
    for name in ("PLAIN", "R1", "LED", "QWEN", "PAST_THOUGHTS", "STRICT", "DROPPING", "ALL_USERS", "LAST_ONLY"):
        tokenizer = tokenizer_with(getattr(templates, name))
        turn = [{"role": "user", "content": "How many?"}]
        text = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
        expected = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert ChatFormat(tokenizer).ids("How many?") == expected == ChatFormat(tokenizer).ids((USER,))
        assert "".join(ChatFormat(tokenizer).parts("How many?")) == text
    assert formatted(None, "How many?") == "How many?" == formatted(templates.R1, "How many?", mode="no")


def test_turns_are_the_templates() -> None:
    turns = ("system|>Be brief.", "user|>How many?", "assistant|>Three.", "user|>Sure?", "assistant|>")
    assert formatted(templates.PLAIN, LONG) == "<s>" + "<|end|>".join(f"<|{turn}" for turn in turns)


@pytest.mark.parametrize("name", ["STRICT", "DROPPING", "ALL_USERS"])
def test_a_system_text_goes_to_the_first_user_where_there_is_no_system_role(name: str) -> None:
    template = getattr(templates, name)
    folded = (Message("user", "Be brief.\n\nHow many?"), ANSWER, AGAIN)
    assert formatted(template, LONG) == formatted(template, folded)
    chats = ChatFormat(tokenizer_with(template))
    notes = chats.check([Prompt(id="a", prompt=LONG), Prompt(id="b", prompt="x"), Prompt(id="c", prompt=CHAT)])
    assert notes == {"system_in_user_turn": 2}
    assert in_words({"chats": notes}) == [
        "System texts put before the first user message, a blank line between them, as the chat template has no system "
        "role: 2."
    ]
    assert ChatFormat(tokenizer_with(templates.PLAIN)).check([Prompt(id="a", prompt=LONG)]) == {}


def test_all_prompts_that_a_template_refuses_are_named() -> None:
    chats = ChatFormat(tokenizer_with(templates.STRICT))
    prompts = [Prompt(id="a", prompt="x"), Prompt(id="b", prompt=(USER, AGAIN)), Prompt(id="c", prompt=(ANSWER, USER))]
    with pytest.raises(InputError) as caught:
        chats.check(prompts)
    assert [str(p) for p in caught.value.problems] == [
        f"prompt '{name}': the chat template refuses it: Conversation roles must alternate user/assistant"
        for name in "bc"
    ]
    with pytest.raises(SteerkitError, match="leaves out message 1 of the roles user, assistant, user"):
        ChatFormat(tokenizer_with(templates.LAST_ONLY)).ids((USER, ANSWER, AGAIN))
    with pytest.raises(SteerkitError, match="the chat template refuses it: Encountered unknown tag"):
        ChatFormat(tokenizer_with("{% wrong %}")).ids("x")
    with pytest.raises(SteerkitError, match="the chat template refuses it: can only concatenate"):
        ChatFormat(tokenizer_with("{{ messages[0].content + 3 }}")).ids("x")
    several = tokenizer_with(None)
    several.chat_template = {"tool_use": templates.PLAIN, "rag": templates.PLAIN}
    with pytest.raises(SteerkitError, match=r"the chat template can't be used: .*no default.*; or use chat: no"):
        ChatFormat(several)
    several.chat_template = {"default": templates.R1, "rag": templates.PLAIN}
    assert decode(several, ChatFormat(several).ids("x")).endswith("<think>\n")


def test_without_a_template_messages_are_joined() -> None:
    tokenizer = tokenizer_with(None)
    for chats in (ChatFormat(tokenizer), ChatFormat(tokenizer_with(templates.PLAIN), "no")):
        assert decode(tokenizer, chats.ids(LONG)) == "Be brief.\n\nHow many?\n\nThree.\n\nSure?"
        assert decode(tokenizer, chats.ids((USER, ANSWER))) == "How many?\n\nThree."
        assert chats.ids((USER,)) == chats.ids("How many?")
        notes = chats.check([Prompt(id="a", prompt=LONG), Prompt(id="b", prompt=(USER,)), Prompt(id="c", prompt="x")])
        assert notes == {"joined": 1}


@pytest.mark.parametrize("begin", ["Three", "Three. And", "<think>\nSo", " x"])
def test_a_last_answer_is_continued_as_transformers_does(begin: str) -> None:
    for template in (templates.PLAIN, templates.STRICT):
        tokenizer = tokenizer_with(template)
        turns = [{"role": "user", "content": "How many?"}, {"role": "assistant", "content": begin}]
        text = tokenizer.apply_chat_template(turns, tokenize=False, continue_final_message=True)
        assert formatted(template, (USER, Message("assistant", begin))) == text
    chats = ChatFormat(tokenizer_with(templates.PLAIN))
    assert chats.check([Prompt(id="a", prompt=(USER, ANSWER)), Prompt(id="b", prompt=LONG)]) == {"continued": 1}


def test_a_continued_answer_stands_behind_what_opens_the_turn_once() -> None:
    for name, begin, end in (
        ("R1", "So", "<|assistant|><think>\nSo"),
        ("R1", "<think>\nSo", "<|assistant|><think>\nSo"),
        ("R1", "<think>So", "<|assistant|><think>So"),
        ("PAST_THOUGHTS", "<think>\nSo", "<|assistant|><think>\nSo"),  # transformers' own puts an empty thought before
        ("LED", "Let me think. So", "<|assistant|>Let me think. So"),
    ):
        found = formatted(getattr(templates, name), (USER, Message("assistant", begin)))
        assert found.endswith("<|end|>" + end), name


def test_arguments_reach_the_template() -> None:
    off = formatted(templates.QWEN, "x", arguments={"enable_thinking": False})
    assert off == formatted(templates.QWEN, "x") + "<think>\n\n</think>\n\n"
    assert formatted(templates.QWEN, "x", arguments={"enable_thinking": True}) == formatted(templates.QWEN, "x")
    assert formatted(templates.DATED, "x", arguments={"date_string": "1 May 2025"}).startswith("Today: 1 May 2025")


def test_arguments_that_the_template_never_reads_are_refused() -> None:
    wanted = {"enable_thinkng": False, "reasoning_effort": "low", "messages": [], "bos_token": "x", "strftime_now": 1}
    with pytest.raises(InputError) as caught:
        ChatFormat(tokenizer_with(templates.QWEN), arguments=wanted)
    assert [p.where for p in caught.value.problems] == [f"chat_template_kwargs.{name}" for name in wanted]
    assert str(caught.value.problems[0]).endswith("the chat template never reads it; did you mean 'enable_thinking'?")
    assert str(caught.value.problems[1]).endswith("choose from enable_thinking")
    marked = "{% for m in messages %}{% generation %}{{ m.content + effort }}{% endgeneration %}{% break %}{% endfor %}"
    assert ChatFormat(tokenizer_with(marked), arguments={"effort": "low"}).ids("x")
    own = "{% if tools %}{% set first = 'x' %}{% else %}{% set first = '' %}{% endif %}{{ first + messages[0].role }}"
    assert arguments_of(own) == []
    assert arguments_of(templates.DATED) == ["date_string"]  # set where it is not given
    for tokenizer, mode in ((tokenizer_with(None), "auto"), (tokenizer_with(templates.QWEN), "no")):
        with pytest.raises(SteerkitError, match="no chat template is used that could read them"):
            ChatFormat(tokenizer, mode, {"enable_thinking": False})  # type: ignore[arg-type]
    with pytest.raises(SteerkitError, match="the chat template can't be read"):
        ChatFormat(tokenizer_with("{% wrong %}"), arguments={"x": 1})


def test_a_date_is_that_of_the_recipe() -> None:
    assert formatted(templates.DATED, "x").startswith("Today: 26 Jul 2024\n<|user|>x")
    assert formatted(templates.DATED, "x", day="2025-01-02").startswith("Today: 02 Jan 2025")
    assert formatted(templates.ALWAYS_DATED, "x", day="2025-01-02").startswith("2025-01-02<s>")
    told = ChatFormat(tokenizer_with(templates.ALWAYS_DATED)).check([Prompt(id="a", prompt="x")])
    assert told == {"template_date": "2024-07-26"}
    assert in_words({"chats": told}) == [
        "The chat template asks for today's date; it is told 2024-07-26 (`chat_date`)."
    ]
    given = ChatFormat(tokenizer_with(templates.DATED), arguments={"date_string": "1 May 2025"})
    assert given.check([Prompt(id="a", prompt="x")]) == {}  # nothing depends on the day


def test_a_pinned_template_is_the_template() -> None:
    """Today's date pinned gives what transformers gives today, white space at the beginning included."""
    start = "  {% if true %}\n  <|user|>\n{% endif %}"
    for template in (templates.DATED, templates.ALWAYS_DATED, start + templates.ALWAYS_DATED, "\n\n" + templates.DATED):
        tokenizer, turn = tokenizer_with(template), [{"role": "user", "content": "x"}]
        before = date.today()
        expected = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
        if before == date.today():  # not at midnight
            assert "".join(ChatFormat(tokenizer, day=before.isoformat()).parts("x")) == expected
    forms = "%a %A %w %d %-d %b %B %m %-m %y %Y %H %I %p %M %S %f %j %U %W %G %u %V %F %D %T %c %x %X %%"
    template = f"{{{{ strftime_now('{forms}') }}}}"
    tokenizer = tokenizer_with(template)
    assert "".join(ChatFormat(tokenizer, day="2025-03-09").parts("x")) == datetime(2025, 3, 9).strftime(forms)


def test_settings_are_all_that_ids_depend_on() -> None:
    def settings(template: str | None, **options: Any) -> Any:
        return ChatFormat(tokenizer_with(template), **options).settings()

    plain = settings(templates.QWEN)
    assert plain == settings(templates.QWEN, day="2025-01-02") == settings(templates.QWEN, mode="yes")
    off = settings(templates.QWEN, arguments={"enable_thinking": False})
    days = [settings(templates.DATED, day=day) for day in ("2025-01-02", "2025-01-03")]
    every = [plain, off, *days, settings(templates.R1), settings(None)]
    assert all(a != b for i, a in enumerate(every) for b in every[:i])
    assert settings(None) == settings(templates.R1, mode="no")


@pytest.mark.parametrize(
    ("name", "text", "kept"),
    [
        ("R1", "<think>\nOkay", ""),
        ("R1", "<think>Okay", ""),
        ("R1", "\n<think>\n\nOkay", ""),
        ("R1", "<|assistant|><think>\nOkay", None),
        ("R1", "Okay <think>\n", "<think>\n"),
        ("R1", "\nOkay", "<think>\n"),
        ("R1", " Okay", "<think>\n"),
        ("R1", "<thinking> is", "<think>\n"),
        ("R1", "think>\nOkay", "<think>\n"),
        ("R1", "", "<think>\n"),
        ("PAST_THOUGHTS", "<think>\nOkay", ""),
        ("LED", "Let me think.\nOkay", ""),
        ("LED", "Let me think about it.", "Let me think.\n"),
        ("PLAIN", "<|assistant|>Okay", None),
        ("PLAIN", "<think>\nOkay", ""),
        ("PLAIN", "assistant", ""),
    ],
)
def test_what_opens_the_turn_is_read_once(name: str, text: str, kept: str | None) -> None:
    """`kept`: what stays of the opening behind the header; None: not even the header."""
    tokenizer = tokenizer_with(getattr(templates, name))
    trace = encode_trace(tokenizer, Prompt(id="p", prompt="How many?"), text, "</think>")
    begin = decode(tokenizer, trace.prompt_ids)
    assert begin.endswith("How many?<|end|>" + ("" if kept is None else "<|assistant|>" + kept))
    assert decode(tokenizer, trace.tokens) == begin + text == begin + trace.text
    assert trace.starts[:1] in ((0,), ())
    chats = ChatFormat(tokenizer)
    whole = decode(tokenizer, chats.ids("How many?"))
    assert whole == begin + chats.repeated("How many?", text)


def test_a_trace_that_repeats_the_beginning_of_its_answer() -> None:
    tokenizer, chat = tokenizer_with(templates.R1), (USER, Message("assistant", "<think>\nWait"))
    for text, left in (
        ("Wait, no.", "<think>\n"),
        ("<think>\nWait, no.", ""),
        (", no.", "<think>\nWait"),
        ("Waiting", "<think>\nWait"),
    ):
        trace = encode_trace(tokenizer, Prompt(id="p", prompt=chat), text, "</think>")
        assert decode(tokenizer, trace.prompt_ids).endswith("<|assistant|>" + left)
        assert trace.text == text
    plain = encode_trace(tokenizer_with(None), Prompt(id="p", prompt=(USER, ANSWER)), "Three. Four.", "")
    assert decode(tokenizer, plain.prompt_ids) == "How many?\n\n"


def test_a_trace_with_its_whole_prompt_is_refused() -> None:
    tokenizer = tokenizer_with(templates.R1)
    whole = decode(tokenizer, ChatFormat(tokenizer).ids("How many?"))
    for text in (whole + "Okay", "<s>Okay"):
        with pytest.raises(SteerkitError, match=r"the trace begins with its own prompt \('<s>"):
            encode_trace(tokenizer, Prompt(id="p", prompt="How many?"), text, "</think>")
    restated = encode_trace(tokenizer_with(None), Prompt(id="p", prompt="How many?"), "How many? Three.", "")
    assert restated.text == "How many? Three."  # without a template it may be the model that says it again


def test_traces_that_open_twice_are_counted() -> None:
    chats = ChatFormat(tokenizer_with(templates.R1))
    texts = ("<think>\na", "<think>b", "c", "<think>\n</think>")
    traces = [Trace(id=t, prompt_id=t, prompt="x", text=t.split("</think>")[0], answer_text="") for t in texts]
    found = chats.opened_twice(traces)
    assert found == {"<think>\n": 3}
    assert in_words({"opened_twice": found}) == [
        "Traces that begin with '<think>\\n', which their prompt ends with and which is read once: 3."
    ]


def test_the_token_that_begins_a_sequence_is_there_once() -> None:
    from tokenizers.processors import TemplateProcessing

    tokenizer = tokenizer_with(None)
    begin = tokenizer.bos_token_id
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", begin)])
    once = ChatFormat(tokenizer).ids("How many?")
    assert once[0] == begin and once.count(begin) == 1
    assert ChatFormat(tokenizer).ids("<s>How many?") == once
    notes = ChatFormat(tokenizer).check([Prompt(id="a", prompt="<s>How many?"), Prompt(id="b", prompt="x")])
    assert notes == {"begun_once": 1}
    tokenizer.chat_template = "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}"
    assert ChatFormat(tokenizer).ids("<s>How many?") == once == ChatFormat(tokenizer).ids("How many?")


def test_a_prompt_may_close_the_reasoning() -> None:
    tokenizer = tokenizer_with(templates.QWEN)
    off = ChatFormat(tokenizer, arguments={"enable_thinking": False})
    assert off.closes("x", "</think>") and not ChatFormat(tokenizer).closes("x</think>", "</think>")
    assert not off.closes("x", "")
    assert ChatFormat(tokenizer).closes((USER, Message("assistant", "<think>\nSo.</think>")), "</think>")


def test_pieces_are_whole() -> None:
    assert repeated_from("<a>\n<b>\n", "<b>x", [0, 4]) == 4
    assert repeated_from("<a>\n<b>\n", "<a>\n<b>x", [0, 4]) == 0
    assert repeated_from("assistant\n", "t", [9]) == 10  # white space alone is no piece
    assert repeated_from("so", "some", [0]) == 2
    assert repeated_from("so", "so.", [0]) == 0


def test_a_prompt_with_and_without_a_chat_template() -> None:
    import copy

    tokenizer = copy.deepcopy(word_tokenizer())
    assert format_prompt(tokenizer, "wait the") == [3, 6]
    with pytest.raises(SteerkitError, match="chat: yes, but the tokenizer has no chat template"):
        format_prompt(tokenizer, "wait", "yes")
    tokenizer.chat_template = "<s> the {{ messages[0].content }} is"
    assert format_prompt(tokenizer, "wait") == [2, 6, 3, 8]  # the template's BOS, once
    assert format_prompt(tokenizer, "wait", "no") == [3]
