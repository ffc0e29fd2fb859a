"""Every sum that the replay page writes out, calculated again. In a real browser, see browsing.py."""

import math
import re
from itertools import pairwise

import numpy as np
import pytest
from browsing import Page

import autotx
from autotx import Tensor, viz


def _elementwise(x, y):
    parts = [x + y, x - y, x * y, x / y, x**2.0, x.maximum(y), x.minimum(y), -x, x.exp(), x.log(), x.sqrt(), x.tanh()]
    parts += [x.sigmoid(), (x - 1.0).relu(), (x - 1.0).abs(), (x - 1.0).gelu(), autotx.gelu(x, approximate="tanh")]
    return parts


def _layers(x, y):
    three = x.reshape(1, 3, 4)
    norm = autotx.layer_norm(x, y, y - 1.0, eps=0.1)
    parts = [x.softmax(), x.softmax(axis=0), x.log_softmax(), norm, autotx.linear(x, x * 0.5, y[:3]), x @ x.T, x @ y]
    parts += [three @ x.T, y @ x.T, y @ y, three @ y, three @ (three * 0.5).transpose(1, 2), x @ three.transpose(1, 2)]
    parts += [autotx.scaled_dot_product_attention(three, three - 1.0, three * 0.5, causal=True)]
    packed = three[..., [0, 1, 2, 3, 3, 1, 0, 2, 2, 0, 3, 1]] - 0.5  # Q, K and V of x's channels
    parts += [autotx.multi_head_attention(packed, n_head=2, causal=True)]
    parts += [autotx.multi_head_attention(packed[:, :2, :4], packed[..., 4:], n_head=n) for n in (1, 4)]
    parts += [autotx.dropout(x, 0.5, np.random.default_rng(0)), x.logsumexp(axis=1), x.logsumexp()]
    parts += [autotx.einsum("ik,jk->ji", x, x * 2.0), autotx.einsum("ik,k", x, y), autotx.einsum("...k,k->...", x, y)]
    return [*parts, autotx.embedding(x, np.array([[0, 2], [2, 2]])), autotx.embedding(x, np.array(1))]


def _reductions_and_moves(x, y):
    parts = [x.sum(), x.sum(axis=0), x.mean(axis=1, keepdims=True), x.mean(), x.max(axis=1), x.min()]
    parts += [x.var(axis=0), x.var(axis=1, correction=1), x.cumsum(axis=1), autotx.stack([x, x * 2.0], axis=1)]
    parts += [x.clip(0.5, 1.5), x.tril(), x.triu(1), x.masked_fill(x.data > 1, 3.0), x.pad(((1, 0), (0, 2)), value=2.0)]
    parts += [autotx.where(x.data > 1, x, y), x.gather(np.array([[0, 0], [3, 1], [1, 2]]), axis=1)]
    parts += [x.permute(1, 0), x.transpose(0, 1), x[1:, ::2], x.unsqueeze(0).squeeze(), y.expand(3, 4)]
    return [*parts, autotx.concat([x, x * 2.0], axis=1), x.reshape(2, 6), x[[0, 2]], x[x.data > 1]]


def _losses(x, y):
    targets = np.array([1, 0, 3])
    parts = [autotx.cross_entropy(x, targets), autotx.cross_entropy(x, targets, reduction="sum")]
    parts += [autotx.cross_entropy(x, targets, reduction="none"), autotx.mse_loss(x, x * 0.5)]
    parts += [autotx.cross_entropy(x, targets, ignore_index=0, label_smoothing=0.2)]
    parts += [autotx.cross_entropy(y, np.array(2))]
    parts += [autotx.nll_loss(x.log_softmax(), targets), autotx.nll_loss(x, targets, reduction="sum")]
    for reduction in ("mean", "none"):
        parts += [autotx.binary_cross_entropy_with_logits(x, x.sigmoid(), reduction=reduction)]
    return [*parts, autotx.mse_loss(x, y.expand(3, 4), reduction="sum")]


EVERY_SUM = """
    const found = [];
    for (const [i, direction] of page.steps) {
        const op = page.ops[i];
        const targets = direction === "forward" ? [[null, op.out]] : op.inputs.flatMap((input, k) =>
            input.grad === undefined ? [] : [[k, page.arrays[input.grad]]]);
        for (const [argument, array] of targets) for (const flat of new Set([0, array.size >> 1, array.size - 1])) {
            const index = unflatten(flat, array.shape);
            found.push([op.op, direction, array.at(index), arithmetic(op, direction, index, argument, array).lines]);
        }
    }
    return found;
"""


