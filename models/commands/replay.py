"""`autotx replay`: a page that steps through what a trained model does with a text, forward and backward."""

from pathlib import Path

import numpy as np

from autotx import viz
from autotx.models.commands import maps
from autotx.models.config import TransformerTrainConfig
from autotx.models.inference.beams import translate
from autotx.models.load import load_gpt, load_transformer, trained_config
from autotx.models.pairs import decode, encode
from autotx.models.transformer import END, SPECIALS, START
from autotx.viz.page import checked_path


def add_arguments(parser):
    parser.add_argument("--model", metavar="DIR", default="runs/gpt", help="the folder of a run (default: %(default)s)")
    parser.add_argument("--prompt", metavar="TEXT", required=True, help="what the model reads: a short sentence")
    parser.add_argument("--target", metavar="TEXT", help="for a translator: the right answer (default: its own)")
    parser.add_argument("--out", metavar="FILE", default="replay.html", help="where to write it (default: %(default)s)")


def run(args):
    """Write the page. Returns the exit status, 0. ValueError and OSError for what cannot be read or written."""
    checked_path(args.out)
    for flag, text in (("--prompt", args.prompt), ("--target", args.target)):
        if text is not None and not text.strip():
            raise ValueError(f"{flag}: an empty text gives nothing to replay; give a few words")
    if isinstance(trained_config(args.model), TransformerTrainConfig):
        loss, shown = of_translator(*load_transformer(args.model), args.prompt, args.target)
    else:
        if args.target is not None:
            raise ValueError("--target is for a translator; a GPT is asked for the next token of --prompt itself")
        loss, shown = of_gpt(*load_gpt(args.model), args.prompt)
    viz.page(loss, args.out, **shown)
    print(f"written: {args.out} ({Path(args.out).stat().st_size / 1e6:.2g} MB); open it in a browser")
    return 0


def of_gpt(model, tokenizer, prompt):
    """The loss of a GPT that reads a prompt and at each place is asked for the token that follows; and what viz.page is
    told of it: title, about, rows. ValueError for a prompt that the model cannot read."""
    ids = _checked(tokenizer.encode(prompt), tokenizer.unknown(prompt), "--prompt", model.config.block_size + 1)
    if len(ids) < 2:
        raise ValueError(f"--prompt {prompt!r} is one token; give two or more, for the model is asked what comes next")
    with viz.record():
        _, loss = model(ids[None, :-1], ids[None, 1:])
    about = "At each token it is asked for the one after it."
    rows = {"wte.weight": maps.texts(tokenizer, range(tokenizer.vocab_size))}
    return loss, {"title": f"A GPT reads “{prompt}”", "about": about, "rows": rows}


def of_translator(model, tokenizer, prompt, target=None):
    """The loss of a Transformer that is asked to translate a prompt to a target, by default to what it would write
    itself; and what viz.page is told. ValueError for texts that it cannot read."""
    size = model.config.block_size
    source = _checked(encode(tokenizer, prompt), tokenizer.unknown(f" {prompt.strip()}"), "--prompt", size)
    if target is None:
        answer = np.asarray(translate(model, np.asarray(source)[None])[0][0].ids)
        target = decode(tokenizer, answer)
        answer = answer[answer >= SPECIALS][: size - 1]
    else:
        answer = encode(tokenizer, target)
        answer = answer[answer >= SPECIALS]
        _checked(answer, tokenizer.unknown(f" {target.strip()}"), "--target", size - 1)
    with viz.record():
        loss = model.loss(np.asarray(source)[None], np.array([[START, *answer, END]]))
    tables = {name for name, _ in model.named_parameters()} & {"wte.weight", "target_wte.weight", "out.weight"}
    rows = dict.fromkeys(tables, maps.words_of(tokenizer, range(SPECIALS + tokenizer.vocab_size)))
    about = f"It is asked for “{target}”, word by word."
    return loss, {"title": f"A transformer translates “{prompt}”", "about": about, "rows": rows}


def _checked(ids, unknown, flag, most):
    """The ids. ValueError for a text with unknown tokens, or one that is too long."""
    if unknown:
        raise ValueError(f"{flag}: the model has never seen {', '.join(map(repr, unknown))}; leave that out")
    if len(ids) > most:
        raise ValueError(f"{flag}: {len(ids)} tokens are more than the {most} that the model reads at once; cut it")
    return ids
