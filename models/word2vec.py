"""Skip-gram with negative sampling, "word2vec": learn word vectors by predicting the neighbours of words.

Every word w has two vectors: v_w, which is the result, for w as the centre of a window, and u_w for w as a neighbour.
In "the king is dead" with window 1, the pairs (centre, neighbour) of "king" are (king, the) and (king, is). The dot
product u_o v_c is the score of o as a neighbour of c. Training makes it large for pairs (c, o) from the text and small
for pairs (c, k) with a word k drawn at random. Words with similar neighbours get similar vectors, since their gradients
contain the same u.

The loss of one pair, derived. Let s(x) = 1 / (1 + e^-x), x = u v, be the model's probability that a pair is from the
text. The right answers are yes for (c, o), from the text, and no for (c, k_1) .. (c, k_K), with K drawn words:

    P(all answers right) = s(u_o v_c) prod_i (1 - s(u_ki v_c)),  and 1 - s(x) = e^-x / (1 + e^-x) = s(-x)
    L = -ln s(u_o v_c) - sum_i ln s(-u_ki v_c)

and the gradients. s'(x) = e^-x / (1 + e^-x)^2 = s(x) s(-x), so

    d(-ln s(x))/dx  = -s(-x) = s(x) - 1                for the word from the text
    d(-ln s(-x))/dx =  s(x)  = s(x) - 0                for a drawn word
    dL/dx = s(x) - y,  y = 1 for the word from the text and 0 for a drawn one: P - y, as in cross entropy

    x = u v, so by the chain rule    dL/du_j = (s(x_j) - y_j) v_c        for each of the K + 1 words j
                                     dL/dv_c = sum_j (s(x_j) - y_j) u_j

A gradient step moves v_c towards u_o and away from the u_k, by more the larger the error s(x_j) - y_j was.

Letters: N pairs, K drawn words a pair, C channels, V words.
Source: Mikolov et al., 2013, "Distributed Representations of Words and Phrases and their Compositionality".
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

import autotx
from autotx import init, nn
from autotx.models.architecture import Architecture
from autotx.models.config import setting


class SkipGram(nn.Module):
    """The two tables, each (V, C). rng: draws the initial vectors; None leaves them zero, to be loaded.

    `words` is uniform within +-0.5 / C, `contexts` zero, as in Mikolov's program: all probabilities begin at 1/2.
    """

    def __init__(self, vocab_size, dim, rng):
        self.words = nn.Embedding(vocab_size, dim, rng=None)
        self.contexts = nn.Embedding(vocab_size, dim, rng=None)
        if rng is not None:
            self.words.weight.data = init.uniform((vocab_size, dim), rng, -0.5 / dim, 0.5 / dim)

    def forward(self, centers, others, rng=None):
        """The scores u v of words beside centres: centers (N,), others (N, M), both ids of words. Returns (N, M)."""
        return autotx.einsum("nc,nmc->nm", self.words(centers), self.contexts(others))

    def loss(self, centers, contexts, drawn):
        """The mean of L over N pairs, a Tensor of one number. centers, contexts: (N,) ids. drawn: (N, K) ids."""
        scores = self(centers, np.concatenate([contexts[:, None], drawn], axis=1))
        answers = np.zeros(scores.shape, scores.dtype)
        answers[:, 0] = 1
        total = autotx.binary_cross_entropy_with_logits(scores, answers, reduction="sum")
        return total * (1 / len(centers))


@dataclass(frozen=True)
class Word2VecArchitecture(Architecture):
    """The settings of word vectors that are trained."""

    name: ClassVar[str] = "word2vec"
    learns: ClassVar[str] = "words"
    model: ClassVar[type] = SkipGram

    dim: int = setting(100, "numbers in a word's vector", at_least=1, at_most=10_000, fixed=True)

    def build(self, vocab_size, rng):
        return SkipGram(vocab_size, self.dim, rng)

    @staticmethod
    def fewest_weights(shape, vocab_size):
        return 2 * vocab_size * shape.dim


class PairSampler:
    """Makes pairs (centre, neighbour) from blocks of text, and draws K words for each pair.

    counts: how often each of the V words is in the text, integers (V,), each above 0. window: the largest distance of
    a neighbour from its centre. negatives: K. subsample: t; a word of share f is kept with probability sqrt(t / f).
    """

    def __init__(self, counts, window, negatives, subsample):
        shares = counts / counts.sum()
        self.window, self.negatives = window, negatives
        # Words as common as "the" are neighbours of all words, so most of their occurrences are left out.
        self.keep = np.minimum(1, np.sqrt(subsample / shares))
        # Words are drawn with probability proportional to count^(3/4), between their share in the text and uniform.
        self.until = np.cumsum(counts**0.75)
        self.until /= self.until[-1]

    def sample(self, blocks, rng):
        """(centers (N,), contexts (N,), drawn (N, K)): about window + 1 pairs for each word that is kept.

        blocks: ids (B, T); both words of a pair are from one block. rng: numpy.random.Generator, which is advanced.
        Words that are not kept are removed first, so that windows reach across them. The size of the window of each
        centre is drawn from 1 .. window, so that near neighbours occur more often than far ones.
        """
        stays = rng.random(blocks.shape) < self.keep[blocks]
        block, words = np.nonzero(stays)[0], blocks[stays]
        reach = rng.integers(1, self.window, size=words.size, endpoint=True)
        pairs = []
        for distance in range(1, min(self.window, words.size - 1) + 1):
            left, right = slice(None, -distance), slice(distance, None)
            together = block[left] == block[right]
            for center, context in ((left, right), (right, left)):
                near = together & (reach[center] >= distance)
                pairs.append((words[center][near], words[context][near]))
        centers, contexts = (np.concatenate(part) for part in zip(*pairs)) if pairs else (words[:0], words[:0])
        drawn = np.searchsorted(self.until, rng.random((len(centers), self.negatives)), side="right")
        return centers, contexts, drawn
