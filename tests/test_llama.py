"""The Llama: its first weights, and logits, loss, gradients and greedy ids against transformers; cache, commands."""

import json
import math

import numpy as np
import pytest

import autotx
from autotx import optim
from autotx.models import GPT, GPTConfig, Llama, LlamaConfig
from autotx.models.cli import main
from autotx.models.formats import open_model

TINY = LlamaConfig(block_size=12, vocab_size=11, n_layer=2, n_head=4, n_kv_head=2, n_embd=16, n_hidden=24)


def tiny(rng, dtype=np.float32, **changes):
    """A small model whose parameters are all far from zero, so that every gradient counts."""
    model = Llama(LlamaConfig(**{**vars(TINY), **changes}), rng).astype(dtype)
    for p in model.parameters():
        p.data = p.data + 0.3 * rng.standard_normal(p.shape)
    return model


def tokens(rng, B=3, T=8, V=11):
    return rng.integers(0, V, (B, T))


# First weights and the loss


def test_names_shapes_and_first_weights(rng):
    model = Llama(LlamaConfig(32, 97, 3, 4, 2, 64, 96, bias=True, tied=False), rng)
    shapes = {name: p.shape for name, p in model.named_parameters()}
    block = {
        "norm1.weight": (64,), "attention.qkv.weight": (128, 64), "attention.qkv.bias": (128,),
        "attention.proj.weight": (64, 64), "norm2.weight": (64,), "mlp.gate.weight": (96, 64),
        "mlp.up.weight": (96, 64), "mlp.down.weight": (64, 96),
    }  # fmt: skip
    expected = {"wte.weight": (97, 64)}
    expected |= {f"blocks.{i}.{name}": shape for i in range(3) for name, shape in block.items()}
    expected |= {"norm.weight": (64,), "head.weight": (97, 64)}
    assert shapes == expected
    for name, p in model.named_parameters():
        if p.ndim == 2:
            std = 0.02 / math.sqrt(6) if name.endswith(("proj.weight", "down.weight")) else 0.02
            assert abs(p.data.std() / std - 1) < 0.1, name
        else:
            assert np.array_equal(p.data, np.full(p.shape, name.endswith("weight"))), name


def test_a_tied_head_is_the_table_and_there_are_no_biases(rng):
    model = Llama(TINY, rng)
    assert model.head.weight is model.wte.weight
    names = [name for name, _ in model.named_parameters()]
    assert "wte.weight" in names
    assert not any(name.endswith("bias") or name.startswith("head") for name in names)
    assert not Llama(TINY, None).wte.weight.data.any()


def test_loss_at_the_start_is_that_of_a_guess(rng):
    model = Llama(LlamaConfig(32, 97, 3, 4, 2, 64, 96), rng)
    ids = tokens(rng, 8, 33, 97)
    logits, loss = model(ids[:, :-1], ids[:, 1:])
    assert logits.shape == (8, 32, 97)
    assert logits.dtype == np.float32
    assert abs(loss.item() - math.log(97)) < 0.05
    assert model(ids[:, :-1])[1] is None


def test_a_tiny_model_learns_a_row_by_heart(rng):
    model, ids = Llama(TINY, rng), np.array([[3, 1, 4, 1, 5, 9, 2, 6]])
    optimizer = optim.AdamW(optim.decay_groups(model, 0.1), lr=0.03, betas=(0.9, 0.99))
    for _ in range(60):
        _, loss = model(ids[:, :-1], ids[:, 1:])
        loss.backward()
        optim.clip_grad_norm(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    assert loss.item() < 0.05
    assert np.array_equal(model.generate(ids[:, :2], 6, temperature=0), ids)


def test_dropout_only_with_an_rng(rng):
    model, ids = tiny(rng, dropout=0.5), tokens(rng)
    with autotx.no_grad():
        plain, dropped, same = (model(ids, rng=r)[0].data for r in (None, *map(np.random.default_rng, (1, 1))))
    assert np.array_equal(dropped, same)
    assert not np.allclose(dropped, plain)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_head": 3}, "LlamaConfig: n_head 3 does not divide n_embd 16; choose one that does"),
        ({"n_kv_head": 3}, "LlamaConfig: n_kv_head 3 does not divide n_head 4; choose one that does"),
        (
            {"n_head": 16, "n_kv_head": 1},
            "LlamaConfig: n_embd / n_head is 1, an odd number of channels, which",
        ),
        ({"n_hidden": 0}, "LlamaConfig: n_hidden is 0; give a whole number, 1 or more"),
        ({"rope_base": 0}, "LlamaConfig: rope_base is 0, norm_eps 1e-05; give positive numbers"),
        ({"dropout": 1}, "LlamaConfig: dropout is 1; give a probability from 0 to below 1"),
    ],
)
def test_sizes_that_do_not_fit(changes, message):
    with pytest.raises(ValueError, match=message):
        LlamaConfig(**{**vars(TINY), **changes})


