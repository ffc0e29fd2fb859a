"""`autotx gallery`: a picture of each kind, of small models that the command trains, and a page that shows all.

PICTURES lists them: the file name, a caption, and the function that draws it from (a Workshop, the path to write to).
"""

import contextlib
import functools
import io
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image  # a dependency of matplotlib

import autotx
from autotx import Tensor, nn, viz
from autotx.files import checked_folder, write_atomically
from autotx.models.commands import maps
from autotx.models.commands.choices import listed
from autotx.models.commands.graph import loss_of
from autotx.models.commands.lens import shown
from autotx.models.commands.plot import read_runs, timed
from autotx.models.formats import open_model
from autotx.models.gpt import GPT, GPTConfig
from autotx.models.inference.beams import translate
from autotx.models.inference.continuations import Continuation, continue_text
from autotx.models.inference.lens import lens
from autotx.models.inference.patching import patch
from autotx.models.mlp import MLP
from autotx.models.pairs import encode
from autotx.models.paper.constants import PE, W_K, W_Q, X
from autotx.models.paper.steps import attention_weights, causal, linear, tensor
from autotx.models.registry import settings_of
from autotx.models.tasks.text import TextTask
from autotx.models.train import train
from autotx.models.transformer import sinusoidal_positions
from autotx.viz.attention import AttentionMap
from autotx.viz.ops import example

INDEX = "README.md"
PROMPT = "the value of "


class Workshop:
    """Models that several pictures use, trained when first needed. folder: where their runs are written."""

    def __init__(self, folder):
        self.folder = Path(folder)

    @functools.cached_property
    def gpts(self):
        """The folders of two runs of a small GPT on Python's manual, with different learning rates."""
        shape = {"n_layer": 2, "n_embd": 64, "steps": 500, "eval_interval": 50, "eval_batches": 4, "min_lr": 1e-5}
        return [self._train("gpt", f"lr {lr:g}", lr=lr, **shape) for lr in (3e-3, 3e-4)]

    @functools.cached_property
    def gpt(self):
        """The model and the tokenizer of the first of them."""
        return self._open(self.gpts[0])

    @functools.cached_property
    def translator(self):
        """A Transformer that translates English numbers to German, and its tokenizer."""
        pairs = [(english(n), german(n)) for n in range(1, 1000)]
        file = self.folder / "numbers.tsv"
        write_atomically(file, "".join("\t".join(pair) + "\n" for pair in pairs).encode())
        shape = {"n_layer": 2, "n_head": 2, "n_embd": 64, "dropout": 0.0, "steps": 400, "eval_interval": 400}
        folder = self._train("transformer", "numbers", pairs=str(file), lr=3e-3, batch_tokens=600, **shape)
        return self._open(folder)

    @staticmethod
    def _open(folder):
        opened = open_model(folder)
        return opened.model, opened.tokenizer

    def _train(self, architecture, name, **settings):
        out = self.folder / name
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            train(settings_of(architecture)(out=str(out), **settings))
        return out


# The pictures


def neuron(workshop, path):
    x = Tensor([1.0, 2.0], name="x")
    w, b = (Tensor(value, requires_grad=True, name=name) for name, value in (("w", [0.5, -0.2]), ("b", 0.1)))
    loss = ((x * w).sum() + b).tanh()
    viz.render(loss, path, values=True, grads=True)


def xor(workshop, path):
    network = MLP((2, 4, 1), "tanh", rng=np.random.default_rng(0))
    x, y = Tensor([[0.0, 0], [0, 1], [1, 0], [1, 1]], name="x"), Tensor([[0.0], [1], [1], [0]], name="y")
    viz.render(autotx.binary_cross_entropy_with_logits(network(x), y), path)


def gpt_folded(workshop, path):
    viz.render(loss_of("gpt", None), path)


def gpt_block(workshop, path):
    x = Tensor(np.random.default_rng(1).normal(size=(1, 16, 32)), dtype=np.float32, name="x")
    config = GPTConfig(block_size=16, vocab_size=65, n_layer=1, n_head=4, n_embd=32)
    block = GPT(config, np.random.default_rng(0)).blocks[0]
    viz.render(block(x), path, depth=1, expand=["attn.qkv"], fused=["multi_head_attention"])


def attention_head(workshop, path):
    rng = np.random.default_rng(0)
    x = Tensor(rng.normal(size=(3, 4)), dtype=np.float32, name="x")
    parts = []
    for name in "QKV":
        weight = Tensor(rng.normal(size=(4, 4)), requires_grad=True, dtype=np.float32, name=f"W_{name}")
        parts.append(x @ weight)
        parts[-1].name = name
    head = autotx.scaled_dot_product_attention(*parts)
    viz.render(head, path, fused=["scaled_dot_product_attention"], values=False)


def layer_norm(workshop, path):
    loss, grads = example("layer_norm")
    viz.render(loss, path, values=True, grads=grads, formulas=True)


def encoder_decoder(workshop, path):
    viz.render(loss_of("transformer", None), path, depth=1, expand=["encoder"])


