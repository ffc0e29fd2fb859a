"""'Loss Function and Back-Propagation': cross entropy, its gradient P - y, and a step of gradient descent."""

import numpy as np

import autotx
from autotx import nn
from autotx.models.paper.case import Claim, Digits, Section
from autotx.models.paper.sizes import longest_path
from autotx.models.paper.steps import agree, attention, descend, distance, tensor
from autotx.models.paper.trained import overfitted, word_trainer
from autotx.optim import SGD, Adam, RMSprop

section = Section("loss", "Loss Function and Back-Propagation", (860, 1028))

WORDS = ("mat", "hat", "bat", "rat")
GOOD, POOR, TRUE = [0.7, 0.1, 0.1, 0.1], [0.1, 0.1, 0.1, 0.7], [1.0, 0, 0, 0]
STEP = "Z - α (P - y)"


def cross_entropy(p):
    """-Σ y log p, by the formula, where y is one-hot for the true word 'mat'. p: probabilities (4,)."""
    return -(tensor(TRUE) * tensor(p).log()).sum()


def loss_of(logits):
    """The cross entropy of the true word 'mat' by the engine. logits: a Tensor (4,)."""
    return autotx.cross_entropy(logits.reshape(1, 4), np.array([0]))


def gradient(p):
    """The gradient of the cross entropy with respect to the logits whose softmax is p, by the engine: (4,)."""
    logits = tensor(np.log(p), requires_grad=True)
    loss_of(logits).backward()
    return logits.grad


def after_step(p, rate):
    """The probabilities after one step of gradient descent on the logits: (4,)."""
    return (tensor(np.log(p)) - rate * tensor(gradient(p))).softmax()


section.quote(
    "chapter",
    862,
    "The Deep Learning book has a chapter on stochastic gradient descent",
    printed="an entire chapter",
    note="A statement about another book: the linked chapter 5, on machine learning, has a section on it (5.9), and "
    "chapter 8 is about optimization.",
)


@section.case(
    867,
    "Logits are unnormalized log probabilities",
    formula="softmax(log p + c) = p for any c",
    printed="unnormalized log probabilities",
    note="A constant added to all logits changes nothing: that is what unnormalized means.",
)
def log_probabilities():
    logits = tensor(GOOD).log() + 3.0
    return agree(logits.softmax(), GOOD, 1e-15, "p from log p + 3: largest difference {:.1g}")


@section.case(
    870,
    "A positive gradient: increasing the parameter increases the loss",
    formula="sign(∂L/∂Z_{i}) = sign(L(Z + h e_{i}) - L(Z))",
    printed="and a negative one decreases it",
    note="Each logit raised by a thousandth.",
)
def signs():
    z, changes = np.log(POOR), []
    for step in np.eye(4) / 1000:
        losses = [loss_of(tensor(z + d)).item() for d in (0, step)]
        changes.append(losses[1] - losses[0])
    agree = (np.sign(changes) == np.sign(gradient(POOR))).all()
    return Claim(bool(agree), "changes of the loss: " + ", ".join(f"{c:+.6f}" for c in changes))


@section.case(
    873,
    "The learning rate sets how big a step is",
    formula="ΔZ = -α ∂L/∂Z",
    printed="a fraction of the gradient is subtracted",
    note="optim.SGD with rates 0.1 and 0.2: the second step is twice the first.",
)
def learning_rate():
    moves = []
    for rate in (0.1, 0.2):
        z = tensor(np.log(POOR), requires_grad=True)
        loss_of(z).backward()
        SGD([z], lr=rate).step()
        moves.append(z.data - np.log(POOR))
    return agree(moves[0] * 2, moves[1], 1e-15, "twice the first step and the second differ by {:.1g}")


