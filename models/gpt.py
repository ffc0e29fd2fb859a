"""GPT-2: a stack of blocks that reads tokens and says, at every place, which token comes next.

Top to bottom: the configuration, one block (attention, then a feed-forward net), the model, and its two uses, the loss
for training and the generation of text, with the choice of a token at the end. `decoder.py` has the cached steps.

    ids (B, T) -> table of tokens + table of places -> n_layer blocks -> layer norm -> scores (B, T, V)

Letters: B batch, T tokens, C channels (n_embd), H heads, D = C / H channels a head, V vocabulary, L layers.
Source: Radford et al., 2019, "Language Models are Unsupervised Multitask Learners"; the whitepaper's GPT sections.
"""

import math
from dataclasses import dataclass

import numpy as np

import autotx
from autotx import init, nn
from autotx.checks import checked_rng, checked_size
from autotx.models.decoder import Decoder, Weights


@dataclass(frozen=True)
class GPTConfig:
    """The shape of a GPT. ValueError, saying what to change, for sizes that are no int above 0 or do not fit."""

    block_size: int  # the longest context, in tokens
    vocab_size: int  # V
    n_layer: int  # L
    n_head: int  # H, a divisor of n_embd
    n_embd: int  # C
    dropout: float = 0.0  # probability, from 0 to below 1; used only when forward is given an rng
    bias: bool = True  # biases in the linear layers and layer norms

    def __post_init__(self):
        for name in ("block_size", "vocab_size", "n_layer", "n_head", "n_embd"):
            object.__setattr__(self, name, checked_size("GPTConfig", name, getattr(self, name)))
        if self.n_embd % self.n_head:
            larger = math.ceil(self.n_embd / self.n_head) * self.n_head
            raise ValueError(
                f"GPTConfig: n_head {self.n_head} does not divide n_embd {self.n_embd}: heads have equal shares of it; "
                f"choose a multiple of {self.n_head}, such as {larger}, for n_embd, or another n_head"
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"GPTConfig: dropout is {self.dropout}; give a probability from 0 to below 1")


class FeedForward(nn.Module):
    """C -> 4 C -> C with a GELU between, at every token alone. x and result: (B, T, C)."""

    def __init__(self, config):
        self.fc = nn.Linear(config.n_embd, 4 * config.n_embd, config.bias, rng=None)
        self.proj = nn.Linear(4 * config.n_embd, config.n_embd, config.bias, rng=None)

    def forward(self, x, rng=None):
        return self.proj(autotx.gelu(self.fc(x), approximate="tanh"))


class Block(nn.Module):
    """Tokens exchange information (attention), then each works on what it has (feed-forward). x and result: (B, T, C).

    Both add to x instead of replacing it, and read it through a layer norm of their own ("pre-norm"): so the gradient
    has a straight way down through the additions, however many blocks there are.
    """

    def __init__(self, config):
        self.ln_1 = nn.LayerNorm(config.n_embd, config.bias)
        self.attn = nn.MultiHeadAttention(config.n_embd, config.n_head, config.dropout, config.bias, rng=None)
        self.ln_2 = nn.LayerNorm(config.n_embd, config.bias)
        self.mlp = FeedForward(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x, rng=None):
        x = x + self.dropout(self.attn(self.ln_1(x), causal=True, rng=rng), rng)
        return x + self.dropout(self.mlp(self.ln_2(x)), rng)


