"""The replay page in a real browser: it is stepped through, opened, picked from, and its sums are calculated again.

Needs Chromium and its driver, as in Debian's packages chromium and chromium-driver, and selenium from the extra `test`.
"""

import math
import re
import shutil
from itertools import pairwise

import numpy as np
import pytest

import autotx
from autotx import Tensor, viz
from autotx.models import GPT, MLP, GPTConfig
from autotx.models.paper import replays

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed: pip install -e '.[test]'")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="there is no chromium with its chromedriver here")

FLAGS = """--headless=new --no-sandbox --disable-gpu --no-first-run --disable-background-networking
    --disable-component-update --disable-sync"""
KEYS = {"→": "\ue014", "←": "\ue012", "↓": "\ue015", "End": "\ue010", "Home": "\ue011", "Enter": "\ue007"}


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS.split(), f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


class Page:
    """A page in the browser, 1280 x 860 and light unless said otherwise. What is on it, as a person sees it."""

    def __init__(self, browser, file, width=1280, height=860, dark=False):
        self.browser = browser
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        browser.get(file.as_uri())
        browser.execute_async_script(
            "const told = arguments[0], look = () => document.body.matches('.ready') ? told() : setTimeout(look, 10);"
            "look()"
        )

    def run(self, script, *arguments):
        return self.browser.execute_script(script, *arguments)

    def press(self, *keys):
        for key in keys:
            self.browser.switch_to.active_element.send_keys(KEYS.get(key, key))

    def text(self, selector):
        return self.run("return document.querySelector(arguments[0]).innerText", selector)

    def texts(self, selector):
        return self.run("return [...document.querySelectorAll(arguments[0])].map((e) => e.innerText)", selector)

    def table(self, name):
        """The numbers of the array that is shown under a name, as floats."""
        cells = self.texts(f'figure[data-name="{name}"] td')
        return [float(cell.replace("−", "-")) for cell in cells]

    def boxes(self):
        return self.run("return [...document.querySelectorAll('.box')].map((box) => box.dataset.key)")

    def errors(self):
        return [entry["message"] for entry in self.browser.get_log("browser")]


@pytest.fixture(scope="module")
def gpt_page(tmp_path_factory):
    """A page of a GPT of two layers that reads ten tokens."""
    rng = np.random.default_rng(5)
    model = GPT(GPTConfig(block_size=16, vocab_size=65, n_layer=2, n_head=2, n_embd=32), rng)
    ids = rng.integers(65, size=(1, 11))
    with viz.record():
        _, loss = model(ids[:, :-1], ids[:, 1:])
    file = tmp_path_factory.mktemp("gpt") / "replay.html"
    viz.page(loss, file, title="A GPT")
    return file


@pytest.fixture
def layer_page(tmp_path):
    """A page of (x w).tanh().sum(), and its tensors, after backward."""
    x = Tensor([[0.1, 1.4], [-2.0, 0.5]], requires_grad=True, name="x", dtype=np.float64)
    w = Tensor([[1.0, -0.3, 0.0], [1.0, 0.25, 2.0]], requires_grad=True, name="w", dtype=np.float64)
    with viz.record():
        y = x @ w
        loss = y.tanh().sum()
    viz.page(loss, tmp_path / "page.html")
    loss.backward(retain_graph=True)
    return tmp_path / "page.html", x, w, y


def test_forward_to_the_end_and_back(browser, gpt_page):
    page = Page(browser, gpt_page)
    steps = page.run("return page.steps.map(([op, direction]) => [page.ops[op].op, direction])")
    count = len(steps) // 2
    assert steps[0] == ["embedding", "forward"]
    assert steps[count - 1 : count + 1] == [["cross_entropy", "forward"], ["cross_entropy", "backward"]]
    for op, direction in steps:
        shown = "attention" if op.startswith("scaled") else op.replace("_", " ")
        assert page.text("#detail h2").startswith(shown)
        assert page.text(".direction") == direction
        assert page.run("return document.querySelectorAll('.box.now').length") == 1
        page.press("→")
    assert page.text("#where") == f"backward {count} / {count}"
    assert page.run("return document.getElementById('next').disabled")
    for _ in steps:
        page.press("←")
    assert page.text("#where") == f"forward 1 / {count}"
    page.press("b")
    assert page.text("#where") == f"backward 1 / {count}"
    page.press("End")
    page.press("Home")
    assert page.text("#where") == f"forward 1 / {count}"
    assert page.errors() == []