@section.case(
    (875, 876),
    "Transformers need backpropagation through time",
    formula="longest chain of ops from the loss back to the first token",
    printed="the sequence is unrolled, step by step",
    note="A transformer has no recurrence to unroll: one attention reaches every token, and plain backpropagation "
    "gives all gradients. Only in a recurrent network does the gradient go back through time, along a chain that "
    "grows with the sequence.",
)
def through_time():
    rng = np.random.default_rng(0)
    weight = tensor(rng.standard_normal((4, 4)), requires_grad=True)
    paths = {"transformer": [], "recurrent network": []}
    for n in (4, 32):
        x = tensor(rng.standard_normal((n, 4)))
        paths["transformer"].append(longest_path(attention(x @ weight, x @ weight, x @ weight, causal=True).sum()))
        state = tensor(np.zeros(4))
        for row in x:
            state = (row @ weight + state @ weight).tanh()
        paths["recurrent network"].append(longest_path(state.sum()))
    text = "; ".join(f"{name}: {a} ops for 4 tokens, {b} for 32" for name, (a, b) in paths.items())
    return Claim(paths["transformer"][1] > paths["transformer"][0], text)


@section.case(
    (878, 879),
    "Many iterations reduce the loss",
    printed="each one a small step that reduces the loss",
    note="The toy trainer of line 1036: 2,000 steps, each below the one before.",
)
def iterations():
    losses = -tensor(word_trainer()[0][:, 0]).log().data
    return Claim(bool((np.diff(losses) < 0).all()), f"{losses[0]:.3f} at first, {losses[-1]:.4f} at last, never up")


@section.case(
    882,
    "Adam and RMSprop are optimizers too",
    printed="both make training converge",
    note="100 steps of each on the poor prediction, with rate 0.1.",
)
def optimizers():
    losses = {}
    for kind in (SGD, Adam, RMSprop):
        z = tensor(np.log(POOR), requires_grad=True)
        losses[kind.__name__] = descend(kind([z], lr=0.1), 100, loss_of, z)[-1]
    after = ", ".join(f"{name} {loss:.3f}" for name, loss in losses.items())
    return Claim(max(losses.values()) < 2.303, f"loss 2.303 before, after 100 steps: {after}")


@section.case(
    882,
    "Dropout",
    formula="each number 0 with probability p, else divided by 1 - p",
    printed="a technique against overfitting",
    note="The paper only names it. nn.Dropout drops numbers while training, keeps their mean, and does nothing "
    "afterwards; autotx train has it as --dropout.",
)
def dropout():
    x, layer = tensor(np.ones(100_000)), nn.Dropout(0.1)
    dropped, kept = layer(x, np.random.default_rng(0)), layer(x)
    share, mean = (dropped.data == 0).mean(), dropped.mean().item()
    holds = abs(share - 0.1) < 0.01 and abs(mean - 1) < 0.01 and distance(kept, x) == 0
    return Claim(holds, f"with p = 0.1, {share:.1%} of 100,000 ones become 0, and their mean is {mean:.3f}")


@section.case(
    884,
    "A validation set tells learning from memorizing",
    printed="learned patterns carry over to data that was not trained on",
    note="Two hidden layers of 64 learn 12 points of sin(x) with noise: the error on those falls to almost "
    "nothing, that on 50 others does not. autotx train shows both losses.",
)
def validation():
    learned, kept_out = overfitted()
    return Claim(kept_out > 2 * learned, f"squared error on what it learned {learned:.4f}, on the rest {kept_out:.4f}")


@section.case((893, 898), "Four words as one-hot vectors", printed=Digits("1 0 0 0; 0 1 0 0; 0 0 1 0; 0 0 0 1"))
def one_hot():
    return autotx.embedding(tensor(np.eye(4)), np.arange(len(WORDS)))


@section.case((900, 902), "The true distribution", formula="y = one-hot(mat)", printed=Digits("1 0 0 0"))
def true_distribution():
    return autotx.embedding(tensor(np.eye(4)), np.array([WORDS.index("mat")]))[0]


@section.table(
    ("good_sum", (904, 912), "The good prediction is a distribution", "Σ p", "a probability distribution", GOOD),
    ("poor_sum", (925, 927), "The poor prediction is a distribution", "Σ p", "a probability distribution", POOR),
)
def prediction_sum(p):
    total = tensor(p).sum().item()
    return Claim(abs(total - 1) < 1e-15 and min(p) >= 0, f"four shares whose sum is {total:.15g}")


