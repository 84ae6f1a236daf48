"""Sites: their order, where each is found in every family, and what is read there, against hooks by dotted names."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
import transformers
from families import FAMILIES
from tiny import random_items, word_tokenizer
from towers import TOWERS, whole
from zoo import breed

from steerkit.data.site import ORDER, Site
from steerkit.errors import SteerkitError
from steerkit.extraction.extract import read_sites
from steerkit.models.language_model import LanguageModel
from steerkit.models.loading import wrap_model
from steerkit.models.sites import resolve

IDS = torch.tensor([[5, 9, 12, 33, 7, 21]])


def family(name: str) -> LanguageModel:
    return wrap_model(whole(name), word_tokenizer()) if name in TOWERS else breed(name)


def test_sites_are_ordered_as_they_are_computed(llama: LanguageModel) -> None:
    sites = [Site(layer, part, side) for layer in range(3) for part, side in ORDER]
    shuffled = random.Random(0).sample(sites, len(sites))
    assert sorted(shuffled) == sites and max(shuffled) == Site(2) and len(set(sites)) == 3 * 20
    assert Site(0) < Site(1, "block", "in") < Site(1, "q") <= Site(1, "q") < Site(1, "mlp", "in") < Site(1)
    places = [resolve(llama, site) for site in sites]
    ran: list[Site] = []
    handles = []
    for place in places:
        note: Callable[..., None] = lambda *_, site=place.site: ran.append(site)  # noqa: E731
        hook = place.module.register_forward_hook if place.side == "out" else place.module.register_forward_pre_hook
        handles.append(hook(note))
    llama.model(input_ids=IDS)
    for handle in handles:
        handle.remove()
    # gate and up are computed side by side: Llama runs gate first
    assert ran == sites


def test_words_and_mistakes(llama: LanguageModel) -> None:
    assert (str(Site(3)), str(Site(3, "q"))) == ("block 3", "block 3 (q.out)")
    with pytest.raises(SteerkitError, match=r"no site is called heads\.out: parts are block, attention, mlp, q, k"):
        Site(0, "heads")  # type: ignore[arg-type]
    with pytest.raises(SteerkitError, match="layer: -1: blocks are numbered from 0"):
        Site(-1)
    with pytest.raises(SteerkitError, match=r"block 4 \(mlp\.out\): llama has 4 blocks, numbered 0 to 3"):
        resolve(llama, Site(4, "mlp"))
    with pytest.raises(SteerkitError, match="there is no site to read"):
        list(read_sites(llama, random_items(1), []))


@pytest.mark.parametrize(
    ("name", "site", "said"),
    [
        ("gpt2", Site(1, "gate"), r"gpt2: block 1 \(GPT2Block\) has no gate.out .*GPT2MLP has none; there is c_fc"),
        ("gpt2", Site(1, "k", "in"), r"attn\.c_attn makes more than k of its input; attention\.in is the same input"),
        ("phi3", Site(0, "up", "in"), r"mlp\.gate_up_proj makes more than up of its input; mlp\.in is the same input"),
        ("mixtral", Site(0, "down"), r"has no down\.out .*MixtralSparseMoeBlock has none; there is gate .*, experts"),
        (
            "mamba",
            Site(2, "attention"),
            r"mamba: block 2 .* it has no attention .*; there is norm .*mixer \(Mamba",
        ),
        ("jamba", Site(0, "q"), r"it has no attention that steerkit knows; there is mamba \(JambaMambaMixer\)"),
        ("granitemoehybrid", Site(1, "mlp"), r"it has 2 of them side by side; .*block_sparse_moe .*shared_mlp"),
        ("deepseek_v3", Site(0, "k"), r"DeepseekV3Attention has none; there is .*kv_a_proj_with_mqa"),
        ("deepseek_v3", Site(0, "v", "in"), r"self_attn\.kv_b_proj makes more than v of its input"),
        ("qwen3_next", Site(0, "q"), r"Qwen3NextGatedDeltaNet has none; there is .*in_proj_qkvz"),
        ("gemma4", Site(3, "k"), r"Gemma4TextAttention has none"),
    ],
)
def test_what_a_family_lacks_is_refused_in_words(name: str, site: Site, said: str) -> None:
    with pytest.raises(SteerkitError, match=said):
        resolve(family(name), site)


def test_an_unknown_layout_is_refused() -> None:
    """A query projection that also makes something else, in a class that the table doesn't know."""
    lm = breed("llama")
    attention: Any = lm.blocks[1].self_attn
    attention.q_proj = torch.nn.Linear(16, 32)
    with pytest.raises(SteerkitError, match=r"LlamaAttention makes 32 numbers for 16: the layout is unknown"):
        resolve(lm, Site(1, "q"))


