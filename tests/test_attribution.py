"""Attribution: shares add up to what they explain, and are those of captum."""

import json

import numpy as np
import pytest
from gguf_files import SMOLLM2, needs_smollm2, small_llama, write_model
from PIL import Image
from test_edits import IDS, SMALL, small
from test_readers import made

import autotx
from autotx import viz
from autotx.models.cli import main
from autotx.models.formats import open_model
from autotx.models.inference import attribution as module
from autotx.models.inference.attribution import attribution, rollout

PROMPT = IDS[0]


@pytest.mark.parametrize("against", [None, 4])
@pytest.mark.parametrize("baseline", [None, IDS[1]])
@pytest.mark.parametrize("name", SMALL)
def test_shares_add_up_to_the_difference_from_the_baseline(name, baseline, against):
    model = small(name)
    found = attribution(model, PROMPT, 3, against, baseline, points=400)
    with autotx.no_grad():
        scores = model(PROMPT[None])[0].data[0, -1]
    assert found.score == pytest.approx(scores[3] - (0 if against is None else scores[against]))
    assert found.integrated.sum() == pytest.approx(found.score - found.baseline, abs=found.error + 1e-12)
    assert found.adds_up()
    assert found.error <= 0.01 * abs(found.score - found.baseline)
    if baseline is not None:
        with autotx.no_grad():
            scores = model(baseline[None])[0].data[0, -1]
        assert found.baseline == pytest.approx(scores[3] - (0 if against is None else scores[against]))
        assert np.array_equal(found.integrated != 0, baseline != PROMPT)
    else:
        assert found.integrated[0] == 0  # the first token keeps its embedding
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


@pytest.mark.parametrize("name", SMALL)
def test_gradient_times_input_is_that_of_finite_differences(name):
    model = small(name)
    with model.edit({"embedding": None}) as seen:
        model(PROMPT[None])
    x = seen["embedding"].data

    def score(scale):
        with autotx.no_grad(), model.edit({"embedding": lambda _: x * scale[:, None]}):
            return model(PROMPT[None])[0].data[0, -1, 3]

    steps = 1e-6 * np.eye(len(PROMPT))
    expected = [(score(1 + step) - score(1 - step)) / 2e-6 for step in steps]
    np.testing.assert_allclose(attribution(model, PROMPT, 3, points=9).gradient, expected, rtol=1e-5, atol=1e-8)


def test_points_are_few_where_the_line_is_straight_and_it_is_said_when_they_do_not_suffice():
    model = small("llama")
    few = attribution(model, PROMPT, 3, points=9)
    assert few.points == 9
    assert few.error > attribution(model, PROMPT, 3, points=60).error
    assert not few._replace(error=0.5, score=1.0, baseline=0.0).adds_up()
    with model.edit({"blocks.*.mlp.out": lambda v: 0 * v, "blocks.*.attention.out": lambda v: 0 * v,
                     "norm.out": lambda v: v * 0 + 1}):  # fmt: skip
        assert attribution(model, PROMPT, 3, baseline=IDS[1]).points == 9
    with pytest.raises(ValueError, match=r"^attribution: a baseline of 3 tokens for 6; give as many$"):
        attribution(model, PROMPT, 3, baseline=IDS[1, :3])


@pytest.mark.parametrize("name", ["gpt", "llama"])
def test_rollout_is_a_product_of_averaged_weights(name):
    model = made(name)
    ids = np.arange(3, 15)
    with model.edit({"blocks.*.attention.weights": None}) as seen:
        model(ids[None])
    first, second = (x.data[0].mean(axis=0) for x in seen.values())
    expected = (second + np.eye(12)) / 2 @ ((first + np.eye(12)) / 2)
    found = rollout(model, ids)
    np.testing.assert_allclose(found, expected[-1], atol=1e-5)
    assert found.sum() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("baseline", [None, IDS[1]])