class GPT(nn.Module):
    """The model. The table of tokens is used twice: to read a token, and, as the head, to score each as the next one.

    config: GPTConfig. rng: numpy.random.Generator that draws the weights; None leaves them zero, to be loaded.
    """

    def __init__(self, config, rng):
        self.config = config
        self.wte = nn.Embedding(config.vocab_size, config.n_embd, rng=None)
        self.wpe = nn.Embedding(config.block_size, config.n_embd, rng=None)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = [Block(config) for _ in range(config.n_layer)]
        self.ln_f = nn.LayerNorm(config.n_embd, config.bias)
        if rng is not None:
            self._draw_weights(rng)

    def _draw_weights(self, rng):
        """Matrices and tables: normal, standard deviation 0.02. Biases stay zero and layer norms one.

        The 2 L projections that are added to x get 0.02 / sqrt(2 L), or the sum would grow with the depth.
        """
        for name, p in self.named_parameters():
            if p.ndim == 2:
                residual = name.endswith("proj.weight")
                p.data = init.normal(p.shape, rng, std=0.02 / math.sqrt(2 * self.config.n_layer) if residual else 0.02)

    def forward(self, ids, targets=None, rng=None):
        """Scores for the next token at every place, and the loss.

        ids: integers (B, T) below vocab_size, T at most block_size; targets: the tokens that do come next, (B, T).
        rng: draws the dropout; None for none. Returns logits (B, T, V) and the mean cross entropy in nats (None
        without targets). ValueError for ids of another shape or out of range, and for T beyond block_size.
        """
        logits = self.head(self.hidden(ids, rng))
        return logits, None if targets is None else autotx.cross_entropy(logits, targets)

    def hidden(self, ids, rng=None):
        """What the blocks make of the tokens: ids (B, T) -> (B, T, C)."""
        ids = np.asarray(ids)
        if ids.ndim != 2:
            raise ValueError(f"GPT: ids have shape {ids.shape}; give (B, T), one row of tokens for each text")
        count = ids.shape[1]
        if count > self.config.block_size:
            raise ValueError(f"GPT: {count} tokens exceed block_size {self.config.block_size}; give the last ones")
        x = self.dropout(self.wte(ids) + self.wpe(np.arange(count)), rng)
        for block in self.blocks:
            x = block(x, rng)
        return self.ln_f(x)

    def head(self, x):
        """Scores of all tokens: (..., C) -> (..., V)."""
        return autotx.linear(x, self.wte.weight)

    def generate(self, ids, max_new_tokens, temperature=1.0, top_k=None, top_p=None, rng=None):
        """Continue each row of ids by max_new_tokens tokens. Returns integers (B, T + max_new_tokens).

        Arguments and errors are those of `stream`.
        """
        new = list(self.stream(ids, max_new_tokens, temperature, top_k, top_p, rng))
        return np.column_stack([_checked_prompt(ids, self.config.vocab_size), *new])

    def stream(self, ids, max_new_tokens, temperature=1.0, top_k=None, top_p=None, rng=None):
        """An iterator of the new tokens, (B,) integers at a time, as they are made.

        ids: the prompt, integers (B, T), T at least 1, or (T,) for B = 1. temperature: 0 takes the likeliest token,
        1 draws by the model's probabilities, more flattens them. top_k: draw among the k likeliest. top_p: draw among
        the fewest likeliest that together have at least this probability. rng: draws; None for one seeded by chance.
        The model sees the last block_size tokens. Up to there each token costs the work of one, thanks to the cache.
        Beyond, the window slides: every token gets a new place, so all are computed again for each new one.
        ValueError: an empty prompt, an id out of range, or a setting outside its range; TypeError: ids not integers.
        """
        ids = _checked_prompt(ids, self.config.vocab_size)
        _check_settings(max_new_tokens, temperature, top_k, top_p)
        rng = np.random.default_rng() if rng is None else checked_rng("generate", rng)
        return self._stream(ids, max_new_tokens, lambda logits: sample(logits, temperature, top_k, top_p, rng))

    def weights(self):
        """The weights as the decoder takes them."""
        return Weights(self)

    def _stream(self, ids, max_new_tokens, choose):
        weights, size = self.weights(), self.config.block_size
        decoder = None
        for _ in range(max_new_tokens):
            if decoder is None or decoder.length == size:  # the first piece, or a window that slides
                ids = ids[:, -size:]
                decoder = Decoder(weights, len(ids), min(size, ids.shape[1] + max_new_tokens))
            x = decoder.read(ids[:, decoder.length :])
            new = choose(decoder.scores(x[:, -1]))
            ids = np.column_stack([ids, new])
            yield new