NAMED: dict[str, dict[str, str]] = {
    # part → dotted name below the block, written from the families' own code
    "llama": {"q": "self_attn.q_proj", "o": "self_attn.o_proj", "gate": "mlp.gate_proj", "down": "mlp.down_proj"},
    "qwen3_vl": {"attention": "self_attn", "mlp": "mlp", "k": "self_attn.k_proj", "up": "mlp.up_proj"},
    "llama4": {"mlp": "feed_forward", "v": "self_attn.v_proj", "down": "feed_forward.down_proj"},
    "gemma4": {"attention": "self_attn", "q": "self_attn.q_proj", "gate": "mlp.gate_proj"},
    "gpt2": {"attention": "attn", "mlp": "mlp", "o": "attn.c_proj", "up": "mlp.c_fc", "down": "mlp.c_proj"},
    "gpt_neox": {"attention": "attention", "o": "attention.dense", "up": "mlp.dense_h_to_4h"},
    "phi3": {"o": "self_attn.o_proj", "down": "mlp.down_proj"},
    "phi": {"o": "self_attn.dense", "up": "mlp.fc1", "down": "mlp.fc2"},
    "starcoder2": {"up": "mlp.c_fc", "down": "mlp.c_proj"},
    "bloom": {"o": "self_attention.dense", "up": "mlp.dense_h_to_4h", "down": "mlp.dense_4h_to_h"},
    "falcon": {"attention": "self_attention", "mlp": "mlp", "o": "self_attention.dense"},
    "gptj": {"attention": "attn", "q": "attn.q_proj", "o": "attn.out_proj", "up": "mlp.fc_in", "down": "mlp.fc_out"},
    "mpt": {"attention": "attn", "o": "attn.out_proj", "up": "ffn.up_proj", "down": "ffn.down_proj"},
    "opt": {"attention": "self_attn", "o": "self_attn.out_proj", "up": "fc1", "down": "fc2"},
    "xglm": {"v": "self_attn.v_proj", "up": "fc1", "down": "fc2"},
    "mixtral": {"attention": "self_attn", "mlp": "mlp", "v": "self_attn.v_proj"},
    "granitemoe": {"mlp": "block_sparse_moe", "o": "self_attn.o_proj"},
    "gpt_oss": {"mlp": "mlp", "q": "self_attn.q_proj"},
    "deepseek_v3": {"attention": "self_attn", "q": "self_attn.q_b_proj", "mlp": "mlp", "gate": "mlp.gate_proj"},
    "falcon_h1": {"attention": "self_attn", "mlp": "feed_forward", "k": "self_attn.k_proj"},
    "lfm2": {"mlp": "feed_forward", "gate": "feed_forward.w1", "up": "feed_forward.w3", "down": "feed_forward.w2"},
    "olmo_hybrid": {"attention": "linear_attn", "v": "linear_attn.v_proj", "o": "linear_attn.o_proj"},
    "qwen3_next": {"attention": "linear_attn", "o": "linear_attn.out_proj", "mlp": "mlp"},
    "kimi_linear": {"attention": "self_attn", "q": "self_attn.q_proj", "mlp": "mlp"},
    "jamba": {"mlp": "feed_forward", "down": "feed_forward.down_proj"},
}