@section.table(
    ("good_loss", (916, 920), "Loss of the good prediction", "-Σ y_{i} log p_{i} = -log 0.7", Digits("0.357"), GOOD),
    ("poor_loss", (931, 935), "Loss of the poor prediction", "-Σ y_{i} log p_{i} = -log 0.1", Digits("2.303"), POOR),
    ("loss_again", 944, "The loss, said again", "-log 0.1", Digits("2.303"), POOR),
)
def prediction_loss(p):
    return cross_entropy(p)


@section.case(938, "The loss is much higher", printed="the poor prediction's")
def higher():
    good, poor = cross_entropy(GOOD).item(), cross_entropy(POOR).item()
    return Claim(poor > good, f"{poor:.3f} against {good:.3f}, {poor / good:.1f} times as much")


@section.case(
    942,
    "The model's predictions are what softmax is given",
    formula="∂L/∂P_{i} = -y_{i} / P_{i},  ∂L/∂Z_{i} = P_{i} - y_{i}",
    printed="predictions and logits are one",
    note="The predictions of lines 867, 912 and 927 are the probabilities P, which softmax gives; it is given the "
    "logits Z. The gradient P - y, worked out below, is that of the logits.",
)
def gradient_of_predictions():
    p = tensor(POOR, requires_grad=True)
    cross_entropy(p).backward()
    of_p, of_z = (" ".join(f"{v:z.1f}" for v in g) for g in (p.grad, gradient(POOR)))
    return Claim(distance(p.grad, gradient(POOR)) < 1e-9, f"gradient of P: {of_p}; of Z: {of_z}")


@section.case(
    (944, 950), "The softmax", formula="P_{i} = e^{Z_{i}} / Σ_{k} e^{Z_{k}}", printed=Digits("0.1 0.1 0.1 0.7")
)
def softmax():
    e = tensor(np.log(POOR)).exp()
    return e / e.sum()


@section.table(
    ("p_minus_y", (952, 973), "The gradient", "∂L/∂Z_{i} = P_{i} - y_{i}", Digits("-0.9 0.1 0.1 0.7", places=12), ...),
    ("gradient_mat", 970, "Gradient of 'mat'", "0.1 - 1", Digits("-0.9"), 0),
    ("gradient_hat", 971, "Gradient of 'hat'", "0.1 - 0", Digits("0.1"), 1),
    ("gradient_bat", 972, "Gradient of 'bat'", "0.1 - 0", Digits("0.1"), 2),
    ("gradient_rat", 973, "Gradient of 'rat'", "0.7 - 0", Digits("0.7"), 3),
)
def gradient_of_word(index):
    return gradient(POOR)[index]


@section.case(
    (979, 980), "Raising the logit of 'mat' raises its probability", printed="more probable in the next iteration"
)
def mat_rises():
    new = after_step(POOR, 0.1)[0].item()
    return Claim(new > 0.1, f"'mat' goes from 0.1 to {new:.4f}")


@section.case(
    (982, 986),
    "Lowering the logits of 'hat' and 'bat' lowers their probabilities",
    formula=f"softmax({STEP})",
    printed="less probable in the next iteration",
    note="They rise. Both logits fall by 0.01, but that of 'rat' falls by 0.07, and the probability that leaves it "
    "goes to all others: a word falls only where its gradient exceeds the mean gradient Σ P_{i} (P_{i} - y_{i}), here "
    "0.42.",
)
def hat_falls():
    new = after_step(POOR, 0.1)[1].item()
    return Claim(new < 0.1, f"'hat' and 'bat' go from 0.1 to {new:.4f}")


@section.case((988, 989), "Lowering the logit of 'rat' lowers its probability", printed="a strong correction")
def rat_falls():
    new = after_step(POOR, 0.1)[3].item()
    return Claim(new < 0.7, f"'rat' goes from 0.7 to {new:.4f}")


@section.case((975, 993), "Following the gradient's signs reduces the loss", printed="how to tweak the logits")
def step_reduces():
    before, after = cross_entropy(POOR).item(), cross_entropy(after_step(POOR, 0.1)).item()
    return Claim(after < before, f"the loss goes from {before:.4f} to {after:.4f}")