@pytest.mark.parametrize("name", SMALL)
def test_shares_are_those_of_captum(name, baseline, monkeypatch):
    """Of the same model in PyTorch, from the same baseline, with many points. captum's own default is a baseline of
    zeros, where an RMSNorm bends the line beyond what points can follow."""
    torch, attr = pytest.importorskip("torch"), pytest.importorskip("captum.attr")
    pytest.importorskip("transformers")
    model = small(name)
    theirs, embedded = in_torch(name, model, torch)
    line = module.Line(model, PROMPT, 3, 4, baseline)

    def difference(x):
        logits = theirs(inputs_embeds=x).logits[:, -1]
        return logits[:, 3] - logits[:, 4]

    # what transformers adds to embeddings by itself, the positions of a GPT, is in both of ours
    x, b = (torch.tensor(a - embedded, dtype=torch.float64, requires_grad=True)[None] for a in (line.x, line.b))
    expected = attr.IntegratedGradients(difference).attribute(x, b, n_steps=300).sum(-1).detach().numpy()[0]
    monkeypatch.setattr(module, "TOLERANCE", 1e-5)
    found = attribution(model, PROMPT, 3, 4, baseline, points=3000)
    np.testing.assert_allclose(found.integrated, expected, rtol=1e-4, atol=1e-5)
    gradient = attr.InputXGradient(difference).attribute(x).sum(-1).detach().numpy()[0]
    if name == "llama":  # a GPT's x has its positions, too
        np.testing.assert_allclose(found.gradient, gradient, atol=1e-5)  # their angles are float32


def in_torch(name, model, torch):
    """The same model of transformers, in float64, and what it adds to embeddings (T, C)."""
    import transformers

    c, state = model.config, {n: torch.tensor(a) for n, a in model.state_dict().items()}
    if name == "gpt":
        config = transformers.GPT2Config(vocab_size=c.vocab_size, n_positions=c.block_size, n_embd=c.n_embd,
                                         n_layer=c.n_layer, n_head=c.n_head)  # fmt: skip
        names = {"attn.qkv": "attn.c_attn", "attn.proj": "attn.c_proj", "mlp.fc": "mlp.c_fc", "mlp.proj": "mlp.c_proj"}
        theirs, given = transformers.GPT2LMHeadModel(config), {}
        for ours, value in state.items():
            other = ours.replace("blocks.", "h.")
            for old, new in names.items():
                other = other.replace(old, new)
            turned = value.T.contiguous() if value.ndim == 2 and ours.startswith("blocks") else value
            given[f"transformer.{other}"] = turned
        added = model.wpe.weight.data[: len(PROMPT)]
    else:
        config = transformers.LlamaConfig(
            vocab_size=c.vocab_size, hidden_size=c.n_embd, intermediate_size=c.n_hidden, num_hidden_layers=c.n_layer,
            num_attention_heads=c.n_head, num_key_value_heads=c.n_kv_head, max_position_embeddings=c.block_size,
            rms_norm_eps=c.norm_eps, tie_word_embeddings=True)  # fmt: skip
        theirs, given, added = transformers.LlamaForCausalLM(config), {}, np.zeros((len(PROMPT), c.n_embd))
        D = c.n_embd // c.n_head
        for ours, value in state.items():
            other = (
                ours.replace("blocks.", "layers.").replace("wte", "embed_tokens").replace("norm1", "input_layernorm")
            )
            other = other.replace("norm2", "post_attention_layernorm").replace("attention.proj", "self_attn.o_proj")
            for part in ("gate", "up", "down"):
                other = other.replace(f"mlp.{part}", f"mlp.{part}_proj")
            if "attention.qkv" in other:
                for part, rows in zip("qkv", value.split([c.n_embd, c.n_kv_head * D, c.n_kv_head * D])):
                    given["model." + other.replace("attention.qkv", f"self_attn.{part}_proj")] = rows
            else:
                given[f"model.{other}"] = value
    missing, unexpected = theirs.double().load_state_dict(given, strict=False)
    assert not unexpected
    assert set(missing) <= {"lm_head.weight"}
    theirs.tie_weights()
    theirs.eval()
    with torch.no_grad():
        logits = theirs(torch.tensor(PROMPT[None])).logits.numpy()
    np.testing.assert_allclose(logits, model(PROMPT[None])[0].data, rtol=1e-5, atol=1e-6)
    return theirs, added