def gpt_attention(workshop, path):
    model, tokenizer = workshop.gpt
    prompt = tokenizer.encode(PROMPT)
    ids = model.generate(prompt, 11, temperature=0)[0]
    title = f"What a small GPT looks at: {len(prompt)} characters were given, 11 it wrote"
    viz.save(maps.of_text(model, tokenizer, ids, len(prompt), title)[0], path)


def logit_lens(workshop, path):
    model, tokenizer = workshop.gpt
    ids = tokenizer.encode(PROMPT)
    cells = shown(lens(model, ids), ids, tokenizer)
    viz.save(viz.lens(*cells, title="What a small GPT would say after each of its layers"), path)


def patching(workshop, path):
    """Both texts end in an e; after "the obje" comes a c, after "the type" rather an r."""
    model, tokenizer = workshop.gpt
    clean, corrupt, (c, r) = (tokenizer.encode(text) for text in ("the obje", "the type", "cr"))
    restored = patch(model, clean, corrupt, "attention", int(c), int(r)).restored()
    places = [a if a == b else f"{a}|{b}" for a, b in zip(*map(tokenizer.texts, (clean, corrupt)))]
    title = "Whose attention tells the e of “the obje” from that of “the type”"
    viz.save(viz.patching(restored, places, "attention", title=title), path)


def all_attention(workshop, path):
    figure = _translation(workshop, 342, False, "What an encoder-decoder looks at while it writes 342 in German")
    viz.save(figure, path)


def cross_attention(workshop, path):
    title = "The German for 786 turns the last two digits, and the decoder looks at them crosswise"
    viz.save(_translation(workshop, 786, True, title, dark=True), path)


def _translation(workshop, number, cross_only, title, dark=False):
    model, tokenizer = workshop.translator
    source = encode(tokenizer, english(number))
    (best,) = translate(model, np.array([source]))[0]
    return maps.of_translation(model, tokenizer, source, best.ids, title, cross_only, dark)[0]


def paper_attention(workshop, path):
    x = tensor(X) + tensor(PE)
    weights = attention_weights(linear(W_Q)(x), linear(W_K)(x)).data
    masked = attention_weights(linear(W_Q)(x), linear(W_K)(x), mask=causal(3)).data
    shown = {
        "in the encoder, as printed": AttentionMap(weights[None], np.ones((3, 3), bool)),
        "in a decoder": AttentionMap(masked[None], causal(3)),
    }
    figure, _ = viz.attention(shown, ["You", "are", "welcome"], title="The whitepaper's example")
    viz.save(figure, path)


def positions(workshop, path):
    learned = workshop.gpt[0].wpe.weight
    tables = {"sinusoidal positions": sinusoidal_positions(*learned.shape), "learned positions": learned}
    viz.save(viz.positions(tables)[0], path)


def embeddings(workshop, path):
    model, tokenizer = workshop.gpt
    known = len(tokenizer.characters)  # the tokens after them are bytes, which are not trained
    table, words = model.wte.weight.data[:known], tokenizer.texts(range(known))
    title = "What a small GPT thinks of characters"
    viz.save(viz.embeddings(table, words, ["e", "t", "1", "T"], title=title)[0], path)


def curves(workshop, path):
    viz.save(viz.curves(read_runs(workshop.gpts), "Two learning rates")[0], path)


def statistics(workshop, path):
    """Two nets of ten layers learn sin(x): with sigmoids, whose gradients vanish, and with GELUs, whose do not."""
    rng = np.random.default_rng(0)
    sizes = (1, *[32] * 9, 1)
    nets = nn.Module()
    vars(nets).update({f: MLP(sizes, f, rng=rng) for f in ("sigmoid", "gelu")})
    x = np.linspace(-3, 3, 64, dtype=np.float32)[:, None]
    optimizer = autotx.optim.AdamW(nets.parameters(), lr=3e-3)
    noted = viz.LayerStatistics(nets, every=5)
    for step in range(200):
        with noted.step(step):
            for net in vars(nets).values():
                autotx.mse_loss(net(x), np.sin(x)).backward()
        optimizer.step()
        optimizer.zero_grad()
    title = "Ten layers of sigmoids, whose gradients vanish towards the input, and ten of GELUs"
    viz.save(viz.layer_statistics(noted.records, title)[0], path)


def step_times(workshop, path):
    rng = np.random.default_rng(0)
    model = GPT(GPTConfig(block_size=64, vocab_size=65, n_layer=4, n_head=4, n_embd=128), rng)
    ids = rng.integers(65, size=(12, 65))
    title = "A training step of a GPT: 4 layers, 128 channels, 12 × 64 tokens"
    viz.save(timed(lambda: model(ids[:, :-1], ids[:, 1:])[1], title), path)


def replay(workshop, path):
    loss, shown = TextTask.replay(*workshop.gpt, prompt="the cat")
    viz.page(loss, path, **shown)