@pytest.mark.parametrize("ops", [_elementwise, _layers, _reductions_and_moves, _losses])
def test_every_sum_adds_up(ops, browser, rng, tmp_path):
    x = Tensor(rng.uniform(0.3, 2.0, (3, 4)), requires_grad=True, name="x")
    y = Tensor(rng.uniform(0.3, 2.0, 4), requires_grad=True, name="y")
    loss = sum((part * rng.uniform(0.5, 2.0, part.shape)).sum() for part in ops(x, y))
    viz.page(loss, tmp_path / "page.html")
    page = Page(browser, tmp_path / "page.html")
    assert page.run("return [...Object.keys(FORWARD)].filter((op) => !BACKWARD[op])") == []
    silent, checked = set(), set()
    for op, direction, value, lines in page.run(EVERY_SUM):
        if lines is None:
            silent.add((op, direction))
            continue
        for line in lines:
            sides = [side for part in line.split(" = ") if (side := _value(part)) is not None]
            for left, right in pairwise(sides):
                assert left == pytest.approx(right, rel=2e-4, abs=1e-4), f"{op}, {direction}: {line}"
                checked.add(op)
        assert _value(lines[-1].split(" = ")[-1]) in (pytest.approx(value, rel=1e-4, abs=1e-9), None), lines
    assert silent == set()
    assert len(checked) >= 4
    assert page.errors() == []


def _value(text):
    """What one side of an equation comes to; None when it is in words or letters."""
    text = re.sub(r"… \(\d+ more: ([^)]+)\)", r"(\1)", text)
    for sign, meaning in {"×": "*", "−": "-", "^": "**", "√": "sqrt", "ln": "log"}.items():
        text = text.replace(sign, meaning)
    text = re.sub(r"\|([^|]+)\|", r"abs(\1)", re.sub(r"sqrt([\d.e-]+)", r"sqrt(\1)", text))
    names = {"exp": math.exp, "log": math.log, "sqrt": math.sqrt, "tanh": math.tanh, "max": max, "min": min, "abs": abs}
    try:
        return float(eval(text, {"__builtins__": {}}, names))
    except (SyntaxError, NameError, TypeError):
        return None


def test_what_is_not_kept_is_not_calculated_with(browser, rng, tmp_path):
    x = Tensor(rng.standard_normal((2, 150_000)), requires_grad=True)  # rows too long to be kept whole
    p = autotx.layer_norm(x, np.ones(150_000), np.zeros(150_000)).softmax()
    viz.page(autotx.cross_entropy(p * x.sum(axis=0), np.array([5, 6])), tmp_path / "page.html")
    page = Page(browser, tmp_path / "page.html")
    said = {op: lines for op, direction, _, lines in page.run(EVERY_SUM) if direction == "forward"}
    for op in ("layer_norm", "softmax"):
        assert said[op] == ["This needs a number that the page does not keep; another element may do."]
    assert said["cross_entropy"] is None
    page.press("End")
    assert page.errors() == []


def test_a_sum_of_which_no_term_is_kept_is_not_written_out(browser, rng, tmp_path):
    w = Tensor(0.01 * rng.standard_normal((6000, 200)), requires_grad=True)  # of which few rows are kept
    viz.page(autotx.linear(rng.standard_normal((2, 200)), w).tanh().sum(), tmp_path / "page.html")
    page = Page(browser, tmp_path / "page.html")
    said = [line for _, _, _, lines in page.run(EVERY_SUM) for line in lines or ()]
    assert "This needs a number that the page does not keep; another element may do." in said
    assert not any(line.lstrip().startswith("+ …") for line in said)
    assert page.errors() == []


def test_what_is_not_known_is_not_written_out(browser, rng, tmp_path):
    q = Tensor(rng.standard_normal((1, 3, 4)), requires_grad=True)
    dropped = autotx.scaled_dot_product_attention(q, q, q, dropout_p=0.5, rng=rng)
    heads = autotx.multi_head_attention(q, autotx.concat([q, q], axis=2), n_head=2, dropout_p=0.5, rng=rng)
    loss = autotx.nll_loss(q[0], np.array([0, 1, 0]), ignore_index=1)
    viz.page(dropped.sum() + heads.sum() + loss, tmp_path / "page.html")
    page = Page(browser, tmp_path / "page.html")
    said = {op: lines for op, direction, _, lines in page.run(EVERY_SUM) if direction == "forward"}
    assert said["scaled_dot_product_attention"] is said["multi_head_attention"] is None
    assert _value(said["nll_loss"][-1].split(" = ")[-1]) == pytest.approx(loss.item(), rel=1e-4)
    assert "before some were dropped" in page.text("figure[data-name='P'] figcaption")
    assert page.text(".calculation").endswith(": the formula above says how")
    assert page.errors() == []