def test_equal_blocks_are_folded_and_blocks_are_opened_and_closed(browser, gpt_page):
    page = Page(browser, gpt_page)
    before = page.boxes()
    (fold,) = [key for key in before if key.startswith("group")]
    written = page.run("return document.querySelector(`[data-key='${arguments[0]}']`).textContent", fold)
    assert written == "blocks.0 to blocks.1Block × 2 · 38 ops"
    press = "document.querySelector(`[data-key='${arguments[0]}']`).dispatchEvent(new Event('click'))"
    page.run(press, fold)
    unfolded = page.boxes()
    blocks = [key for key in unfolded if key.startswith("group") and key != fold]
    names = [page.run("return data.groups[arguments[0]].name", key.split()[1]) for key in blocks]
    assert names == ["blocks.0", "blocks.1"]
    page.run(press, blocks[0])
    opened = page.boxes()
    assert len(opened) > len(unfolded) + 5
    assert set(unfolded) <= set(opened), "the block is a frame now"
    page.press("Enter")  # the frame has the focus
    assert page.boxes() == unfolded
    page.press("→", "→", "→")  # into the block
    page.press("o")
    assert page.boxes() == opened
    assert page.run("return document.querySelector('.box.now').dataset.key") == "op 3"
    page.run(press, fold)
    assert page.boxes() == before
    assert page.errors() == []


def test_a_small_graph_is_open_from_the_start(browser, tmp_path):
    x = Tensor(np.ones((1, 2)), requires_grad=True, name="x")
    net = MLP((2, 3, 1), "tanh", rng=np.random.default_rng(0))
    viz.page((net(x) * x).sum(), tmp_path / "page.html")
    page = Page(browser, tmp_path / "page.html")
    assert len([key for key in page.boxes() if key.startswith("op")]) == 5
    assert page.run("return document.querySelector('.frame .title').textContent") == "MLP"
    assert page.errors() == []


def test_tokens_stand_beside_tables_and_heat_maps(browser, rng, tmp_path):
    x = Tensor(rng.standard_normal((2, 4)), requires_grad=True, name="x")
    y = Tensor(rng.standard_normal((4, 300)), requires_grad=True)
    viz.page((x @ x.T @ x @ y).sum(), tmp_path / "page.html", rows={"x": ["cat", "dog"]})
    page = Page(browser, tmp_path / "page.html")
    page.run("go(1)")
    assert page.texts("figure[data-name='z'] th") == ["", "cat", "dog", "cat", "dog"]
    page.run("go(3)")
    page.run("page.targets[0].view.pick([1, 7])")
    assert page.text("figure[data-name='z'] .reading").startswith("[1, 7] ‹dog› = ")
    left = page.run("return page.targets[0].view.place.left")
    assert left > 15
    ink = "const c = document.querySelector('figure.target canvas'), pen = c.getContext('2d');"
    ink += "return new Uint32Array(pen.getImageData(0, 0, arguments[0], c.height).data.buffer).some(Boolean)"
    assert page.run(ink, left), "the names are drawn"
    canvas = browser.find_element("css selector", "figure.target canvas")
    canvas.click()  # in its middle; the names at the left are no part of the array
    plan = page.run("return page.targets[0].view.place")
    column = re.match(r"\[[01], (\d+)\] ‹(cat|dog)› = ", page.text("figure.target .reading"))[1]
    assert int(column) == pytest.approx((plan["width"] / 2 - left) / plan["cellWidth"], abs=2)
    assert page.errors() == []