# The command


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("explain")
    write_model(folder / "small.gguf", small_llama())
    return folder


def test_explain_as_text_json_and_picture(folder, capsys, tmp_path):
    same = ["explain", "--model", str(folder / "small.gguf"), "--prompt", "the quick brown fox", "--against", "q"]
    assert main([*same, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    opened = open_model(folder / "small.gguf")
    ids = opened.tokenizer.encode("the quick brown fox")
    assert [row["token"] for row in found["tokens"]] == opened.tokenizer.texts(ids)
    sums = {key: sum(row[key] for row in found["tokens"]) for key in ("integrated", "rollout")}
    assert found["adds_up"] is True
    assert sums["integrated"] == pytest.approx(found["score"] - found["baseline_score"], abs=found["error"] + 1e-6)
    assert sums["rollout"] == pytest.approx(1, abs=1e-5)
    assert main([*same, "--out", str(tmp_path / "a.png")]) == 0
    shown = capsys.readouterr().out
    told = f"the score of '{found['target']}' less that of 'q' is {found['score']:.3f}; after the baseline, the mean of"
    assert shown.startswith(told)
    assert (
        f"integrated gradients at {found['points']} points, add up to {sums['integrated']:.3f}, the difference" in shown
    )
    assert "rollout is no attribution" in shown
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.size[0] > 400
    assert main([*same, "--baseline", "the quick brown dog"]) == 0
    assert "after the baseline, 'the quick brown dog', " in capsys.readouterr().out


def test_it_is_said_when_shares_do_not_add_up(folder, capsys, monkeypatch):
    monkeypatch.setattr(module, "TOLERANCE", 1e-12)
    same = ["explain", "--model", str(folder / "small.gguf"), "--prompt", "the quick brown fox"]
    assert main([*same, "--steps", "15"]) == 0
    shown = capsys.readouterr().out
    assert "points, add up to" in shown
    assert "parts of the line disagree by" in shown
    assert "give more --steps" in shown


def test_flags_that_are_wrong(folder, fails, tmp_path):
    same = ["explain", "--model", folder / "small.gguf", "--prompt"]
    fails([*same, "a"], "--prompt is one token, which has none before it; give a longer text")
    fails([*same, "the quick fox", "--steps", 8], "--steps 8 should be at least 9")
    fails([*same, "the quick fox", "--target", "the fox"], "--target 'the fox' is . tokens, '.*'; give one token")
    fails([*same, "the quick fox", "--target", "q", "--against", "q"], "are both 'q'; give two tokens")
    fails(
        [*same, "the quick fox", "--baseline", "the quick"], r"--baseline has \d tokens, 'the', ' quick', and --prompt"
    )
    fails([*same, "the quick fox", "--out", tmp_path / "a.txt"], r"a\.txt ends in \.txt")


def test_the_picture_of_shares():
    figure, axes = viz.shares({"one": [1, -2], "two": [0.5, 0]}, ["a", "$b"], title="t", note="n")
    assert [t.get_text() for t in axes[0].get_yticklabels()] == ["a", r"\$b"]
    assert [bar.get_width() for bar in axes[0].patches] == [1, -2]
    assert viz.style.drawn(figure)
    with pytest.raises(ValueError, match=r"^shares: 1 tokens; give as many numbers for two$"):
        viz.shares({"one": [1], "two": [1, 2]}, ["a"])


@needs_smollm2
@pytest.mark.slow
def test_of_a_real_model_the_country_says_which_capital():
    opened = open_model(SMOLLM2)
    prompt, other = (
        opened.tokenizer.encode(f"The capital of {land} is").astype(np.int64) for land in ("France", "Italy")
    )
    paris, rome = (int(opened.tokenizer.encode(f" {city}")[0]) for city in ("Paris", "Rome"))
    found = attribution(opened.model, prompt, paris, rome, other)
    assert found.adds_up()
    assert found.integrated.argmax() == 3
    assert found.integrated[[0, 1, 2, 4]].tolist() == [0, 0, 0, 0]
    assert found.score > 5
    assert found.baseline < -5
