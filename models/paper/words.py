"""'Word Embeddings', 'Weight Matrices' and 'Softmax' of the supplement."""

import numpy as np

import autotx
from autotx import init, nn
from autotx.models.paper import trained
from autotx.models.paper.case import Claim, Digits, Section
from autotx.models.paper.constants import W_K, W_Q, W_V, X_PE, Y
from autotx.models.paper.steps import agree, attention, descend, distance, linear, tensor
from autotx.optim import SGD, Adam, RMSprop

embeddings = Section("word-embeddings", "Word Embeddings", (1212, 1248))
matrices = Section("weight-matrices", "Weight Matrices", (1250, 1256))
softmax = Section("softmax", "Softmax", (1258, 1312))

NEIGHBOURS = Digits("0.8153 0.7992 0.7429 0.7398 0.7006 0.6568 0.6540 0.6404 0.6297 0.6271")
LOGITS = [2.0, 1.0, 0.2]


def cosine(a, b):
    """The cosine of the angle between two vectors."""
    return ((a * b).sum() / ((a * a).sum() * (b * b).sum()).sqrt()).item()


@embeddings.case(
    1218,
    "Similar words should have similar vectors",
    formula="cos(a, b) = a·b / (|a| |b|)",
    printed="similarity of vectors stands for that of words",
    note="Two words used alike, in 'the cat sat' and 'the dog sat' but never with 'fast', are pulled to like vectors "
    "by training; the third word is not. Skip-gram: a word's vector predicts its neighbours.",
)
def similar_words():
    pairs = [(0, 3), (0, 4), (1, 3), (1, 4), (2, 5), (2, 5)]  # cat and dog with the, sat; car with fast
    rng = np.random.default_rng(0)
    table = tensor(rng.standard_normal((6, 8)), requires_grad=True)
    output = tensor(rng.standard_normal((6, 8)), requires_grad=True)
    words, neighbours = np.array(pairs).T

    def loss():
        return autotx.cross_entropy(autotx.embedding(table, words) @ output.T, neighbours)

    descend(Adam([table, output], lr=0.05), 100, loss)
    cat, dog, car = (tensor(table.data[i]) for i in range(3))
    alike, unlike = cosine(cat, dog), cosine(cat, car)
    return Claim(alike > unlike, f"cosine of cat and dog {alike:.2f}, of cat and car {unlike:.2f}")


embeddings.quote(
    "word2vec",
    1218,
    "Word vectors were pioneered at Google",
    printed="in a paper called Word2vec",
    note="History: Mikolov et al., 2013, at Google. Vectors for words are older, for example Bengio et al., 2003.",
)
embeddings.quote(
    "airplane",
    (1222, 1233),
    "The ten words nearest to 'airplane'",
    printed=NEIGHBOURS,
    note="Cosines of vectors trained on the English Wikipedia, from the cited web page. The sixth word, 'aircraave', "
    "is no English word; it stands so in the data that the page shows, or was mistyped.",
)


@embeddings.case((1224, 1233), "The list is in falling order", printed=NEIGHBOURS, formula="sorted by similarity")
def falling_order():
    order = np.argsort(-NEIGHBOURS.values, kind="stable")
    return tensor(NEIGHBOURS)[order]


@embeddings.case(
    1222,
    "The numbers are percentages",
    formula="-1 ≤ cos(a, b) ≤ 1",
    printed="percentage similarity",
    note="They are cosines, not shares of anything: no per cent, and below zero where the angle exceeds 90°.",
)
def percentages():
    a, b = tensor([0.1, 0.2, -0.1, 0.4]), tensor([-0.3, 0.5, 0.1, -0.2])
    values = [cosine(a, a), cosine(a, b), cosine(a, -a)]
    return Claim(min(values) >= 0, f"vectors of 'You' and 'are': {values[1]:.2f}; opposite vectors: {values[2]:.2f}")


@embeddings.case(
    1240,
    "Source 1: small random values, adjusted by training",
    printed="random, then trained",
    note="Drawn with standard deviation 0.02; one step of gradient descent moves the rows of the words used, no other.",
)
def random_source():
    start = init.normal((50, 4), np.random.default_rng(0), std=0.02, dtype=np.float64)
    table = tensor(start, requires_grad=True)
    autotx.embedding(table, np.array([3, 7])).sum().backward()
    SGD([table], lr=0.1).step()
    moved = np.flatnonzero(np.abs(table.data - start).max(axis=1)).tolist()
    return Claim(moved == [3, 7], f"largest value {abs(start).max():.3f}; a step with words 3 and 7 moves rows {moved}")


