"""The script of 'Loss Function and Back-Propagation': 2,000 steps of training for "The cat sat on the mat"."""

import numpy as np

from autotx.models.paper.case import Claim, Digits, Section
from autotx.models.paper.loss import POOR, after_step, loss_of
from autotx.models.paper.steps import agree, tensor
from autotx.models.paper.trained import word_trainer

section = Section("trainer", "Loss Function and Back-Propagation: the script", (1030, 1087))

START = Digits("0.1 0.1 0.1 0.7")
STEP = "Z - α (softmax(Z) - y)"
LOGITS_0 = Digits("0.10792622 0.09792622 0.09792622 0.69622133")
PROBABILITIES_0 = Digits("0.20737772 0.20737772 0.20737772 0.37786684")
LOGITS_1990 = Digits("3.41207767 -0.86673008 -0.86673008 -0.6786175", places=8)
PROBABILITIES_1990 = Digits("0.95742224 0.0132765 0.0132765 0.01602477", places=8)
FINAL = Digits("0.95765298 0.01320591 0.01320591 0.0159352", places=8)


@section.case(
    (1030, 1036),
    "The script performs the step worked out above",
    formula="softmax of the starting weights",
    printed=START,
    note="The script takes the probabilities 0.1, 0.1, 0.1, 0.7 for logits, so it starts from other probabilities: "
    "0.2074 three times and 0.3779. The logits of the example would be their logarithms.",
)
def start():
    return tensor(START).softmax()


@section.case(
    1042,
    "Its learning rate",
    formula="the new probability of 'mat', from P = 0.1 0.1 0.1 0.7",
    printed="the same step, with 0.01",
    note="The text above uses 0.1 (line 1014), ten times as much.",
)
def learning_rate():
    script, text = after_step(POOR, 0.01)[0].item(), after_step(POOR, 0.1)[0].item()
    return Claim(abs(script - text) < 1e-3, f"'mat' would go to {script:.4f} with 0.01 and to {text:.4f} with 0.1")


@section.case(
    (1054, 1058),
    "The gradient: the probabilities, less 1 for the true word",
    formula="P - y",
    printed="the gradient of the loss",
    note="Against the engine's own backward pass through cross entropy, at the start of the script.",
)
def gradient():
    p = tensor(START).softmax().numpy()
    z = tensor(START.values, requires_grad=True)
    loss_of(z).backward()
    p[0] -= 1
    return agree(p, z.grad, 1e-15, "largest difference from the engine's gradient {:.1g}")


@section.case((1045, 1081), "The first and the last of 2,000 steps that are logged", printed=Digits("0 1990"))
def logged():
    steps = np.arange(len(word_trainer()[1]))[::10]
    return steps[[0, -1]]


@section.table(
    ("weights_0", 1078, "Iteration 0: weights", STEP, LOGITS_0, 1, 0),
    ("logged_probabilities_0", 1079, "Iteration 0: probabilities", "softmax(Z)", PROBABILITIES_0, 0, 0),
    ("weights_1990", 1081, "Iteration 1990: weights", STEP, LOGITS_1990, 1, 1990),
    ("probabilities_1990", 1082, "Iteration 1990: probabilities", "softmax(Z)", PROBABILITIES_1990, 0, 1990),
    (
        "final_probabilities",
        1084,
        "The final probabilities",
        "softmax(Z) after 2,000 steps",
        FINAL,
        2,
        ...,
    ),
)
def iteration(which, step):
    return word_trainer()[which][step]


@section.case(
    (1078, 1079),
    "The two lines of an iteration belong together",
    formula="softmax of the weights of line 1078",
    printed=PROBABILITIES_0,
    note="The script prints the weights after the step and the probabilities before it. Those of the printed weights "
    "are 0.2092 0.2071 0.2071 0.3767.",
)
def lines_together():
    return tensor(LOGITS_0).softmax()
