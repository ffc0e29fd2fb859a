"""Going on with a trained model: on a text or on conversations, with all weights or with adapters (LoRA)."""

import json
import shutil

import numpy as np
import pytest
from gguf_files import SMOLLM2, TEXT, needs_smollm2, small_llama, write_model

import autotx
from autotx import Tensor, gradcheck
from autotx.checkpoint import STATE, load_tensors, save_tensors
from autotx.models import conversations, lora
from autotx.models.chat import Conversation
from autotx.models.cli import main
from autotx.models.conversations import Chat, encode, fitted
from autotx.models.formats import open_model
from autotx.models.lora import LoRA
from autotx.models.registry import settings_of
from autotx.models.run import ADAPTER, ADAPTER_CONFIG, MODEL, SHAPE
from autotx.models.train import Trainer

SHORT = ["--steps", 4, "--warmup-steps", 1, "--eval-interval", 2, "--eval-batches", 2, "--length", 16, "--lr", 0.01]
LONGER = ["--length", 48]
CHATML = (
    "{% for m in messages %}<|user|>{{ m.role }}: {{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|user|>assistant: {% endif %}"
)


def call(*words):
    return main([str(word) for word in words])


def talk(*contents):
    """A conversation of a user and an assistant who take turns."""
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(contents)]


def write_chats(path, *chats):
    path.write_text("".join(json.dumps({"messages": messages}) + "\n" for messages in chats), encoding="utf-8")
    return path


def change(path, **entries):
    path.write_text(json.dumps({**json.loads(path.read_bytes()), **entries}))