@embeddings.case(
    1241,
    "Source 2: pre-trained vectors, static or fine-tuned",
    printed="either kept or trained further",
    note="requires_grad says which: without it there is no gradient, and no optimizer touches the table.",
)
def pretrained_source():
    tables = [tensor(Y.values, requires_grad=tuned) for tuned in (False, True)]
    head = tensor(np.ones(4), requires_grad=True)
    for table in tables:
        (autotx.embedding(table, np.array([1, 2])) @ head).sum().backward()
    static, tuned = (table.grad is not None for table in tables)
    return Claim(tuned and not static, "static: no gradient; fine-tuned: a gradient for the rows used")


@embeddings.case(
    (1238, 1244),
    "Three sources, and most models do not start from scratch",
    formula="largest difference of the starting tables of sources 1 and 3, one seed",
    printed="random, pre-trained, from scratch: three",
    note="Sources 1 and 3 are one: training from scratch starts from random values. So 'one of the sets of values "
    "above' does not mean a head start; only pre-trained vectors do.",
)
def three_sources():
    random, scratch = (nn.Embedding(6, 4, rng=np.random.default_rng(0)).weight for _ in range(2))
    difference = distance(random, scratch)
    return Claim(difference > 0, f"the tables of random and from scratch differ by {difference:g}")


@embeddings.case(
    1244,
    "Pre-trained vectors: more accurate, and faster",
    formula="test words sorted right, and the loss after 10 steps",
    printed="accuracy and speed both gain much",
    note="Six animals and six vehicles: two words of each kind are labelled, the other four are classified. The "
    "vectors are learned by skip-gram from pairs such as (cow, grazes), without labels, and trained further.",
)
def head_start():
    (right, loss), (right_random, loss_random) = trained.head_start(True), trained.head_start(False)
    text = f"pre-trained {right} of 8 and {loss:.3f}, random {right_random} of 8 and {loss_random:.3f}"
    return Claim(right > right_random and loss < loss_random, text)


@matrices.case(
    1252,
    "W_{Q}, W_{K} and W_{V} are learned",
    printed="learned parameters",
    note="Each gets a gradient. Lines 283, 324 and 669 call them, and the feed-forward matrices, pre-trained; they "
    "are trained together with everything else.",
)
def learned():
    weights = _attention_gradients()
    smallest = min(np.abs(w.grad).max() for w in weights)
    return Claim(smallest > 0, f"largest gradients: {', '.join(f'{np.abs(w.grad).max():.3f}' for w in weights)}")


def _attention_gradients():
    """W_Q, W_K and W_V of the example, each with the gradient of `_attention_loss`."""
    weights = [tensor(w.values, requires_grad=True) for w in (W_Q, W_K, W_V)]
    _attention_loss(weights).backward()
    return weights


def _attention_loss(weights):
    return autotx.mse_loss(attention(*(tensor(X_PE) @ w for w in weights)), np.zeros((3, 4)))


@matrices.case(
    1253,
    "Initialized with small random values: Xavier, He",
    formula="variance 2 / (in + out), 2 / in",
    printed="small random values",
    note="The paper only names the two methods. Drawn for 512 x 256: the variances are those of their formulas.",
)
def initialization():
    rng = np.random.default_rng(0)
    xavier, he = (np.var(draw((256, 512), rng)) for draw in (init.xavier_normal, init.kaiming_normal))
    holds = abs(xavier * 768 / 2 - 1) < 0.02 and abs(he * 512 / 2 - 1) < 0.02
    return Claim(holds, f"variances {xavier:.5f} and {he:.5f}; by formula {2 / 768:.5f} and {2 / 512:.5f}")


@matrices.case(1254, "SGD, Adam and RMSprop move them towards less loss", printed="each update lowers the loss")
def optimizers():
    losses = {}
    for kind in (SGD, Adam, RMSprop):
        weights = [tensor(w.values, requires_grad=True) for w in (W_Q, W_K, W_V)]
        losses[kind.__name__] = descend(kind(weights, lr=0.01), 20, _attention_loss, weights)[-1]
    start = _attention_loss([tensor(w) for w in (W_Q, W_K, W_V)]).item()
    text = ", ".join(f"{name} {loss:.3f}" for name, loss in losses.items())
    return Claim(max(losses.values()) < start, f"loss {start:.3f}; after 20 steps: {text}")