@pytest.mark.parametrize("name", NAMED)
def test_what_is_read_is_what_a_hook_on_the_named_module_sees(name: str) -> None:
    """Inputs and outputs, in batches, bit for bit where the rows are alone, to rounding where they are padded."""
    lm = family(name)
    path = next(n for n, m in lm.transformer.named_modules() if any(child is lm.blocks[0] for child in m.children()))
    fused = {part for part in ("gate", "up") if name == "phi3"}
    wanted = {
        Site(0, part, side): (f"{path}.0.{dotted}", side)
        for part, dotted in NAMED[name].items()
        if part not in fused
        for side in ("in", "out")
    }
    seen: dict[tuple[str, str], torch.Tensor] = {}

    def keep(key: tuple[str, str], value: Any) -> None:
        seen[key] = (value[0] if isinstance(value, tuple) else value).clone()

    handles = []
    for dotted, side in wanted.values():
        module = lm.transformer.get_submodule(dotted)
        if side == "in":
            handles.append(
                module.register_forward_pre_hook(
                    lambda m, args, kw, key=(dotted, side): keep(key, args[0] if args else kw["hidden_states"]),
                    with_kwargs=True,
                )
            )
        else:
            handles.append(module.register_forward_hook(lambda m, args, out, key=(dotted, side): keep(key, out)))
    items = random_items(3, longest=14)
    found: dict[str, dict[Site, torch.Tensor]] = {}
    for batch, tensors in read_sites(lm, items, list(wanted)):
        for row, item in enumerate(batch):
            found[item.trace.id] = {site: tensor[row, : len(item.ids)] for site, tensor in tensors.items()}
    for item in items:
        with torch.no_grad():
            lm.model(input_ids=torch.tensor([list(item.ids)]), use_cache=False)
        for site, key in wanted.items():
            expected = seen[key].reshape(-1, seen[key].shape[-1])
            torch.testing.assert_close(found[item.trace.id][site], expected, rtol=1e-4, atol=1e-5)
    for handle in handles:
        handle.remove()