def test_numbers_and_picked_elements_are_the_engines(browser, layer_page):
    file, x, w, y = layer_page
    page = Page(browser, file)
    assert page.text(".source code") == "y = x @ w"
    assert page.table("z") == pytest.approx(y.data.ravel(), rel=1e-5)
    assert page.table("x") == pytest.approx(x.data.ravel(), rel=1e-5)
    assert page.text(".calculation") == "0.1 × 1 + 1.4 × 1 = 1.5"
    cells = browser.find_elements("css selector", 'figure[data-name="z"] td')
    cells[4].click()
    assert page.text("#arithmetic h3") == "One element written out: z[1, 1]"
    assert page.text(".calculation") == "−2 × (−0.3) + 0.5 × 0.25 = 0.725"
    assert page.text('figure[data-name="z"] .reading') == "[1, 1] = 0.725"
    used = page.texts('figure[data-name="x"] td.used'), page.texts('figure[data-name="y"] td.used')
    assert used == (["−2", "0.5"], ["−0.3", "0.25"])
    page.press("←")  # the arrows move inside the array now
    assert page.text("#arithmetic h3").endswith("z[1, 0]")
    assert page.text("#where") == "forward 1 / 3"
    page.run("go(page.steps.length - 1)")
    assert page.table("g") == pytest.approx(y.grad.ravel(), rel=1e-5)
    assert page.table("dx") == pytest.approx(x.grad.ravel(), rel=1e-5)
    assert page.table("dy") == pytest.approx(w.grad.ravel(), rel=1e-5)
    assert page.errors() == []


def test_a_heat_map_is_picked_from_by_mouse_and_keys(browser, gpt_page):
    page = Page(browser, gpt_page)
    page.run("go(page.ops.findIndex((op) => op.op === 'linear'))")
    canvas = browser.find_element("css selector", "figure.target canvas")
    canvas.click()  # in the middle
    first = page.text("figure.target .reading")
    index = [int(i) for i in re.findall(r"\d+", first.partition("=")[0])]
    assert index[0] == 0
    value = page.run("return page.views[0][1].array.at(arguments[0])", index)
    assert float(first.partition("= ")[2].replace("−", "-")) == pytest.approx(value, rel=1e-2)
    page.press("↓")
    second = [int(i) for i in re.findall(r"\d+", page.text("figure.target .reading").partition("=")[0])]
    assert second == [0, index[1] + 1, index[2]]
    assert f"[{', '.join(map(str, second))}]" in page.text("#arithmetic h3")
    colours = page.run(
        "const c = document.querySelector('figure.target canvas'), pen = c.getContext('2d');"
        "return new Set(new Uint32Array(pen.getImageData(0, 0, c.width, c.height).data.buffer)).size"
    )
    assert colours > 50
    assert page.errors() == []


# Every sum that the page writes out is calculated again


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
    parts += [autotx.dropout(x, 0.5, np.random.default_rng(0)), x.logsumexp(axis=1), x.logsumexp()]
    parts += [autotx.einsum("ik,jk->ji", x, x * 2.0), autotx.einsum("ik,k", x, y)]
    return [*parts, autotx.embedding(x, np.array([[0, 2], [2, 2]]))]


def _reductions_and_moves(x, y):
    parts = [x.sum(), x.sum(axis=0), x.mean(axis=1, keepdims=True), x.mean(), x.max(axis=1), x.min()]
    parts += [x.var(axis=0), x.var(axis=1, correction=1), x.cumsum(axis=1), autotx.stack([x, x * 2.0], axis=1)]
    parts += [x.clip(0.5, 1.5), x.tril(), x.triu(1), x.masked_fill(x.data > 1, 3.0), x.pad(((1, 0), (0, 2)), value=2.0)]
    parts += [autotx.where(x.data > 1, x, y), x.gather(np.array([[0, 0], [3, 1], [1, 2]]), axis=1)]
    parts += [x.permute(1, 0), x.transpose(0, 1), x[1:, ::2], x.unsqueeze(0).squeeze(), y.expand(3, 4)]
    return [*parts, autotx.concat([x, x * 2.0], axis=1), x.reshape(2, 6)]


