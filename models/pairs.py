"""Pairs of sentences: reading them, encoding them as token ids, and batches of sentences of similar length."""

import hashlib

import numpy as np

from autotx.models.data import read_columns
from autotx.models.transformer import END, PAD, SPECIALS, START

HELD_OUT = 10  # one source sentence in HELD_OUT is for validation, when no file of validation pairs is given
PAPER = ("You are welcome", "de nada")  # the whitepaper's own pair


def read_pairs(path, option="--pairs"):
    """The pairs of a file of lines "source TAB target": a list of (source, target). Errors as in data.read_columns."""
    return [(source, target) for _, source, target in read_columns(option, path, ("source", "target"))]


def emoji_pairs():
    """The names of all emoji without skin tones: a list of (English, Spanish) without duplicates.

    From the package emoji, which takes them from Unicode's Common Locale Data Repository.
    """
    import emoji  # here, because it loads slowly and is needed only here

    emoji.config.load_language("es")
    names = [(names["en"], names["es"]) for names in emoji.EMOJI_DATA.values() if "es" in names]
    pairs = [pair for pair in names if "skin_tone" not in pair[0]]
    return list(dict.fromkeys(tuple(name.strip(":").replace("_", " ") for name in pair) for pair in pairs))


def split_pairs(pairs, rng):
    """(training pairs, validation pairs). All pairs of one source sentence in HELD_OUT are for validation."""
    sources = list(dict.fromkeys(source for source, _ in pairs))
    held_out = {sources[i] for i in rng.permutation(len(sources))[: len(sources) // HELD_OUT]}
    return [p for p in pairs if p[0] not in held_out], [p for p in pairs if p[0] in held_out]


def digest(*parts):
    """SHA-256 of lists of pairs."""
    text = "\n\n".join("\n".join("\t".join(pair) for pair in pairs) for pairs in parts)
    return hashlib.sha256(text.encode()).hexdigest()


# Sentences as rows of ids


def spaced(sentence):
    """A sentence with one space before each word, the first too, so that a word has the same token everywhere."""
    return "".join(f" {word}" for word in sentence.split())


def encode(tokenizer, sentence):
    """The ids of a sentence (T,)."""
    return tokenizer.encode(spaced(sentence)) + SPECIALS


def decode(tokenizer, ids):
    """The sentence of token ids, without PAD, START and END."""
    return tokenizer.decode([i - SPECIALS for i in ids if i >= SPECIALS]).strip()


def names(tokenizer, ids):
    """The names of tokens for pictures, a list of str. Words of a WordTokenizer are without the space before them."""
    special = {PAD: "‹pad›", START: "‹start›", END: "‹end›"}
    found = [special[i] if i < SPECIALS else tokenizer.texts([i - SPECIALS])[0] for i in map(int, ids)]
    return [word.strip() or word for word in found] if tokenizer.kind == "word" else found


class Sentences:
    """Pairs as ids. A batch is (source (B, S), target (B, T + 1)), padded with PAD; targets have START and END.

    pairs: list of (str, str). Pairs with more than block_size tokens on a side are left out; `left_out` counts them.
    """

    def __init__(self, pairs, tokenizer, block_size):
        ids = [(encode(tokenizer, a), np.array([START, *encode(tokenizer, b), END], np.int32)) for a, b in pairs]
        self.pairs = [pair for pair in ids if len(pair[0]) <= block_size and len(pair[1]) - 1 <= block_size]
        self.left_out = len(pairs) - len(self.pairs)
        self.lengths = np.array([(len(b) - 1, len(a)) for a, b in self.pairs]).reshape(-1, 2)

    def batches(self, batch_tokens, rng):
        """All pairs once, in random batches of similar length: a list of arrays of indices.

        A batch has at most batch_tokens tokens on each side, padding included (or one pair). The number of batches does
        not depend on rng, which shuffles only pairs of equal lengths, and the order of the batches.
        """
        order = np.lexsort((rng.random(len(self.pairs)), *self.lengths.T[::-1]))
        cuts, start, longest = [], 0, 0
        for i, pair in enumerate(order):
            longest = max(longest, *self.lengths[pair])
            if i > start and longest * (i + 1 - start) > batch_tokens:
                cuts.append(i)
                start, longest = i, max(self.lengths[pair])
        groups = np.split(order, cuts)
        return [groups[i] for i in rng.permutation(len(groups))]

    def batch(self, indices):
        """The batch of the pairs with these indices."""
        return tuple(pad([self.pairs[i][side] for i in indices]) for side in (0, 1))


def pad(rows):
    """Rows of ids of different lengths as one array (B, the longest), padded with PAD on the right."""
    out = np.full((len(rows), max(map(len, rows))), PAD, np.int32)
    for row, ids in zip(out, rows):
        row[: len(ids)] = ids
    return out
