"""The networks that the paper trains, or says can be trained. Each is trained at its first use, and kept.

sine_fits()          sin(x) by a line and by the 10-10-1 network           (lines 655-659, 1669-1722)
xor_regression()     XOR by a linear regression                            (line 661)
xor_network()        XOR learned from random weights                       (lines 665, 1836)
word_trainer()       the next word of "The cat sat on the", 2,000 steps    (lines 1030-1085)
overfitted()         a few points of sin(x), learned with their noise      (line 884)
translator()         "You are welcome" to "de nada" and three more         (lines 66-79, 850-854)
head_start()         a classifier of words on pre-trained or random vectors (line 1244)
"""

import functools

import numpy as np

import autotx
from autotx import nn
from autotx.models.mlp import MLP
from autotx.models.pairs import PAPER, Sentences, spaced
from autotx.models.paper.steps import descend, tensor
from autotx.models.tokenizers import make_tokenizer
from autotx.models.transformer import SPECIALS, Transformer, TransformerConfig
from autotx.models.word2vec import SkipGram
from autotx.optim import SGD, Adam

XOR_INPUTS = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], dtype=np.float64)
XOR_OUTPUTS = np.array([0, 1, 1, 0], dtype=np.float64)
PHRASES = [PAPER, ("You are", "eres"), ("welcome", "bienvenido"), ("Thank you", "gracias")]