def choices(workshop, path):
    model, tokenizer = workshop.gpt
    row, settings = Continuation(tokenizer, likeliest=5), {"temperature": 0.8, "rng": np.random.default_rng(0)}
    for _ in continue_text(model, tokenizer.encode(PROMPT), 300, [row], tokenizer.ends, **settings):
        pass
    viz.choices([listed(row, tokenizer)], path, "What a small GPT wrote, character by character", prompt=PROMPT)


PICTURES = [
    ("neuron.png", "A neuron, with its values and gradients.", neuron),
    ("xor.png", "The loss of a small network that is to learn XOR, with its first weights.", xor),
    ("gpt.png", "GPT-2 small, 124 M parameters, its 12 blocks folded into one.", gpt_folded),
    ("block.png", "A GPT block with its attention opened.", gpt_block),
    ("head.png", "One attention head, its fused op opened into simple ones.", attention_head),
    ("transformer.png", "The encoder-decoder of “Attention Is All You Need”, its encoder opened.", encoder_decoder),
    ("norm.png", "One op, layer norm: formulas both ways, and a worked example.", layer_norm),
    ("attention.png", "The attention of every layer and head of a small GPT.", gpt_attention),
    ("lens.png", "What a small GPT would say after each of its layers.", logit_lens),
    ("patch.png", "What its attention at one place, put into the reading of another text, brings back.", patching),
    ("translation.png", "The three kinds of attention of an encoder-decoder that translates.", all_attention),
    ("cross.png", "Its decoder looking at the source, in the dark style.", cross_attention),
    ("paper.png", "The whitepaper's attention weights of “You are welcome”.", paper_attention),
    ("positions.png", "The two kinds of positions, and how alike two places are.", positions),
    ("embeddings.png", "Embeddings in two dimensions, and the nearest of some.", embeddings),
    ("curves.png", "Two training runs over each other.", curves),
    ("statistics.png", "Activations and gradients of every layer over training: one net's vanish.", statistics),
    ("times.png", "Where the time of a training step goes.", step_times),
    ("choices.html", "A text that a small GPT wrote, with what was likelier at each character.", choices),
    ("replay.html", "A page that steps through a forward and a backward pass, with all numbers.", replay),
]


EXAMPLES = ("autotx gallery pictures", "autotx gallery viz/gallery")


def add_arguments(parser):
    parser.add_argument("out", metavar="OUT", help="the folder to write to, made if it is not there")


def outputs(args):
    return {"OUT": (args.out, checked_folder)}


def run(args):
    """Write the pictures and their page. Returns the exit status."""
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        workshop = Workshop(folder)
        for name, sentence, draw in PICTURES:
            draw(workshop, out / name)
            if name.endswith(".png"):
                _make_small(out / name)
            print(f"{name:18}{sentence}", flush=True)
    write_atomically(out / INDEX, index().encode())
    print(f"{len(PICTURES)} pictures and {INDEX} in {out}, in {time.perf_counter() - begun:.0f} s")
    return 0


def _make_small(path):
    """Write a .png again with 256 colours, which takes a third of the space."""
    content = io.BytesIO()
    Image.open(path).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(content, "PNG", optimize=True)
    write_atomically(path, content.getvalue())


def index():
    """The page of the pictures, in Markdown."""
    parts = ["# Gallery\n\nMade by `autotx gallery`, of small models that it trains itself.\n"]
    for name, sentence, _ in PICTURES:
        shown = f"![{sentence}]({name})" if not name.endswith(".html") else f"[{name}]({name})"
        parts.append(f"{sentence}\n\n{shown}\n")
    return "\n".join(parts)


# Numbers in English and German

_ENGLISH = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen"
_ENGLISH = [*_ENGLISH.split(), "eighteen", "nineteen"]
_ENGLISH_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_GERMAN = "ein zwei drei vier fünf sechs sieben acht neun zehn elf zwölf dreizehn vierzehn fünfzehn sechzehn siebzehn"
_GERMAN = [*_GERMAN.split(), "achtzehn", "neunzehn"]
_GERMAN_TENS = ["zwanzig", "dreißig", "vierzig", "fünfzig", "sechzig", "siebzig", "achtzig", "neunzig"]


def english(n):
    """A number from 1 to 999: "three hundred forty two"."""
    hundreds, rest = divmod(n, 100)
    words = [_ENGLISH[hundreds - 1], "hundred"] if hundreds else []
    if rest >= 20:
        words.append(_ENGLISH_TENS[rest // 10 - 2])
        rest %= 10
    return " ".join([*words, *([_ENGLISH[rest - 1]] if rest else [])])


def german(n):
    """A number in German, its parts as words: "drei hundert zwei und vierzig". The ones come before the tens."""
    hundreds, rest = divmod(n, 100)
    words = [_GERMAN[hundreds - 1], "hundert"] if hundreds else []
    tens, ones = divmod(rest, 10)
    if rest == 1:
        words.append("eins")
    elif rest < 20:
        words += [_GERMAN[rest - 1]] if rest else []
    else:
        words += [_GERMAN[ones - 1], "und"] if ones else []
        words.append(_GERMAN_TENS[tens - 2])
    return " ".join(words)
