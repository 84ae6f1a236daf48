"""What is measured, and how a ratio is made of it. No test asserts a time."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from console import Steerkit
from tiny import tiny

from steerkit import registry
from steerkit.bench.costs import padded_forward, run_all, ticks
from steerkit.bench.hook import sharing_weights
from steerkit.bench.measure import (
    Question,
    Result,
    compare,
    interleaved,
    median_interval,
    quickest,
    ratios_of,
    read,
    result,
    write,
)
from steerkit.bench.sizes import SMALLEST
from steerkit.bench.sweep import ending, make_sweep, trim
from steerkit.bench.sweep_costs import check_same_texts, one_at_a_time
from steerkit.bench.table import markdown_table, text_table
from steerkit.bench.traces import LABELS, random_traces
from steerkit.errors import SteerkitError
from steerkit.generation.sampling import GREEDY, Sampling
from steerkit.generation.stream import end_ids
from steerkit.models.language_model import LanguageModel

COST = Question("cost", "a", "b", 1.5)
SPEED = Question("speed", "a", "b", 1.5, least=True)


def test_a_cost_is_held_from_above_and_a_speed_from_below() -> None:
    seconds = {"a": [1.0, 2.0, 4.0], "b": [2.0, 2.0, 2.0]}
    assert ratios_of(seconds, COST) == [0.5, 1.0, 2.0]
    assert ratios_of(seconds, SPEED) == [2.0, 1.0, 0.5]
    cost, speed = (result(question, ratios_of(seconds, question)) for question in (COST, SPEED))
    assert (cost.ratio, cost.low, cost.high, cost.holds, cost.rounds) == (1.0, 0.5, 2.0, True, 3)
    assert (speed.ratio, speed.holds, speed.least) == (1.0, False, True)


@pytest.mark.parametrize(
    ("n", "ends"),
    # Below six values no interval holds 95 %; the known ones of order statistics otherwise.
    [(1, (1, 1)), (5, (1, 5)), (6, (1, 6)), (9, (2, 8)), (15, (4, 12)), (20, (6, 15))],
)
def test_the_median_has_the_interval_of_order_statistics(n: int, ends: tuple[int, int]) -> None:
    assert median_interval([float(i) for i in range(n, 0, -1)]) == ends


def test_works_take_turns_and_every_other_round_goes_backwards() -> None:
    done: list[str] = []
    counted: list[int] = []
    works = {"a": lambda: done.append("a"), "b": lambda: done.append("b")}
    seconds = interleaved(works, 3, tick=lambda: counted.append(1))
    assert "".join(done) == "ab" + "ab" + "ba" + "ab"
    assert {name: len(own) for name, own in seconds.items()} == {"a": 3, "b": 3}
    assert len(counted) == 8


def test_seconds_are_of_a_unit() -> None:
    def spin(times: int) -> float:
        for _ in range(20_000 * times):
            pass
        return float(times)

    (found,) = compare({"a": lambda: spin(1), "b": lambda: spin(50)}, [Question("", "b", "a", 0)], 5)
    assert 0.1 < found.ratio < 10  # 50 without units


def test_a_work_that_did_nothing_is_an_error() -> None:
    """Texts that all end at once have no time a token; nobody would see that in a ratio."""
    with pytest.raises(SteerkitError, match="did nothing: no tokens, no traces"):
        compare({"a": lambda: 0, "b": lambda: 1}, [Question("", "a", "b", 0)], 2, warm=False)


@pytest.mark.parametrize("nothing", [0.0, -1.0, float("nan"), float("inf")])
def test_a_ratio_of_nothing_is_an_error(nothing: float) -> None:
    for question in (COST, SPEED):
        for seconds in ({"a": [1.0, nothing], "b": [1.0, 1.0]}, {"a": [1.0, 1.0], "b": [1.0, nothing]}):
            with pytest.raises(SteerkitError, match=f"^{question.name}: .* is no ratio: one side measured nothing$"):
                ratios_of(seconds, question)
        with pytest.raises(SteerkitError, match="no ratios of what was measured"):
            result(question, [1.0, nothing])
    with pytest.raises(SteerkitError, match="no ratios of what was measured"):
        result(COST, [])


def test_peak_memory_is_a_childs_own() -> None:
    """After fork and exec a child's `ru_maxrss` is its parent's: what it holds itself would not show."""
    code = (
        "from steerkit.bench.peak import begin_peak, peak\n"
        "import resource\n"
        "before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, begin_peak()\n"
        "held = bytearray(b'x') * (80 * 2**20)\n"
        "del held\n"
        "first, inherited = peak() - start, 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
        "start = begin_peak()\n"  # forgets the first
        "held = bytearray(b'x') * (40 * 2**20)\n"
        "del held\n"
        "print(first, inherited, peak() - start, begin_peak() - start)"
    )
    ours = bytearray(b"x") * (300 * 2**20)  # more than the child ever holds
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    first, inherited, second, left = map(int, done.stdout.split())
    assert len(ours) > 0 and inherited == 0
    assert first == pytest.approx(80 * 2**20, rel=0.1)
    assert second == pytest.approx(40 * 2**20, rel=0.1)
    assert left < 10 * 2**20


def test_the_quickest_size_is_the_cheapest_a_unit() -> None:
    def work(size: int) -> float:
        for _ in range(100_000):
            pass
        return float(size)

    assert quickest(lambda size: lambda: work(size), (1, 1000), rounds=3) == 1000


def test_results_are_kept_by_name(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    old = [Result(name=n, ratio=1, low=1, high=1, goal=1, holds=True) for n in ("a", "b")]
    write(old, path)
    new = Result(name="b", ratio=2, low=1, high=3, goal=1.5, holds=True, least=True, note="x")
    write([new], path, keep=True)
    assert read(path) == [old[0], new]
    assert {"name", "ratio", "goal", "holds"} <= set(json.loads(path.read_text())[0])
    write([new], path)
    assert read(path) == [new]


def test_tables_say_which_way_a_goal_is_held() -> None:
    rows = [
        Result(name="cost", ratio=1.0341, low=1.02, high=1.2, goal=1.05, holds=True),
        Result(name="speed", ratio=18.26, low=17, high=19, goal=20, holds=False, least=True, note="of a part"),
    ]
    text = text_table(rows)
    assert "1.034  1.020 to 1.200  ≤ 1.050  holds" in text
    assert "18.3" in text and "≥ 20.0  does not hold" in text
    assert "| speed | 18.3 | 17.0 to 19.0 | ≥ 20.0 | does not hold | of a part; 1 rounds |" in markdown_table(rows)


def test_traces_are_as_long_as_asked_and_full_of_spans() -> None:
    items = random_traces(64, 40, 200)
    lengths = [len(item.ids) for item in items]
    assert sum(lengths) / len(lengths) == pytest.approx(200, rel=0.02)
    assert 0.29 * 200 < min(lengths) < 150 and 280 < max(lengths) < 2.21 * 200
    assert {span.label for item in items for span in item.spans} == set(LABELS)
    assert {len(item.ids) for item in random_traces(64, 5, 50, equal=True)} == {50}


def test_the_floor_reads_every_token(llama: LanguageModel) -> None:
    items = random_traces(64, 5, 30)
    seen = 0

    def count(module: object, args: object, kwargs: dict[str, torch.Tensor], output: object) -> None:
        nonlocal seen
        seen += kwargs["input_ids"].numel()

    handle = llama.decoder.register_forward_hook(count, with_kwargs=True)
    try:
        tokens = padded_forward(llama, items, 1)()
    finally:
        handle.remove()
    assert tokens == seen == sum(len(item.ids) for item in items)


def test_texts_end_where_the_measured_ends_are(llama: LanguageModel) -> None:
    before = llama.model.generation_config.eos_token_id
    with ending(llama, None) as endless:
        assert end_ids(endless) == [-1]
    with ending(llama, 8) as ends:
        assert len(end_ids(ends)) == 64 / 8
        steerer = registry.get("steerers", "residual-add")()
        sweep = make_sweep(
            ends,
            steerer,
            prompts=4,
            conditions=8,
            new_tokens=16,
            sampling=Sampling(temperature=1),
            prompt_tokens=(3, 6),
        )
        assert {len(prompt) for prompt in sweep.prompts} <= {3, 4, 5, 6}
        ours = [len(ids) for ids in sweep.texts(8)]
        theirs = [len(ids) for ids in sweep.hf([row.prompt_ids for row in sweep.rows])]
        for lengths in (ours, theirs):
            assert len(set(lengths)) > 3 and max(lengths) <= 16
    assert llama.model.generation_config.eos_token_id == before
    assert trim([5, 6, 1, 7], [1, 2]) == [5, 6]


def test_both_sides_of_a_sweep_do_the_same_work(llama: LanguageModel) -> None:
    with ending(llama, None) as endless:
        steerer = registry.get("steerers", "residual-add")()
        sweep = make_sweep(
            endless, steerer, prompts=2, conditions=3, new_tokens=5, sampling=Sampling(), prompt_tokens=4
        )
        assert sweep.by_steerkit(4) == sweep.by_transformers(4) == 2 * 3 * 5
        assert sweep.part(2, 1, 3).by_steerkit(None) == 2 * 3
        assert one_at_a_time(sweep, 2) == 2 * 5
        assert sweep.texts(None) != sweep.texts(None, steered=False)
        check_same_texts(sweep)


def test_engines_that_differ_are_not_compared(llama: LanguageModel) -> None:
    with ending(llama, None) as endless:
        steerer = registry.get("steerers", "residual-add")()
        sweep = make_sweep(endless, steerer, prompts=2, conditions=1, new_tokens=5, sampling=GREEDY, prompt_tokens=4)

        def turn(module: object, args: object, output: torch.Tensor) -> torch.Tensor:
            return -output if torch.is_inference_mode_enabled() else output  # steerkit alone runs in that mode

        handle = llama.model.get_output_embeddings().register_forward_hook(turn)
        try:
            with pytest.raises(SteerkitError, match="nothing was compared"):
                check_same_texts(sweep)
        finally:
            handle.remove()


def test_a_twin_shares_weights_but_no_hooks(llama: LanguageModel) -> None:
    twin = sharing_weights(llama)
    assert {id(p) for p in twin.model.parameters()} == {id(p) for p in llama.model.parameters()}
    handle = twin.blocks[0].register_forward_hook(lambda *_: None)
    assert handle.id not in llama.blocks[0]._forward_hooks  # transformers may have left hooks of its own
    handle.remove()


def test_everything_is_measured_on_any_model() -> None:
    lm = tiny("gpt2")
    ticked: list[int] = []
    extractor = registry.get("extractors", "offset-window")(windows=[(-4, 1)])
    steerer = registry.get("steerers", "residual-add")()
    results = run_all(lm, extractor, steerer, Sampling(), SMALLEST, lambda: ticked.append(1))
    assert len(results) == 7
    assert len(ticked) == ticks(SMALLEST)
    assert all(found.ratio > 0 and found.low <= found.ratio <= found.high for found in results)
    assert all(found.rounds == 2 for found in results)


def test_the_command_prints_the_table(steerkit: Steerkit, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import steerkit.bench.sizes as sizes

    monkeypatch.setattr(sizes, "Sizes", lambda: SMALLEST)
    before = torch.get_num_threads()
    done = steerkit("bench", "--rounds", 1, "--threads", 1, "--out", "found.json")
    torch.set_num_threads(before)
    assert done.returncode == 0, done.stderr
    assert "pocket:reasoning: extraction, 4 layers × 46 offsets × 6 labels / padded forward" in done.stdout
    for words in ("unsteered model.generate", "one prompt at a time", "unequal length", "decode step", "≥ 0.980"):
        assert words in done.stdout
    assert len(read(tmp_path / "found.json")) == 7
    assert steerkit("bench", "pocket:nonesuch").returncode == 2


def test_help_imports_no_torch() -> None:
    code = (
        "import sys; sys.argv = ['steerkit', 'bench', '--help']\n"
        "from steerkit.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--full" in done.stdout