@section.case(
    (997, 1003),
    "The gradient of the logits updates the weights",
    formula="W_{i} - α ∂L/∂Z_{i}",
    printed="the weight of class i minus α times the gradient of logit i",
    note="By the chain rule ∂L/∂W_{i} = (P_{i} - y_{i}) x, x what the output layer is given. Without the x it is only "
    "right where the weights are the logits themselves, as in the listing.",
)
def update_of_weights():
    layer = nn.Linear(3, 4, bias=False, rng=np.random.default_rng(0)).astype(np.float64)
    x = tensor([0.5, -1.0, 2.0])
    logits = layer(x)
    loss_of(logits).backward()
    p_minus_y = logits.detach().softmax().data - TRUE
    with_x = distance(layer.weight.grad, np.outer(p_minus_y, x.data))
    without_x = distance(layer.weight.grad, np.outer(p_minus_y, np.ones(3)))
    return Claim(without_x < 1e-12, f"distance from the gradient of W: with x {with_x:.1g}, without {without_x:.2f}")


@section.case(
    (1005, 1021), "The step on the logits", formula=f"{STEP}, α = 0.1", printed=Digits("0.09 -0.01 -0.01 -0.07")
)
def step():
    return -0.1 * tensor(gradient(POOR))


@section.case(
    (1014, 1017),
    "The new probability of 'mat'",
    formula=f"softmax({STEP})",
    printed=Digits("0.19"),
    note="The step belongs on the logits, and was taken on the probability: 0.1 + 0.09. Softmax of the new logits "
    "gives 0.1140, as the last sentence of line 1028 and the listing do it.",
)
def new_mat():
    return after_step(POOR, 0.1)[0]


@section.case(
    (1019, 1020),
    "The new probabilities of 'hat' and 'bat'",
    formula=f"softmax({STEP})",
    printed=Digits("0.09 0.09"),
    note="0.1 - 0.01 is again a step on the probabilities. They become 0.1031: they rise.",
)
def new_hat_and_bat():
    return after_step(POOR, 0.1)[1:3]


@section.case(
    1021,
    "The new probability of 'rat'",
    formula=f"softmax({STEP})",
    printed=Digits("0.63"),
    note="A step on the probability again, 0.7 - 0.07. It becomes 0.6798.",
)
def new_rat():
    return after_step(POOR, 0.1)[3]


@section.case(
    (1016, 1026),
    "The arithmetic of those three lines",
    formula="P - α (P - y)",
    printed=Digits("0.19 0.09 0.09 0.63"),
    note="The sums are right, though they are not the new probabilities.",
)
def arithmetic():
    return tensor(POOR) - 0.1 * tensor(gradient(POOR))


@section.case(
    1028,
    "They do not add up to 1 any more",
    formula="0.19 + 0.09 + 0.09 + 0.63",
    printed="have to be normalized again",
    note="They do add up to 1, and always will: the gradient P - y adds up to 0, as P and y both add up to 1.",
)
def not_normalized():
    total, gradients = tensor([0.19, 0.09, 0.09, 0.63]).sum().item(), tensor(gradient(POOR)).sum().item()
    return Claim(abs(total - 1) > 1e-9, f"the sum is {total:.12f}; the gradients' sum is {gradients:.1g}")


@section.case(
    1028,
    "Softmax of the updated numbers gives the new probabilities",
    formula="softmax(0.19, 0.09, 0.09, 0.63)",
    printed="usually done by a softmax",
    note="Those numbers are no logits, and their softmax is nearly flat. The softmax of the updated logits is meant: "
    "0.1140 0.1031 0.1031 0.6798.",
)
def softmax_of_them():
    wrong, right = tensor([0.19, 0.09, 0.09, 0.63]).softmax(), after_step(POOR, 0.1)
    text = " ".join(f"{p:.4f}" for p in wrong.data)
    return Claim(distance(wrong, right) < 1e-3, f"their softmax is {text}")


@section.case(
    1028,
    "Working with the logits directly",
    formula=f"softmax({STEP})",
    printed="subtract the scaled gradients from the logits, then softmax",
    note="The right way, in the paper's own words, two lines below the wrong numbers.",
)
def on_the_logits():
    new = after_step(POOR, 0.1)
    text = " ".join(f"{p:.4f}" for p in new.data)
    return Claim(abs(new.sum().item() - 1) < 1e-15 and new[0].item() > 0.1, f"the new probabilities are {text}")