@matrices.case(
    1255,
    "A gradient says how a small change of an entry changes the loss",
    formula="∂L/∂W_{ij} ≈ (L(W_{ij} + h) - L(W_{ij} - h)) / 2h",
    printed="computed for each element of the matrices",
    note="All 48 entries of the three matrices, moved by a hundred-thousandth.",
)
def small_changes():
    weights, worst = _attention_gradients(), 0.0
    for which, index in np.ndindex(3, 16):
        moved = []
        for h in (1e-5, -1e-5):
            changed = [w.numpy() for w in weights]
            changed[which].flat[index] += h
            moved.append(_attention_loss([tensor(w) for w in changed]).item())
        worst = max(worst, abs((moved[0] - moved[1]) / 2e-5 - weights[which].grad.flat[index]))
    return Claim(worst < 1e-8, f"48 gradients against finite differences: within {worst:.1g}")


@matrices.case(
    1256,
    "Iterations are epochs",
    formula="epochs × ⌈examples / batch⌉",
    printed="iterations, or epochs",
    note="An epoch goes through all examples, an iteration through one batch. The paper's own network of line 1689 "
    "makes 1,000 epochs over 100 points in batches of 32: 4,000 iterations.",
)
def iterations_and_epochs():
    *_, steps = trained.sine_fits()
    return Claim(steps == 1000, f"1,000 epochs are {steps:,} iterations")


@softmax.case(
    (1260, 1298),
    "Three logits become probabilities",
    formula="e^{x_{i}} / Σ_{j} e^{x_{j}}",
    printed=Digits("0.65 0.24 0.11"),
)
def three_logits():
    return tensor(LOGITS).softmax()


@softmax.table(
    ("category_a", (1285, 1298), "Category A", "e^{2.0} / (e^{2.0} + e^{1.0} + e^{0.2})", Digits("0.65"), 0),
    ("category_b", (1288, 1298), "Category B", "e^{1.0} / (e^{2.0} + e^{1.0} + e^{0.2})", Digits("0.24"), 1),
    ("category_c", (1291, 1298), "Category C", "e^{0.2} / (e^{2.0} + e^{1.0} + e^{0.2})", Digits("0.11"), 2),
)
def category(index):
    e = tensor(LOGITS).exp()
    return e[index] / e.sum()


@softmax.case((1301, 1304), "In per cent", formula="100 softmax(x)", printed=Digits("65 24 11"))
def per_cent():
    return tensor(LOGITS).softmax() * 100.0


@softmax.case(1306, "They sum to 1", formula="Σ softmax(x)", printed=Digits("1", places=12))
def sum_of_three():
    return tensor(LOGITS).softmax().sum()


@softmax.case(1306, "The largest logit has the largest probability", printed="category A for both")
def largest():
    p = tensor(LOGITS).softmax().data
    return Claim(p.argmax() == np.argmax(LOGITS) == 0, f"category {'ABC'[p.argmax()]} with {p.max():.2f}")


@softmax.case(
    1310,
    "Any logits, positive or negative, become a distribution",
    printed="between 0 and 1, sum 1",
    note="Even for 1,000 and -1,000, where e^{x} alone would overflow: the largest logit is subtracted first.",
)
def any_logits():
    p = tensor([[-3, 0.5, 7], [1000, -1000, 999], [-1e6, -1e6, -1e6]]).softmax()
    sums = np.abs(p.sum(axis=-1).data - 1).max()
    inside = p.min().item() >= 0 and p.max().item() <= 1
    return Claim(bool(inside and sums < 1e-15), f"three rows of wild logits: sums within {sums:.1g} of 1")


@softmax.case(
    1311,
    "Subtle differences are emphasized",
    formula="|p_{1} - p_{2}| ≤ |x_{1} - x_{2}| / 2",
    printed="small differences of logits can become large ones",
    note="Subtle ones shrink: 0.01 between two logits is 0.005 between their probabilities, and the 1.0 of the "
    "example becomes 0.41. A difference d of logits becomes a ratio e^{d} of probabilities, large only for large d.",
)
def subtle_differences():
    p = tensor([1.01, 1.0]).softmax().data
    return Claim(p[0] - p[1] > 0.01, f"logits 1.01 and 1.00 become {p[0]:.4f} and {p[1]:.4f}, {p[0] - p[1]:.4f} apart")


@softmax.case(
    1312,
    "Scores become the shares of V",
    printed="weights of each value in the output",
    formula="softmax(Q K^{T} / √d_{k}) V",
)
def shares():
    q, k, v = (linear(w)(tensor(X_PE)) for w in (W_Q, W_K, W_V))
    weights = (q @ k.T / 2.0).softmax()
    return agree(weights @ v, attention(q, k, v), 1e-14, "weights times V against the attention op: {:.1g}")