@functools.cache
def sine_fits(epochs=1000, batch=32):
    """x, sin(x), the line's and the network's values at 100 points of [-10, 10], arrays (100, 1); the number of steps.

    As in the paper: least squares for the line; for the network 1,000 epochs of Adam with the defaults of Keras, that
    is learning rate 0.001 and shuffled batches of 32.
    """
    x = np.linspace(-10, 10, 100)[:, None]
    y = np.sin(x)
    rng = np.random.default_rng(0)
    network = MLP((1, 10, 10, 1), rng=rng).astype(np.float64)
    orders = (rng.permutation(len(x)) for _ in range(epochs))
    batches = (order[start : start + batch] for order in orders for start in range(0, len(x), batch))
    steps = epochs * -(-len(x) // batch)

    def loss():
        chosen = next(batches)
        return autotx.mse_loss(network(x[chosen]), y[chosen])

    descend(Adam(network.parameters(), lr=0.001), steps, loss)
    with autotx.no_grad():
        return x, y, least_squares_line(tensor(x), tensor(y)).data, network(x).data, steps


def least_squares_line(x, y):
    """The values at x of the line with the least squared error, slope = cov(x, y) / var(x). x, y, result: (n, 1)."""
    slope = ((x - x.mean()) * (y - y.mean())).mean() / x.var()
    return slope * (x - x.mean()) + y.mean()


@functools.cache
def xor_regression(steps=500):
    """The outputs of a linear regression for the four inputs of XOR after gradient descent: (4,)."""
    layer = nn.Linear(2, 1, rng=np.random.default_rng(0)).astype(np.float64)
    descend(SGD(layer.parameters(), lr=0.5), steps, lambda: autotx.mse_loss(layer(XOR_INPUTS), XOR_OUTPUTS[:, None]))
    with autotx.no_grad():
        return layer(XOR_INPUTS).data[:, 0]


@functools.cache
def xor_network(seed=0, steps=1000):
    """A network 2-4-1 with tanh that learned XOR from random weights, and its loss at each step, a list."""
    network = MLP((2, 4, 1), "tanh", rng=np.random.default_rng(seed)).astype(np.float64)

    def loss():
        return autotx.binary_cross_entropy_with_logits(network(XOR_INPUTS)[:, 0], XOR_OUTPUTS)

    return network, descend(Adam(network.parameters(), lr=0.05), steps, loss)


@functools.cache
def word_trainer(steps=2000, learning_rate=0.01):
    """The paper's training loop: gradient descent on four logits for the cross entropy of the first word.

    Returns two arrays (steps, 4), the probabilities before each step and the logits after it, and the probabilities
    after the last step (4,).
    """
    logits = tensor([0.1, 0.1, 0.1, 0.7], requires_grad=True)
    optimizer = SGD([logits], lr=learning_rate)
    before, after = [], []
    for _ in range(steps):
        before.append(logits.detach().softmax().numpy())
        autotx.cross_entropy(logits.reshape(1, 4), np.array([0])).backward()
        optimizer.step()
        optimizer.zero_grad()
        after.append(logits.numpy())
    return np.array(before), np.array(after), logits.detach().softmax().numpy()


@functools.cache
def overfitted(steps=1000):
    """Mean squared errors of a network on the 12 noisy points of sin(x) that it was trained on, and on 50 others."""
    rng = np.random.default_rng(0)
    x = rng.uniform(-3, 3, (62, 1))
    y = np.sin(x) + 0.3 * rng.standard_normal(x.shape)
    network = MLP((1, 64, 64, 1), "tanh", rng=rng).astype(np.float64)
    descend(Adam(network.parameters(), lr=0.01), steps, lambda: autotx.mse_loss(network(x[:12]), y[:12]))
    with autotx.no_grad():
        return tuple(autotx.mse_loss(network(x[part]), y[part]).item() for part in (slice(12), slice(12, None)))


@functools.cache
def translator(steps=60):
    """A small Transformer, 2 + 2 layers, trained on PHRASES; its tokenizer; PHRASES as a batch (source, target)."""
    text = "\n".join(spaced(side) for phrase in PHRASES for side in phrase)
    tokenizer = make_tokenizer("word", text, vocab_size=300)
    batch = Sentences(PHRASES, tokenizer, block_size=8).batch(range(len(PHRASES)))
    config = TransformerConfig(tokenizer.vocab_size + SPECIALS, 8, n_layer=2, n_head=2, n_embd=16, dropout=0.0)
    model = Transformer(config, rng=np.random.default_rng(0)).astype(np.float64)
    descend(Adam(model.parameters(), lr=0.01), steps, model.loss, *batch)
    return model, tokenizer, batch


@functools.cache
def word_vectors(steps=200):
    """Vectors of 18 words, learned by skip-gram from pairs of neighbours: an array (18, 8).

    Words 0 to 5 are animals, whose neighbours are words 12 to 14, such as "grazes"; words 6 to 11 are vehicles, whose
    neighbours are words 15 to 17. Each pair is a word and a random neighbour of its kind, with three negative samples.
    """
    rng = np.random.default_rng(0)
    model = SkipGram(18, 8, rng).astype(np.float64)

    def loss():
        words = rng.integers(12, size=24)
        neighbours = 12 + 3 * (words // 6) + rng.integers(3, size=24)
        return model.loss(words, neighbours, 12 + rng.integers(6, size=(24, 3)))

    descend(Adam(model.parameters(), lr=0.05), steps, loss)
    return model.words.weight.numpy()


@functools.cache
def head_start(pretrained, steps=10):
    """Train a classifier of animals and vehicles on two labelled words of each kind. Returns how many of the other
    eight words it labels right, and its loss on the labelled four.

    pretrained: start with `word_vectors`; otherwise with normal random numbers of the same standard deviation.
    """
    rng = np.random.default_rng(0)
    vectors = word_vectors() if pretrained else word_vectors().std() * rng.standard_normal((18, 8))
    table, head = tensor(vectors, requires_grad=True), nn.Linear(8, 2, rng=rng).astype(np.float64)
    kinds, labelled = np.repeat([0, 1], 6), np.array([0, 1, 6, 7])
    others = np.setdiff1d(np.arange(12), labelled)

    def loss():
        return autotx.cross_entropy(head(autotx.embedding(table, labelled)), kinds[labelled])

    descend(Adam([table, *head.parameters()], lr=0.02), steps, loss)
    with autotx.no_grad():
        answers = head(autotx.embedding(table, others)).data.argmax(axis=-1)
        return (answers == kinds[others]).sum(), loss().item()