def sample(logits, temperature, top_k, top_p, rng):
    """Choose one token for each row: logits (B, V) -> integers (B,). In float64, whatever the logits are.

    Of tokens with equal scores, the one with the lower id counts as likelier. With both, top_k is applied first and
    top_p to the probabilities that remain. Source: Holtzman et al., 2020 (top_p, "nucleus sampling").
    """
    logits = np.asarray(logits, np.float64)
    if not np.isfinite(logits).all():
        raise ValueError("generate: the model's scores have a NaN or an Inf; its training diverged, take other weights")
    if temperature == 0:
        return logits.argmax(axis=-1)
    order = np.argsort(-logits, axis=-1, kind="stable")[:, :top_k]  # likeliest first
    scores = np.take_along_axis(logits, order, axis=-1)
    with np.errstate(over="ignore"):  # towards temperature 0 the differences grow to -inf, whose exp is rightly 0
        p = np.exp((scores - scores[:, :1]) / temperature)
    p /= p.sum(axis=-1, keepdims=True)
    if top_p is not None and top_p < 1:
        before = np.pad(p.cumsum(axis=-1)[:, :-1], ((0, 0), (1, 0)))
        p *= before < top_p  # a token stays when those before it do not have that much yet
    below = p.cumsum(axis=-1)
    drawn = (below <= rng.random((len(p), 1)) * below[:, -1:]).sum(axis=-1, keepdims=True)
    return np.take_along_axis(order, drawn, axis=-1)[:, 0]


def _checked_prompt(ids, vocab_size):
    """The prompt as integers (B, T)."""
    ids = np.atleast_2d(np.asarray(ids))
    if ids.ndim != 2 or not ids.size:
        raise ValueError(f"generate: the prompt has shape {ids.shape}; give ids (B, T), T at least 1")
    if ids.dtype.kind not in "iu":
        raise TypeError(f"generate: the prompt's ids have type {ids.dtype}; give integers")
    bad = ids[(ids < 0) | (ids >= vocab_size)]
    if bad.size:
        raise ValueError(f"generate: id {bad[0]} is out of range, there are {vocab_size} tokens, from 0")
    return ids.astype(np.int64)


def _check_settings(max_new_tokens, temperature, top_k, top_p):
    whole = int | np.integer
    for name, value, good, wanted in (
        ("max_new_tokens", max_new_tokens, isinstance(max_new_tokens, whole) and max_new_tokens >= 0, "0, 1, 2 ..."),
        ("temperature", temperature, temperature >= 0, "0 (always the likeliest token) or more"),
        ("top_k", top_k, top_k is None or (isinstance(top_k, whole) and top_k >= 1), "1, 2, 3 ..."),
        ("top_p", top_p, top_p is None or 0 < top_p <= 1, "a probability above 0, at most 1"),
    ):
        if not good:
            raise ValueError(f"generate: {name} is {value}; give {wanted}")


def stream_text(model, tokenizer, prompt, max_new_tokens, temperature=1.0, top_k=None, top_p=None, rng=None, seen=None):
    """What follows the prompt, in pieces, as the tokens come: an iterator of str.

    The settings are those of GPT.stream. An empty prompt counts as a line end, for a model needs something to go on.
    seen: a list to which the ids of the prompt are added, and each new one.
    """
    ids = tokenizer.encode(prompt or "\n")
    seen = [] if seen is None else seen
    seen.extend(ids)
    decoder = tokenizer.decoder()
    # Bytes at the end of the prompt never are half a character, so what is decoded is new text alone.
    for token in model.stream(ids[None], max_new_tokens, temperature, top_k, top_p, rng):
        seen.append(token[0])
        yield decoder.push(token[0])
    yield decoder.finish()