CHATS = [talk("the fox", "the lazy dog " * (1 + i)) for i in range(9)] + [talk("a", "fox", "b", "dog and fox")] * 3


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A folder with a model, a text, conversations, and a short run of adapters."""
    folder = tmp_path_factory.mktemp("base")
    write_model(folder / "small.gguf", small_llama(), tokenizer__chat_template=CHATML)
    (folder / "text.txt").write_text(TEXT, encoding="utf-8")
    write_chats(folder / "chats.jsonl", *CHATS)
    init = "--init", folder / "small.gguf"
    assert call("train", *init, "--text", folder / "text.txt", "--lora-rank", 4, "--out", folder / "lora", *SHORT) == 0
    return folder


@pytest.fixture
def folder(base, tmp_path):
    """A copy of it, to be spoiled; the adapters there are for the model there."""
    shutil.copytree(base, tmp_path, dirs_exist_ok=True)
    for name in (ADAPTER_CONFIG, "config.json"):
        config = tmp_path / "lora" / name
        config.write_text(config.read_text().replace(str(base), str(tmp_path)))
    return tmp_path


# The op and the layer


@pytest.mark.parametrize("dropped", [0, 0.4])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [((0, 4), (6, 9)), ((0, 9),), ((2, 5),)])
def test_gradients_of_lora_are_those_of_differences(rows, bias, dropped, rng):
    def tensor(*shape):
        return Tensor(rng.normal(size=shape), requires_grad=True)

    out = sum(end - first for first, end in rows)
    arrays = [tensor(2, 3, 5), tensor(9, 5), tensor(9), tensor(2 * len(rows), 5), tensor(out, 2)]
    settings = {"rows": rows, "scale": 1.7, "dropout_p": dropped}

    def function(x, weight, *others):
        b = others[0] if bias else None
        return lora.lora(x, weight, b, *others[-2:], rng=np.random.default_rng(3), **settings)

    assert gradcheck(function, arrays if bias else arrays[:2] + arrays[3:])


def test_lora_is_a_linear_layer_with_the_weight_plus_the_product(rng):
    layer = autotx.nn.Linear(40, 90, rng=rng)
    adapted = LoRA(layer, ["q", "v"], [(0, 30), (60, 90)], 4, 0.5, 0.3, rng)
    x = rng.normal(size=(2, 7, 40)).astype(np.float32)
    np.testing.assert_array_equal(adapted(x).data, layer(x).data)  # b begins at zero
    adapted.b.data = rng.normal(size=adapted.b.shape)
    weight = layer.weight.numpy().astype(np.float64)
    weight[:30] += 0.5 * adapted.b.data[:30] @ adapted.a.data[:4]
    weight[60:] += 0.5 * adapted.b.data[30:] @ adapted.a.data[4:]
    np.testing.assert_allclose(adapted(x).data, x @ weight.T + layer.bias.data, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(adapted.merged()(x).data, adapted(x).data, rtol=1e-4, atol=1e-5)
    assert not np.allclose(adapted(x, rng=rng).data, adapted(x).data)  # dropout, with an rng alone


# Adapters of a model


def trainer_of(folder, task="tune", **settings):
    data = {"text": (folder / "text.txt",)} if task == "tune" else {"chats": (folder / "chats.jsonl",)}
    settings = {"init": str(folder / "small.gguf"), "length": 16, "out": str(folder / "run"), **data, **settings}
    return Trainer(settings_of("llama", task)(**settings))


def test_only_the_adapters_learn_and_nothing_is_kept_for_the_rest(base):
    trainer, before = trainer_of(base, lora_rank=4), open_model(base / "small.gguf").model.state_dict()
    trainer.accumulate(trainer.task.batches(0, trainer.data_rng))
    learned = {name for name, p in trainer.model.named_parameters() if p.grad is not None}
    assert learned == {f"blocks.{i}.attention.qkv.{name}" for i in range(2) for name in "ab"}
    assert sum(a.size for a in trainer.optimizer.state["m"]) == 2 * 2 * 4 * 32 + 2 * 4 * (32 + 16)
    trainer.update(1.0)
    after = trainer.model.state_dict()
    assert all(np.array_equal(after[name], before[name]) for name in before)


def test_the_adapters_of_all_matrices_learn_and_drop_inputs_while_they_do(base, monkeypatch):
    every = "q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj"
    trainer = trainer_of(base, lora_rank=2, lora_targets=every, lora_dropout=0.2, lr=0.05)
    layers, dropped, kept = lora.layers_of(trainer.model), [], lora.kept
    monkeypatch.setattr(lora, "kept", lambda *args: dropped.append(1) or kept(*args))
    losses = [trainer.train_step()["loss"] for _ in range(20)]
    assert len(layers) == 2 * 5
    assert len(dropped) == 20 * len(layers)
    assert all(layer.b.data.any(axis=1).all() for layer in layers)
    assert np.mean(losses[-3:]) < np.mean(losses[:3]) - 0.05


def test_the_merged_model_computes_what_the_trained_one_did(folder, rng):
    opened = open_model(folder / "lora")
    trainer = trainer_of(folder, lora_rank=4, steps=4)
    lora.set_tensors(trainer.model, load_tensors(folder / "lora" / ADAPTER)[0])
    ids = rng.integers(0, 300, (2, 20))
    expected, base = trainer.model(ids)[0].data, open_model(folder / "small.gguf").model(ids)[0].data
    np.testing.assert_allclose(opened.model(ids)[0].data, expected, rtol=1e-4, atol=1e-5)
    assert np.abs(expected - base).max() > 1e-3
    assert not lora.layers_of(opened.model)
    assert all(p.requires_grad for p in opened.model.parameters())


def as_transformers_llama(model):
    """Our weights under the names of LlamaForCausalLM, as arrays."""
    state, c = model.state_dict(), model.config
    theirs = {"model.embed_tokens.weight": state["wte.weight"], "model.norm.weight": state["norm.weight"]}
    for i in range(c.n_layer):
        ours, at = {n.removeprefix(f"blocks.{i}."): a for n, a in state.items()}, f"model.layers.{i}."
        G = c.n_kv_head * (c.n_embd // c.n_head)
        parts = np.split(ours["attention.qkv.weight"], [c.n_embd, c.n_embd + G])
        theirs |= {f"{at}self_attn.{n}_proj.weight": part for n, part in zip("qkv", parts)}
        theirs[f"{at}self_attn.o_proj.weight"] = ours["attention.proj.weight"]
        theirs |= {f"{at}mlp.{n}_proj.weight": ours[f"mlp.{n}.weight"] for n in ("gate", "up", "down")}
        theirs[f"{at}input_layernorm.weight"] = ours["norm1.weight"]
        theirs[f"{at}post_attention_layernorm.weight"] = ours["norm2.weight"]
    return theirs


def as_transformers_gpt(model):
    """Our weights under the names of GPT2LMHeadModel, whose matrices are transposed."""
    rename = {"attn.qkv": "attn.c_attn", "attn.proj": "attn.c_proj", "mlp.fc": "mlp.c_fc", "mlp.proj": "mlp.c_proj"}
    theirs = {}
    for name, a in model.state_dict().items():
        name = name.replace("blocks.", "h.")
        for ours, other in rename.items():
            if ours in name:
                name, a = name.replace(ours, other), a.T
        theirs[f"transformer.{name}"] = a
    return theirs


def peer_of(model):
    """The model in transformers, with the same weights."""
    transformers, torch = pytest.importorskip("transformers"), pytest.importorskip("torch")
    c = model.config
    if hasattr(c, "n_kv_head"):
        config = transformers.LlamaConfig(
            vocab_size=c.vocab_size, hidden_size=c.n_embd, intermediate_size=c.n_hidden, num_hidden_layers=c.n_layer,
            num_attention_heads=c.n_head, num_key_value_heads=c.n_kv_head, max_position_embeddings=c.block_size,
            rms_norm_eps=c.norm_eps, tie_word_embeddings=True,
            rope_parameters={"rope_type": "default", "rope_theta": c.rope_base},
        )  # fmt: skip
        peer, state = transformers.LlamaForCausalLM(config), as_transformers_llama(model)
    else:
        config = transformers.GPT2Config(
            vocab_size=c.vocab_size, n_positions=c.block_size, n_embd=c.n_embd, n_layer=c.n_layer, n_head=c.n_head
        )
        peer, state = transformers.GPT2LMHeadModel(config), as_transformers_gpt(model)
    tensors = {name: torch.from_numpy(np.ascontiguousarray(a)) for name, a in state.items()}
    assert peer.load_state_dict(tensors, strict=False).unexpected_keys == []
    peer.tie_weights()
    return peer.eval()


def logits_of(peer, ids):
    torch = pytest.importorskip("torch")
    with torch.no_grad():
        return peer(torch.from_numpy(ids)).logits.numpy()


@pytest.fixture(scope="module")
def models(base):
    """Paths of a Llama and of a GPT, by their names."""
    shape = "--n-layer", 2, "--n-head", 2, "--n-embd", 32, "--block-size", 16, "--steps", 1
    assert call("train", "--text", base / "text.txt", "--out", base / "gpt", *shape) == 0
    return {"llama": base / "small.gguf", "gpt": base / "gpt"}


PEERS_WARN = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")


@PEERS_WARN
@pytest.mark.parametrize(
    ("kind", "targets"), [("llama", ""), ("llama", "k_proj,o_proj,down_proj"), ("gpt", ""), ("gpt", "c_attn,c_proj")]
)
def test_peft_opens_our_adapters_and_computes_the_same(kind, targets, models, base, tmp_path, rng):
    peft = pytest.importorskip("peft")
    more = ("--lora-targets", targets) if targets else ()
    words = "--init", models[kind], "--text", base / "text.txt", "--out", tmp_path / "run", "--lora-rank", 4
    assert call("train", *words, *more, *SHORT) == 0
    ids = rng.integers(0, open_model(models[kind]).model.config.vocab_size, (2, 12))
    peer = peer_of(open_model(models[kind]).model)
    before, ours = logits_of(peer, ids), open_model(tmp_path / "run").model(ids)[0].data
    after = logits_of(peft.PeftModel.from_pretrained(peer, tmp_path / "run").eval(), ids)
    assert np.abs(after - before).max() > 1e-3 * np.abs(before).max()
    np.testing.assert_allclose(ours, after, rtol=0, atol=1e-4 * np.abs(after).max())


@PEERS_WARN
@pytest.mark.parametrize("kind", ["llama", "gpt"])
def test_adapters_that_peft_made_open(kind, models, tmp_path, rng):
    peft, torch = pytest.importorskip("peft"), pytest.importorskip("torch")
    opened = open_model(models[kind])
    targets = ["q_proj", "v_proj"] if kind == "llama" else ["c_attn"]
    config = peft.LoraConfig(r=3, lora_alpha=7, target_modules=targets, task_type="CAUSAL_LM", lora_dropout=0.1)
    theirs = peft.get_peft_model(peer_of(opened.model), config).eval()
    with torch.no_grad():
        for name, p in theirs.named_parameters():
            if "lora_B" in name:
                p += 0.3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(0))
    theirs.save_pretrained(tmp_path / "theirs")
    change(tmp_path / "theirs" / ADAPTER_CONFIG, base_model_name_or_path=str(models[kind]))
    ids = rng.integers(0, opened.model.config.vocab_size, (2, 12))
    expected, ours = logits_of(theirs, ids), open_model(tmp_path / "theirs")
    np.testing.assert_allclose(ours.model(ids)[0].data, expected, rtol=0, atol=1e-4 * np.abs(expected).max())
    assert np.abs(expected - opened.model(ids)[0].data).max() > 1e-2
    assert call("generate", "--model", tmp_path / "theirs", "--prompt", "the", "--max-new-tokens", 2) == 0


@PEERS_WARN
def test_a_folder_of_transformers_is_tuned_and_the_merged_model_goes_out_again(base, tmp_path, rng):
    transformers, peft = pytest.importorskip("transformers"), pytest.importorskip("peft")
    assert call("export", "--model", base / "small.gguf", "--to", "hf", tmp_path / "theirs") == 0
    words = "--init", tmp_path / "theirs", "--chats", base / "chats.jsonl", "--lora-rank", 4, "--out", tmp_path / "run"
    assert call("train", *words, *SHORT, *LONGER) == 0
    assert call("export", "--model", tmp_path / "run", "--to", "hf", tmp_path / "merged") == 0
    ids, opened = rng.integers(0, 300, (2, 12)), open_model(tmp_path / "run")
    named = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "theirs")
    for peer in (
        peft.PeftModel.from_pretrained(named, tmp_path / "run").eval(),
        transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval(),
    ):
        expected = logits_of(peer, ids)
        np.testing.assert_allclose(opened.model(ids)[0].data, expected, rtol=0, atol=1e-4 * np.abs(expected).max())
    assert opened.known["texts"] == open_model(tmp_path / "theirs").known["texts"]
    assert call("train", "--init", tmp_path / "theirs", *words[2:4], "--out", tmp_path / "full", *SHORT, *LONGER) == 0
    assert open_model(tmp_path / "full").known == open_model(tmp_path / "theirs").known


# Runs


RUNS = {
    "all weights": ["--text", "text.txt"],
    "adapters": ["--text", "text.txt", "--lora-rank", 3, "--lora-dropout", 0.2],
    "conversations": ["--chats", "chats.jsonl", "--lora-rank", 3, "--lora-dropout", 0.2, "--grad-accum", 2, *LONGER],
    "conversations, all weights": ["--chats", "chats.jsonl", *LONGER],
}


@pytest.mark.parametrize("words", RUNS.values(), ids=RUNS)
def test_a_resumed_run_equals_one_that_was_not_stopped_bit_for_bit(words, folder, monkeypatch):
    monkeypatch.chdir(folder)
    words = ["train", "--init", "small.gguf", *SHORT, *words, "--schedule", "constant"]
    assert call(*words, "--out", "straight") == 0
    assert call(*words, "--out", "stopped", "--steps", 2) == 0
    if "--lora-rank" not in words:
        (folder / "small.gguf").unlink()  # the run needs it no more
    assert call("train", "--out", "stopped", "--resume", "--steps", 4) == 0
    files = [name for name in (MODEL, ADAPTER, "optimizer.safetensors") if (folder / "straight" / name).exists()]
    assert len(files) == 2
    for name in files:
        one, other = (load_tensors(folder / run / name)[0] for run in ("straight", "stopped"))
        assert one.keys() == other.keys()
        assert all(np.array_equal(one[key], other[key]) for key in one), name
    logs = [(folder / run / "log.jsonl").read_text().splitlines() for run in ("straight", "stopped")]
    losses = [[{**json.loads(line), "tokens_per_second": 0, "limit_share": 0} for line in log] for log in logs]
    assert losses[0] == losses[1]


def test_a_run_of_all_weights_opens_in_every_command_and_is_gone_on_with(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    before = open_model("small.gguf")
    for words in (
        ["train", "--init", "small.gguf", "--text", "text.txt", "--out", "full", *SHORT],
        ["generate", "--model", "full", "--prompt", "the", "--max-new-tokens", 4],
        ["generate", "--model", "full", "--prompt", "the", "--max-new-tokens", 4, "--weights", "int8"],
        ["graph", "--model", "full", "--out", "graph.svg"],
        ["train", "--init", "full", "--text", "text.txt", "--lora-rank", 2, "--out", "again", *SHORT],
        ["train", "--init", "again", "--chats", "chats.jsonl", "--out", "more", *SHORT, *LONGER],
        ["generate", "--model", "again", "--max-new-tokens", 4],
    ):
        assert call(*words) == 0, words
    opened = open_model("full")
    assert opened.model.config == before.model.config
    assert opened.known["template"] == before.known["template"]
    assert opened.tokenizer.to_bytes() == before.tokenizer.to_bytes()
    assert "blocks of at most 16 tokens; it reads 64" in capsys.readouterr().out
    assert Conversation(open_model("more")).ask("the fox") == []


def test_end_of_text_is_the_models_own_token(folder, monkeypatch):
    monkeypatch.chdir(folder)
    (folder / "other.txt").write_text(TEXT)
    trainer = trainer_of(folder, text=("text.txt", "other.txt"), end_of_text=True)
    ids, end = trainer.task.data.training, trainer.task.tokenizer.end
    assert (ids == end).sum() == 1
    assert trainer.task.tokenizer.pieces[end] == b"<|end|>"


def test_token_files_of_the_models_tokenizer_are_learned_from(folder, monkeypatch, fails):
    monkeypatch.chdir(folder)
    for i in range(40):
        (folder / f"{i}.txt").write_text(TEXT)
    words = "prepare", "--text", "[0-9]*.txt", "--validation-share", 0.2
    assert call(*words, "--tokenizer-file", "small.gguf", "--out", "data") == 0
    assert call(*words, "--tokenizer", "byte", "--out", "other") == 0
    assert call("train", "--init", "small.gguf", "--data", "data", "--out", "run", *SHORT) == 0
    message = "--data .*other: its tokens are of another tokenizer than the model's; prepare it with that"
    fails(["train", "--init", "small.gguf", "--data", "other", "--out", "run2"], message)


# Conversations


def said(opened, messages):
    """The texts that the assistant says in a conversation, as the mask has them."""
    example = encode(Chat(messages, "here"), opened.tokenizer, Conversation.template_of(opened))
    starts = np.flatnonzero(np.diff(np.concatenate([[0], example.said.astype(int), [0]])))
    return [opened.tokenizer.decode(example.ids[a:b]) for a, b in zip(starts[::2], starts[1::2])]


def test_the_assistants_tokens_and_its_ends_are_learned(base):
    opened = open_model(base / "small.gguf")
    messages = talk("the fox", "jumps over", "and <|end|> the dog", "is lazy <|end|> too")
    assert said(opened, messages) == ["jumps over<|end|>", "is lazy <|end|> too<|end|>"]
    whole = encode(Chat(messages, ""), opened.tokenizer, Conversation.template_of(opened))
    chat = Conversation(opened)
    chat.ask("the fox")
    assert np.array_equal(whole.ids[: len(chat._ids)], chat._ids)  # what the model sees in a chat
    assert not whole.said[: len(chat._ids)].any()
    assert whole.said[len(chat._ids)]


@needs_smollm2
@pytest.mark.slow
def test_the_assistants_tokens_of_the_real_template():
    opened = open_model(SMOLLM2)
    messages = [{"role": "system", "content": "Be brief."}, *talk("Hi <|im_end|>", "\n Hello!", "And?", "No\n")]
    assert said(opened, messages) == ["\n Hello!<|im_end|>", "No\n<|im_end|>"]


def test_a_template_that_changes_earlier_turns_is_refused(base):
    opened = open_model(base / "small.gguf")
    opened.known["template"] = "{% for m in messages %}{{ loop.revindex }} {{ m.content }}<|end|>{% endfor %}"
    with pytest.raises(ValueError, match="here: the model's chat template writes it in another way when more follows"):
        said(opened, talk("a", "b", "c", "d"))


def test_every_answer_token_has_the_same_weight_in_batches_of_any_lengths(base):
    trainer = trainer_of(base, "chats", length=60, batch_size=2, grad_accum=3)
    batches = trainer.task.batches(0, trainer.data_rng)
    assert len({trainer.task.count(batch) for batch in batches}) > 1
    mean, total = trainer.accumulate(batches), sum(map(trainer.task.count, batches))
    losses = []
    with autotx.no_grad():
        for inputs, targets, counted in batches:
            for row, wanted, which in zip(inputs, targets, counted):  # one by one, so without padding
                length = np.flatnonzero(which)[-1] + 1
                logits = trainer.model(row[None, :length])[0]
                losses.extend(autotx.cross_entropy(logits[0], wanted[:length], reduction="none").data[which[:length]])
    assert total == len(losses)
    assert mean == pytest.approx(np.mean(losses), rel=1e-5)


def test_what_is_cut_and_left_out_is_counted(rng):
    def example(count, *answers):
        mask = np.zeros(count, bool)
        for first, end in answers:
            mask[first:end] = True
        return conversations.Example(np.arange(count), mask)

    fits, cut, out = example(9, (5, 9)), example(20, (5, 7), (12, 20)), example(30, (9, 30))
    kept, lost = fitted([fits, cut, out], 8)
    assert [len(e.ids) for e in kept] == [9, 9]
    assert lost == conversations.Cut(shortened=1, tokens=11, left_out=1, left_out_tokens=30)


def test_it_says_what_of_conversations_it_cannot_learn(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    write_chats(folder / "long.jsonl", talk("a", "fox " * 30), talk("dog " * 40, "b"), *CHATS)
    words = "--chats", "long.jsonl", "--val-chats", "chats.jsonl", "--out", "run", *SHORT, *LONGER
    assert call("train", "--init", "small.gguf", *words) == 0
    shown = capsys.readouterr().out
    assert "13 conversations to learn from, 12 to validate on" in shown
    assert "to learn from: " in shown
    assert "of 1 conversation left out, for the first answer comes after those" in shown
    assert "cut off after 48 tokens" in shown


def test_chats_change_how_it_answers(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    write_chats(folder / "style.jsonl", *[talk(word, "the lazy dog") for word in ("the", "fox", "is", "quick", "so")])
    settings = "--steps", 60, "--lr", 0.02, "--batch-size", 6, "--warmup-steps", 1, "--eval-interval", 60
    words = "--chats", "style.jsonl", "--lora-rank", 8, "--lora-targets", "q_proj,v_proj,gate_proj,up_proj,down_proj"
    assert call("train", "--init", "small.gguf", *words, "--out", "run", *settings) == 0
    assert capsys.readouterr().out.count("\nthe lazy dog\n") == 1
    chat = Conversation(open_model("run"))
    chat.ask("quick")
    assert "".join(chat.answer(temperature=0)) == "the lazy dog"


# Bad input


def one_line(row):
    return (row if isinstance(row, str) else json.dumps(row)) + "\n"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{", "line 2 is truncated or not JSON"),
        ("[1]", "line 2 should hold a JSON object, it holds a list"),
        ({"text": "a"}, 'line 2: it should be {"messages": \\[...\\]}, a list that is not empty'),
        ({"messages": []}, 'line 2: it should be {"messages": \\[...\\]}, a list that is not empty'),
        ({"messages": ["a"]}, "line 2: message 1 has the role None; it should be one of system, user, assistant"),
        (
            {"messages": [{"role": "tool", "content": "a"}]},
            "line 2: message 1 has the role 'tool'; it should be one of system, user, assistant",
        ),
        ({"messages": [{"role": "user", "content": None}]}, "line 2: message 1 of the user has no text as content"),
        ({"messages": talk("a", " ")}, "line 2: message 2 of the assistant has no text as content"),
        ({"messages": talk("a")}, "line 2: the assistant says nothing; a conversation to learn from has a message"),
    ],
)
def test_conversations_that_cannot_be_learned_from(row, message, folder, fails):
    (folder / "bad.jsonl").write_text(one_line({"messages": talk("a", "b")}) + one_line(row))
    words = "train", "--init", folder / "small.gguf", "--chats", folder / "bad.jsonl", "--out", folder / "run"
    fails(words, f"--chats .*bad.jsonl, {message}")
    fails([*words[:4], folder / "chats.jsonl", "--val-chats", *words[4:]], f"--val-chats .*bad.jsonl, {message}")


def test_settings_that_do_not_fit(folder, models, fails):
    init, text, chats = ("--init", folder / "small.gguf"), ("--text", folder / "text.txt"), folder / "chats.jsonl"
    (folder / "one.jsonl").write_text(one_line({"messages": talk("a", "b")}))
    for words, message in (
        (["--chats", chats], "--chats: no model is given to go on with; give one by --init"),
        (["--val-chats", chats], "--val-chats is no setting of a gpt; give --chats"),
        (["--lora-rank", 2], "--lora-rank is no setting of a gpt; give --init"),
        ([*init, *text, "--lora-alpha", 2], "--lora-alpha, --lora-targets and --lora-dropout need adapters; give --lo"),
        ([*init, *text, "--length", 65], "--length 65 is more than the 64 tokens that .*small.gguf reads"),
        ([*init, *text, "--length", 60], "its validation part has .* must have more than --length 60"),
        ([*init, *text, "--n-layer", 2], "--n-layer is no setting beside --init, whose shape and tokens stay; leave"),
        ([*init, *text, "--tokenizer", "byte"], "--tokenizer is no setting beside --init, whose shape and tokens st"),
        ([*init, *text, "--model", "llama"], "--model llama has no use beside --init; --init says what learns"),
        (
            [*init, *text, *SHORT, "--lora-rank", 2, "--lora-targets", "w"],
            "--lora-targets: there is no 'w'; choose among q_pr",
        ),
        (["--init", folder / "none", *text], "none: there is no trained model"),
        (["--init", models["gpt"], "--chats", chats], "gpt has no chat template, so it has not learned to converse"),
        ([*init, "--chats", folder / "none"], "--chats .*none: cannot be read: No such file or directory"),
        (
            [*init, "--chats", folder / "one.jsonl"],
            "it is the only conversation, none is left to validate on; give mor",
        ),
        ([*init, "--chats", chats, "--length", 4], "no answer is left to learn from within --length 4; give a larger"),
    ):
        fails(["train", *words, "--out", folder / "run"], message)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"peft_type": "IA3"}, "peft_type is 'IA3'; autotx reads LORA"),
        ({"use_dora": True}, "use_dora is 'True', which autotx does not compute"),
        ({"bias": "all"}, "bias is 'all', which autotx does not compute"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights is 'pissa', which autotx does not compute"),
        ({"r": "4"}, "r should be a whole number, it is '4'"),
        ({"r": 0}, "r should be 1 or more, it is 0"),
        ({"r": 5}, "adapter_model.safetensors is not an adapter for .*: base_model.model.model.layers.0.self_attn"),
        ({"base_model_name_or_path": "org/model"}, "is an adapter for org/model, which is not there; put its place in"),
        ({"base_model_name_or_path": None}, "base_model_name_or_path should be a text, it is 'None'"),
    ],
)
def test_adapters_that_cannot_be_opened(entries, message, folder, fails):
    change(folder / "lora" / ADAPTER_CONFIG, **entries)
    fails(["generate", "--model", folder / "lora", "--prompt", "the"], message)


def test_adapters_in_a_circle(folder, fails):
    change(folder / "lora" / ADAPTER_CONFIG, base_model_name_or_path=str(folder / "lora"))
    fails(["generate", "--model", folder / "lora"], "is an adapter for an adapter, and so on, 8 times; merge some of")


def test_an_adapter_for_another_model(folder, fails):
    write_model(folder / "small.gguf", small_llama(norm_eps=1e-5, block_size=128), tokenizer__chat_template=CHATML)
    assert call("generate", "--model", folder / "lora", "--prompt", "the", "--max-new-tokens", 1) == 0  # same weights
    other = small_llama()
    other.wte.weight.data = other.wte.weight.data * 2
    write_model(folder / "small.gguf", other, tokenizer__chat_template=CHATML)
    fails(["generate", "--model", folder / "lora"], "lora is an adapter for another model than .*small.gguf is now")
    fails(["train", "--resume", "--out", folder / "lora", "--steps", 9], "is another model than the run began with")
    write_model(folder / "small.gguf", small_llama(n_embd=16), tokenizer__chat_template=CHATML)
    (folder / "lora" / STATE).unlink()
    (folder / "lora" / "config.json").unlink()  # peft's two files alone have no digest
    fails(["generate", "--model", folder / "lora"], "is not an adapter for .*small.gguf: base_model.* of this model it")


def test_adapters_that_hold_nonsense(folder, fails):
    path = folder / "lora" / ADAPTER
    tensors = load_tensors(path)[0]
    name = min(tensors)
    for wrong in ({name: np.full_like(tensors[name], np.nan)}, {"base_model.model.x.lora_A.weight": tensors[name]}):
        save_tensors(path, tensors | wrong)
        fails(["generate", "--model", folder / "lora"], "not an adapter for .*: (unexpected )?base_model.model")


def test_a_run_whose_shape_is_wrong(folder, fails, monkeypatch):
    monkeypatch.chdir(folder)
    assert call("train", "--init", "small.gguf", "--text", "text.txt", "--out", "full", *SHORT) == 0
    path = folder / "full" / SHAPE
    for entries, message in (
        ({"n_layer": 10**9}, "is not of the model that .*full describes: it has .* weights, the model .* or more"),
        ({"vocab_size": 5}, "shape.json is for 5 tokens, the tokenizer has 316"),
        ({"n_head": "4"}, "shape.json should hold the shape of the model: LlamaConfig: n_head is '4'"),
        ({"more": 1}, "shape.json should hold the shape of the model: .*unexpected keyword argument 'more'"),
    ):
        before = path.read_bytes()
        change(path, **entries)
        fails(["generate", "--model", folder / "full"], message)
        fails(["train", "--resume", "--out", folder / "full", "--steps", 9], message)
        path.write_bytes(before)