def _losses(x, y):
    targets = np.array([1, 0, 3])
    parts = [autotx.cross_entropy(x, targets), autotx.cross_entropy(x, targets, reduction="sum")]
    parts += [autotx.cross_entropy(x, targets, reduction="none"), autotx.mse_loss(x, x * 0.5)]
    parts += [autotx.nll_loss(x.log_softmax(), targets), autotx.nll_loss(x, targets, reduction="sum")]
    for reduction in ("mean", "none"):
        parts += [autotx.binary_cross_entropy_with_logits(x, x * 0.5, reduction=reduction)]
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
    with viz.record():  # some settings are not remembered otherwise
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


# How it looks


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize(("width", "height"), [(1280, 860), (390, 844)])
def test_nothing_overflows_and_text_has_contrast(width, height, dark, browser, gpt_page, tmp_path):
    replays.write("encoder", tmp_path / "encoder.html")
    for number, file in enumerate((gpt_page, tmp_path / "encoder.html")):
        page = Page(browser, file, width, height, dark)
        for step in (0, 7, 20, 30):
            page.run("go(arguments[0])", step)
            assert page.run("return document.documentElement.scrollWidth") <= width
            assert page.run(WIDER_THAN_THE_DETAIL) == []
            assert browser.get_screenshot_as_file(str(tmp_path / f"{number}-{step}.png"))
        assert page.run(TEXT_OUTSIDE_ITS_BOX) == []
        assert page.run(OVERLAPPING_BOXES) == []
        assert page.run(CONTRAST) >= 4.5
        assert page.errors() == []


WIDER_THAN_THE_DETAIL = """
    const edge = document.getElementById("detail").getBoundingClientRect().right + 1;
    const free = (e) => e.closest(".tables, pre") && !e.matches(".tables, pre");  // these scroll by themselves
    return [...document.querySelectorAll("#detail *")]
        .filter((e) => !free(e) && e.getBoundingClientRect().right > edge).map((e) => e.outerHTML.slice(0, 80));
"""

TEXT_OUTSIDE_ITS_BOX = """
    const inside = (r, s) => r.left >= s.left && r.right <= s.right && r.top >= s.top && r.bottom <= s.bottom;
    const rect = (e) => e.getBoundingClientRect();
    const texts = [...document.querySelectorAll(".box text")];
    return texts.filter((text) => !inside(rect(text), rect(text.closest(".box").querySelector("rect"))))
        .map((text) => text.textContent);
"""

OVERLAPPING_BOXES = """
    const boxes = [...document.querySelectorAll(".box:not(.frame)")];
    const rects = boxes.map((box) => box.querySelector("rect").getBoundingClientRect());
    const meet = (r, s) => r.left < s.right && s.left < r.right && r.top < s.bottom && s.top < r.bottom;
    return boxes.filter((_, i) => rects.slice(i + 1).some((s) => meet(rects[i], s))).map((box) => box.dataset.key);
"""

CONTRAST = """
    const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
    const light = (name) => {
        canvas.fillStyle = getComputedStyle(document.documentElement).getPropertyValue(name);
        canvas.fillRect(0, 0, 1, 1);
        const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].map((v) => v / 255)
            .map((v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b + 0.05;
    };
    const pairs = "ink paper, ink card, soft paper, soft card, f f-soft, b b-soft, ink f-soft, ink b-soft, "
        + "soft f-soft, soft b-soft, ink used, paper f, paper b, f card, b card";
    const lights = pairs.split(", ").map((pair) => pair.split(" ").map((name) => light("--" + name)));
    return Math.min(...lights.map(([a, b]) => Math.max(a / b, b / a)));
"""


def test_hostile_names_are_only_text(browser, tmp_path):
    evil = '</script><img src=x onerror="document.title=1"><b>&amp; \' "'
    x = Tensor([1.0, 2.0], requires_grad=True, name=evil)
    viz.page((x * x).sum(), tmp_path / "page.html", title=evil, about=evil)
    page = Page(browser, tmp_path / "page.html")
    assert page.text("h1") == page.text("#about") == browser.title == evil
    assert evil in page.text("figure[data-name='x'] figcaption")
    assert page.run("return document.querySelectorAll('img, #detail b b').length") == 0
    assert page.errors() == []