def test_ids_that_do_not_fit(rng):
    model = Llama(TINY, rng)
    with pytest.raises(ValueError, match="Llama: 13 tokens exceed block_size 12; give the last ones"):
        model(tokens(rng, 1, 13))
    with pytest.raises(ValueError, match=r"Llama: ids have shape \(3,\); give \(B, T\)"):
        model(np.zeros(3, int))


# Against transformers


def as_llama(state, n_layer):
    """The tensors of a LlamaForCausalLM or Qwen2ForCausalLM (or their gradients) under our names."""
    ours = {"wte.weight": state["model.embed_tokens.weight"], "norm.weight": state["model.norm.weight"]}
    if "lm_head.weight" in state:
        ours["head.weight"] = state["lm_head.weight"]
    for i in range(n_layer):
        theirs = {name.removeprefix(f"model.layers.{i}."): x for name, x in state.items() if f".{i}." in name}
        for kind in ("weight", "bias"):
            if f"self_attn.q_proj.{kind}" in theirs:
                parts = [theirs[f"self_attn.{part}_proj.{kind}"] for part in "qkv"]
                ours[f"blocks.{i}.attention.qkv.{kind}"] = np.concatenate(parts)
        ours[f"blocks.{i}.attention.proj.weight"] = theirs["self_attn.o_proj.weight"]
        ours[f"blocks.{i}.norm1.weight"] = theirs["input_layernorm.weight"]
        ours[f"blocks.{i}.norm2.weight"] = theirs["post_attention_layernorm.weight"]
        for part in ("gate", "up", "down"):
            ours[f"blocks.{i}.mlp.{part}.weight"] = theirs[f"mlp.{part}_proj.weight"]
    return ours


def as_gpt(state, n_layer):
    """The tensors of a GPT2LMHeadModel, whose matrices are transposed, under our names."""
    rename = {"attn.c_attn": "attn.qkv", "attn.c_proj": "attn.proj", "mlp.c_fc": "mlp.fc", "mlp.c_proj": "mlp.proj"}
    ours = {}
    for name, x in state.items():
        name = name.removeprefix("transformer.").replace("h.", "blocks.", 1)
        for theirs, own in rename.items():
            if theirs in name:
                name, x = name.replace(theirs, own), x.T
        ours[name] = x
    ours.pop("lm_head.weight", None)
    return ours


def peer(transformers, torch, kind, double):
    """A model of random weights of transformers, ours with the same weights, and the names that theirs have here."""
    torch.manual_seed(0)
    V, L, block = 73, 3, 40
    if kind == "gpt2":
        config = transformers.GPT2Config(
            vocab_size=V, n_positions=block, n_embd=48, n_layer=L, n_head=6, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0
        )
        theirs, ours, renamed = transformers.GPT2LMHeadModel(config), GPT(GPTConfig(block, V, L, 6, 48), None), as_gpt
    else:
        llama, tied = kind.startswith("llama"), kind.endswith("tied")
        config = (transformers.LlamaConfig if llama else transformers.Qwen2Config)(
            vocab_size=V, hidden_size=48, intermediate_size=80, num_hidden_layers=L, num_attention_heads=6,
            num_key_value_heads=2, max_position_embeddings=block, rms_norm_eps=1e-5, tie_word_embeddings=tied,
            rope_parameters={"rope_type": "default", "rope_theta": 5000.0},
        )  # fmt: skip
        theirs = (transformers.LlamaForCausalLM if llama else transformers.Qwen2ForCausalLM)(config)
        ours = Llama(LlamaConfig(block, V, L, 6, 2, 48, 80, 5000.0, bias=not llama, tied=tied), None)
        renamed = as_llama
    with torch.no_grad():
        for p in theirs.parameters():
            p += 0.1 * torch.randn_like(p)
    if double:
        theirs, ours = theirs.double(), ours.astype(np.float64)
    own = dict(ours.named_parameters())
    state = renamed({name: p.detach().numpy() for name, p in theirs.named_parameters()}, L)
    assert state.keys() == own.keys()
    ours.load_state_dict(state)
    return theirs.eval(), ours, lambda state: renamed(state, L)


