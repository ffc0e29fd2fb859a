"""What the program computes, as it was recorded in golden.json: losses, samples, and the structure of pictures.

    python tests/golden.py --write      record it again, after a change that was meant to change it
    python tests/golden.py --bits       print a digest of each exact value, to compare two versions on one machine

The order in which a processor adds up differs from one kind to the next, so the test allows numbers a small tolerance;
the digests of --bits allow none.
"""

import hashlib
import json
import sys
import tempfile
from pathlib import Path

import numpy as np

import autotx
from autotx import viz
from autotx.models.gpt import GPT, GPTConfig
from autotx.models.registry import settings_of
from autotx.models.train import Trainer
from autotx.models.transformer import START, Transformer, TransformerConfig
from autotx.viz.ops import COMPOSED, OPS, example

FILE = Path(__file__).parent / "golden.json"
LABELLED = "el gato\tspanish\nthe cat\tenglish\nla casa\tspanish\nthe house\tenglish\n" * 8


def computed():
    """All of it: dict of name -> value that JSON can hold."""
    with tempfile.TemporaryDirectory() as folder:
        return {**_training(Path(folder)), **_generation(), **_graphs()}


def _training(folder):
    """The losses of a few steps of each kind of training, the validation after them, and a digest of the weights."""
    text = folder / "text.txt"
    text.write_text("To be, or not to be, that is the question: whether 'tis nobler in the mind to suffer.\n" * 60)
    labelled = folder / "labels.tsv"
    labelled.write_text(LABELLED)
    shape = {"n_layer": 2, "n_head": 2, "n_embd": 32, "block_size": 32, "steps": 8, "warmup_steps": 2, "dropout": 0.1}
    settings = {
        "gpt": {"text": (str(text),), "batch_size": 4, "grad_accum": 2, "eval_batches": 2, **shape},
        "transformer": {"batch_tokens": 200, "eval_batches": 2, **shape},
        "word2vec": {"steps": 8, "eval_batches": 2, "dim": 16, "batch_words": 512, "warmup_steps": 2},
    }
    found = {}
    for kind, given in settings.items():
        trainer = Trainer(settings_of(kind)(**given))
        found |= _trained(kind, trainer)
    return found


def _trained(kind, trainer):
    losses = [trainer.train_step()["loss"] for _ in range(trainer.config.steps)]
    weights = {name: _digest(array) for name, array in trainer.model.state_dict().items()}
    return {
        f"{kind} losses": losses,
        f"{kind} validation": trainer.validate(),
        f"bits {kind} weights": _digest(json.dumps(weights).encode()),
    }


def _generation():
    """What models of random weights write."""
    gpt = GPT(GPTConfig(block_size=16, vocab_size=40, n_layer=2, n_head=2, n_embd=32), np.random.default_rng(0))
    prompt = np.array([[1, 2, 3, 4, 5, 6, 7, 8], [9, 8, 7, 6, 5, 4, 3, 2]])
    sampled = gpt.generate(prompt, 24, temperature=0.9, top_k=20, top_p=0.95, rng=np.random.default_rng(1))
    transformer = Transformer(TransformerConfig(30, 16, 2, 2, 32), np.random.default_rng(2))
    source, target = np.array([[5, 6, 7, 8], [9, 10, 0, 0]]), np.array([[START, 4, 5], [START, 6, 0]])
    with autotx.no_grad():
        scores, translated = gpt(prompt)[0].data, transformer(source, target).data
    return {
        "gpt sample": sampled.tolist(),
        "gpt scores": scores[:, -1, :5].tolist(),
        "bits gpt scores": _digest(scores),
        "transformer scores": translated[0, -1, :5].tolist(),
        "bits transformer scores": _digest(translated),
    }


def _graphs():
    """The structure of graphs: of each op's example, as it is and opened, and of both models."""
    found = {}
    for name in OPS:
        tensor, grads = example(name)
        found[f"graph {name}"] = _structure(viz.graph_json(tensor, grads=grads))
        if name in COMPOSED:
            found[f"graph {name} opened"] = _structure(viz.graph_json(tensor, grads=grads, fused=[name]))
    gpt = GPT(GPTConfig(block_size=8, vocab_size=11, n_layer=2, n_head=2, n_embd=8), np.random.default_rng(0))
    ids = np.arange(5)[None]
    found["graph gpt"] = _structure(viz.graph_json(gpt(ids, ids + 1)[1]))
    transformer = Transformer(TransformerConfig(11, 8, 1, 2, 8), np.random.default_rng(0))
    found["graph transformer"] = _structure(viz.graph_json(transformer.loss(ids + 3, np.array([[START, 4, 5, 2]]))))
    return found


def _structure(graph):
    """Nodes in lines: kind, op and mathematics, name, shape, module, parents, formulas and settings."""
    names = ("kind", "op", "math", "name", "shape", "module", "parents", "formula", "gradients", "settings")
    lines = []
    for node in graph["nodes"]:
        facts = (node[name] for name in names)
        lines.append(" | ".join(json.dumps(fact, ensure_ascii=False) for fact in facts))
    return lines


def _digest(value):
    value = value if isinstance(value, bytes) else np.ascontiguousarray(value).tobytes()
    return hashlib.sha256(value).hexdigest()[:16]


def main(flag):
    values = computed()
    if flag == "--write":
        kept = {name: value for name, value in values.items() if not name.startswith("bits ")}
        FILE.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    elif flag == "--bits":
        for name, value in values.items():
            print(_digest(json.dumps(value).encode()), name)
    else:
        sys.exit("give --write or --bits")


if __name__ == "__main__":
    main(*sys.argv[1:] or [""])