class Captured:
    """What the attention function is given: [B, heads, T, D] queries, keys and values of each call."""

    calls: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []  # noqa: RUF012

    @classmethod
    def attend(cls, module: Any, query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> Any:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        cls.calls.append((query.detach(), key.detach(), value.detach()))
        return sdpa_attention_forward(module, query, key, value, *args, **kwargs)


def heads(tensor: torch.Tensor) -> torch.Tensor:
    """[1, heads, T, D] → [T, heads · D]."""
    return tensor[0].transpose(0, 1).flatten(1)


@pytest.mark.parametrize("name", ["gpt2", "gpt_neox", "phi3", "qwen3_next", "qwen3_5", "llama", "deepseek_v3"])
def test_shares_of_a_projection_are_what_attention_gets(name: str) -> None:
    """Token 0, which no rotation turns: q, k and v in front of the attention function, without a norm of their own."""
    transformers.AttentionInterface.register("captured", Captured.attend)
    lm = family(name)
    lm.transformer.set_attn_implementation("captured")
    layer = 3 if name.startswith("qwen3_") else 0
    Captured.calls.clear()
    parts = [part for part in ("q", "k", "v") if not (name == "deepseek_v3" and part == "k")]
    if name.startswith("qwen3_"):  # their norms are made to do nothing that depends on the place of a number
        parts = ["q", "v"]
        attention: Any = lm.blocks[layer].self_attn
        attention.q_norm = torch.nn.Identity()
    sites = [Site(layer, part) for part in parts]
    items = random_items(1, longest=12)
    [(_, read)] = read_sites(lm, items, [*sites, Site(layer)])
    [(query, key, value)] = Captured.calls[-1:]
    for site in sites:
        expected = heads({"q": query, "k": key, "v": value}[site.part])[0]
        if name == "deepseek_v3" and site.part == "q":
            # The rotated share of each head is stored in another order; the rest is as projected.
            got = read[site][0, 0].view(2, 8)[:, :4]
            torch.testing.assert_close(got, expected.view(2, 8)[:, :4])
        elif name == "deepseek_v3":
            assert read[site].shape[-1] == 2 * 8
            torch.testing.assert_close(read[site][0, 0], expected)
        else:
            own = read[site][0, 0]
            if own.numel() != expected.numel():  # keys and values of a group were repeated for its heads
                own = own.view(-1, 8).repeat_interleave(expected.numel() // own.numel(), 0).flatten()
            torch.testing.assert_close(own, expected)


FALCONS: dict[str, dict[str, Any]] = {
    "old": {"multi_query": True},
    "a head each": {"multi_query": False},
    "grouped": {"new_decoder_architecture": True, "num_kv_heads": 2},
}


@pytest.mark.parametrize("kind", ["bloom", *FALCONS])
def test_shares_by_groups_of_heads_are_those_of_the_models_own_split(kind: str) -> None:
    config = transformers.FalconConfig(vocab_size=64, hidden_size=16, num_hidden_layers=2, num_attention_heads=4)
    if kind == "bloom":
        lm = breed("bloom")
    else:
        for key, value in FALCONS[kind].items():
            setattr(config, key, value)
        if kind == "a head each":
            config.num_kv_heads = 4
        torch.manual_seed(0)
        model = transformers.FalconForCausalLM(config).eval()
        lm = LanguageModel(kind, model, word_tokenizer())
    attention: Any = lm.blocks[1].self_attention
    seen: list[torch.Tensor] = []
    handle = attention.query_key_value.register_forward_hook(lambda m, args, out: seen.append(out.clone()))
    [(_, read)] = read_sites(lm, random_items(1, longest=12), [Site(1, part) for part in ("q", "k", "v")])
    handle.remove()
    if kind == "bloom":
        own = [part.transpose(1, 2) for part in attention._reshape(seen[0])]
    else:
        own = list(attention._split_heads(seen[0]))
    size = attention.head_dim
    for site, whole_part in zip((Site(1, part) for part in ("q", "k", "v")), own, strict=True):
        got, expected = read[site][0], whole_part[0]  # [T, n · D] and [T, heads, D]
        if got.shape[-1] != expected.shape[-2] * size:  # the model repeats a group's key for each of its heads
            each = expected.shape[-2] * size // got.shape[-1]
            got = got.unflatten(-1, (-1, size)).repeat_interleave(each, -2).flatten(-2)
        assert torch.equal(got, expected.flatten(-2))


def test_mpt_and_glm4_lay_parts_one_after_another() -> None:
    mpt = breed("mpt")
    weight = mpt.blocks[0].attn.Wqkv.weight.detach()
    sites = [Site(0, "attention", "in"), *(Site(0, part) for part in ("q", "k", "v"))]
    [(_, read)] = read_sites(mpt, random_items(1, longest=12), sites)
    for number, part in enumerate(("q", "k", "v")):
        expected = read[sites[0]] @ weight[16 * number : 16 * (number + 1)].T
        torch.testing.assert_close(read[Site(0, part)], expected)
    glm = breed("glm4")
    sites = [Site(0, "gate"), Site(0, "up"), Site(0, "down", "in")]
    [(_, read)] = read_sites(glm, random_items(1, longest=12), sites)
    gate, up, down = (read[site] for site in sites)
    torch.testing.assert_close(torch.nn.functional.silu(gate) * up, down)


@pytest.mark.parametrize("name", ["llama", "gpt2", "bloom", "mpt", "opt", "xglm", "falcon", "gpt_neox", "phi", "gptj"])
def test_attention_and_mlp_outputs_are_what_is_added_to_the_stream(name: str) -> None:
    """block.out = block.in + attention.out + mlp.out, also where modules are given the residual and add it."""
    lm = family(name)
    sites = [Site(1, "block", "in"), Site(1, "attention"), Site(1, "mlp"), Site(1)]
    [(_, read)] = read_sites(lm, random_items(1, longest=12), sites)
    begin, attention, mlp, end = (read[site] for site in sites)
    torch.testing.assert_close(begin + attention + mlp, end, rtol=1e-4, atol=1e-4)


def test_every_family_in_the_docs_is_looked_through() -> None:
    """A family's sites are found or refused, never something else."""
    for name, (part, side) in product(FAMILIES[::7], ORDER):
        lm = family(name)
        for layer in range(lm.depth):
            try:
                place = resolve(lm, Site(layer, part, side))
            except SteerkitError as error:
                assert lm.name in str(error) and f"{part}.{side}" in str(error)
            else:
                assert place.module in set(lm.blocks[layer].modules())


def test_nothing_runs_after_the_last_site(llama: LanguageModel) -> None:
    ran: list[int] = []
    handles = [
        block.register_forward_pre_hook(lambda m, args, n=number: ran.append(n))
        for number, block in enumerate(llama.blocks)
    ]
    [(_, read)] = read_sites(llama, random_items(1), [Site(1, "v"), Site(0)])
    for handle in handles:
        handle.remove()
    assert ran == [0, 1] and list(read) == [Site(0), Site(1, "v")]


def test_a_site_whose_module_never_runs_is_refused() -> None:
    lm = breed("llama")
    lm.blocks[1].mlp.forward = lambda x: x  # no projection is called
    with pytest.raises(SteerkitError, match=r"block 1 \(up.out\): its module ran without its hooks"):
        list(read_sites(lm, random_items(1), [Site(1, "up")]))