@pytest.mark.parametrize("double", [True, False])
@pytest.mark.parametrize("kind", ["gpt2", "llama, tied", "llama", "qwen2, tied", "qwen2"])
def test_logits_loss_gradients_and_greedy_ids_equal_transformers(kind, double, rng):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    theirs, ours, renamed = peer(transformers, torch, kind, double)
    ids = tokens(rng, 3, 31, 73)
    expected = theirs(torch.from_numpy(ids), labels=torch.from_numpy(ids))
    # the same loss, which transformers computes in float32 for a model in float64 too
    of_next = expected.logits[:, :-1].flatten(0, 1), torch.from_numpy(ids[:, 1:].flatten())
    their_loss = torch.nn.functional.cross_entropy(*of_next)
    assert abs(their_loss.item() / expected.loss.item() - 1) < 1e-6
    their_loss.backward()
    logits, loss = ours(ids[:, :-1], ids[:, 1:])
    loss.backward()
    # transformers computes the angles of rotary positions in float32
    tolerance = 2e-4 if not double else 1e-9 if kind == "gpt2" else 2e-5
    scale = expected.logits.abs().max().item()
    np.testing.assert_allclose(logits.data, expected.logits[:, :-1].detach(), rtol=0, atol=tolerance * scale)
    assert abs(loss.item() / their_loss.item() - 1) < tolerance
    gradients = renamed({name: p.grad.numpy() for name, p in theirs.named_parameters()})
    for name, p in ours.named_parameters():
        scale = np.abs(gradients[name]).max()
        np.testing.assert_allclose(p.grad, gradients[name], rtol=0, atol=tolerance * scale, err_msg=name)
    prompt = ids[:, :5]
    theirs.generation_config.eos_token_id = None  # no token ends the text
    settings = {"max_new_tokens": 30, "do_sample": False, "pad_token_id": 0}
    greedy = theirs.generate(torch.from_numpy(prompt), attention_mask=torch.ones(prompt.shape), **settings)
    assert np.array_equal(ours.generate(prompt, 30, temperature=0), greedy.numpy())


# Causality, the cache, and beyond the context


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_later_token_changes_nothing_before_it(dtype, rng):
    model, ids = tiny(rng, dtype), tokens(rng)
    with autotx.no_grad():
        before = model(ids)[0].data
        for t in range(ids.shape[1]):
            changed = ids.copy()
            changed[:, t] = (ids[:, t] + 1) % 11
            after = model(changed)[0].data
            assert np.array_equal(after[:, :t], before[:, :t])  # to the bit
            assert not np.allclose(after[:, t:], before[:, t:])


@pytest.mark.parametrize("prompt", [1, 5, 12, 15])
def test_generation_equals_its_definition_beyond_the_context_too(prompt, rng):
    model, ids = tiny(rng), tokens(rng, 2, prompt)
    expected = ids
    for _ in range(20):
        with autotx.no_grad():
            logits = model(expected[:, -12:])[0].data[:, -1]
        expected = np.column_stack([expected, logits.argmax(-1)])
    assert np.array_equal(model.generate(ids, 20, temperature=0), expected)


# By the command line


@pytest.mark.slow
def test_it_trains_goes_on_writes_and_is_drawn(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("the cat sat on the mat. the dog sat on the log.\n" * 40)
    (tmp_path / "labels.tsv").write_text("the cat\tcat\nthe dog\tdog\na cat\tcat\na dog\tdog\n" * 3)
    shape = "--n-layer 2 --n-head 4 --n-kv-head 2 --n-embd 32 --block-size 16 --rope-base 500"
    training = "--batch-size 8 --steps 150 --lr 0.02 --min-lr 0.002 --warmup-steps 5 --eval-interval 75"
    for words in (
        f"train --model llama --text text.txt --out run {shape} {training} --eval-batches 2 --dropout 0.02",
        "train --resume --out run --steps 154",
        "generate --model run --prompt the --max-new-tokens 30 --temperature 0",
        "generate --model run --prompt the --max-new-tokens 4 --attention maps.png",
        "generate --model run --prompt the --max-new-tokens 4 --weights int8",
        "graph --model run --out graph.svg --json graph.json",
        "replay --model run --prompt the --out replay.html",
        "plot run --what embeddings --out embeddings.png",
        "finetune --model run --labels labels.tsv --steps 2 --out fine",
    ):
        assert main(words.split()) == 0, words
    assert "the dog" in capsys.readouterr().out
    losses = [json.loads(line)["loss"] for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert losses[-1] < losses[0] / 3
    config = open_model("run").model.config
    assert config == LlamaConfig(16, config.vocab_size, 2, 4, 2, 32, 96, 500.0, dropout=0.02)
    drawn = {node["op"] for node in json.loads((tmp_path / "graph.json").read_text())["nodes"]}
    assert {"rms_norm", "multi_head_attention", "swiglu"} <= drawn
    assert "A Llama reads “the”" in (tmp_path / "replay.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--n-head 4 --n-kv-head 3", "--n-kv-head 3 does not divide --n-head 4; choose one that does"),
        ("--n-head 4 --n-embd 12", "--n-embd 12 is 3 times --n-head 4; choose an even multiple"),
    ],
)
def test_settings_that_do_not_fit_are_said_in_one_line(words, message, capsys):
    assert main(["train", "--model", "llama", *words.split()]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
