"""The replay page in a real browser: it is stepped through, opened, picked from, and looked at. And the page of
`autotx serve`, which asks its server.

browsing.py says what browser it is, and when these tests are skipped. What it writes out is tested in test_sums.py.
"""

import re
import threading
import time

import numba
import numpy as np
import pytest
from browsing import KEYS, Page
from gguf_files import small_llama, write_model

from autotx import Tensor, viz
from autotx.models import GPT, MLP, GPTConfig
from autotx.models.formats import open_reader
from autotx.models.inference.pieces import Matrix
from autotx.models.paper import replays
from autotx.models.serving.server import Service
from autotx.models.serving.transport import Server
from autotx.viz.labels import op_title


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
    look = "return ['#detail h2', '.direction', '.box.now'].map((s) => [...document.querySelectorAll(s)])"
    look += ".map((found) => found.length === 1 && found[0].textContent)"
    for op, direction in steps:
        title, shown_direction, box = page.run(look)
        assert title.startswith(op_title(op))
        assert shown_direction == direction
        assert box, "one box is on"
        page.press("→")
    assert page.text("#where") == f"backward {count} / {count}"
    assert page.run("return document.getElementById('next').disabled")
    page.press_often("←", len(steps))
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
    assert written == "blocks.0 to blocks.1Block × 2 · 20 ops"
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


def test_all_is_reached_by_keys(browser, gpt_page):
    page = Page(browser, gpt_page)
    focus = "const e = document.activeElement; return e.dataset.key || e.id || e.className || e.tagName"
    reached = []
    while reached.count("op 0") < 2:  # once around
        page.press("Tab")
        reached.append(page.run(focus))
        assert len(reached) < 25, "one stop for the graph, one for each array"
    assert reached[:3] == ["SUMMARY", "op 0", "larger"]
    assert {"next", "slider", "play"} <= set(reached)
    page.run("document.querySelector('[data-key=\"op 0\"]').focus()")
    (fold,) = [key for key in page.boxes() if key.startswith("group")]
    while page.run(focus) != fold:
        page.press("↓")
    page.press("Enter", "↓", "Enter", "↓", "Enter")  # opens the fold, its first block, and goes to the first op there
    assert page.run("return document.querySelector('.box.now').dataset.key") == page.run(focus) == "op 3"
    box, view = (f"document.querySelector('{name}').getBoundingClientRect()" for name in (".box.now", "#graph"))
    assert page.run(f"return {box}.bottom <= {view}.bottom && {box}.top >= {view}.top")
    page.run("document.activeElement.blur()")
    page.press("↓")
    assert page.run("return document.getElementById('detail').scrollTop") > 0
    assert page.errors() == []


def test_steps_are_quick_and_gradients_flow_upwards(browser, gpt_page):
    page = Page(browser, gpt_page)
    times = page.run(
        "return page.steps.slice(0, 60).map((_, i) => { const begun = performance.now(); go(i);"
        "document.body.offsetHeight; return performance.now() - begun; })"
    )
    assert np.median(times) < 200, "milliseconds; about 10 on a quiet machine"
    heads = "const style = getComputedStyle(document.querySelector('.line.hot.begin'));"
    heads += "return ['Start', 'End'].map((end) => style['marker' + end])"
    page.run("go(page.ops.length - 1)")
    assert page.run(heads) == ["none", 'url("#arrow-hot")']
    page.press("→")
    assert page.run(heads) == ['url("#arrow-hot")', "none"]


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


# How it looks


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize(("width", "height"), [(1280, 860), (800, 1100), (360, 640), (640, 360)])
def test_nothing_overflows_and_text_has_contrast(width, height, dark, browser, gpt_page, tmp_path):
    replays.write("encoder", tmp_path / "encoder.html")
    for number, file in enumerate((gpt_page, tmp_path / "encoder.html")):
        page = Page(browser, file, width, height, dark)
        for step in (0, 7, 20, 50):
            page.run("go(arguments[0])", step)
            assert page.run("return document.documentElement.scrollWidth") <= width
            assert page.run(CUT) == []
            assert page.run(OVER_THE_GRAPH) <= 0, "the signs have a strip of their own"
            assert page.run(WIDER_THAN_THE_DETAIL) == []
            assert browser.get_screenshot_as_file(str(tmp_path / f"{number}-{step}.png"))
        assert page.run(TEXT_OUTSIDE_ITS_BOX) == []
        assert page.run(OVERLAPPING_BOXES) == []
        assert page.run(CONTRAST) >= 4.5
        assert page.errors() == []


CUT = """
    const right = (e) => e.getBoundingClientRect().right;
    return [...document.querySelectorAll("footer *, header *")].filter((e) => right(e) > innerWidth)
        .map((e) => e.outerHTML.slice(0, 80));
"""

OVER_THE_GRAPH = """
    const rect = (id) => document.getElementById(id).getBoundingClientRect();
    return rect("signs").height ? rect("graph").bottom - rect("signs").top : 0;
"""

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


# The page of autotx serve


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """Of a server of a small model, whose weights are large enough to be sure of something."""
    pytest.importorskip("jinja2")
    model = small_llama(block_size=128)
    for parameter in model.parameters():
        parameter.writable()[...] *= 3
    file = write_model(tmp_path_factory.mktemp("served") / "small.gguf", model)
    with Server(0, Service(open_reader(file, Matrix), "small.gguf", 128).answer) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.port}/"
        server.shutdown()
        thread.join()


def until(condition):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def count(page, selector):
    return page.run("return document.querySelectorAll(arguments[0]).length", selector)


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize(("width", "height"), [(1400, 900), (400, 800)])
def test_the_served_page(browser, address, width, height, dark):
    page = Page(browser, address, width, height, dark)
    assert page.text("h1") == "small.gguf"
    assert page.text("#facts") == "2 layers of 4 heads, 128 tokens at once"
    page.run("const box = document.getElementById('prompt'); box.value = 'the quick brown fox'; box.focus()")
    browser.switch_to.active_element.send_keys("\ue009" + KEYS["Enter"])  # with Control
    until(lambda: page.text("#status").startswith("24 tokens in"))
    given, tokens = count(page, ".token.given"), count(page, ".token")
    assert tokens == given + 24
    assert count(page, ".token:last-of-type .rivals span") == 3

    page.run("document.querySelector('.token[tabindex=\"0\"]').focus()")
    page.press("End")
    until(lambda: count(page, "#lens tbody tr") == 3)
    assert page.text("#which") == f"Why '{page.run('return answers[0].tokens.at(-1).shown')}'"
    assert count(page, "#detail tr") >= 6
    weights = page.run("return [...document.querySelectorAll('#attention small')].map((e) => parseFloat(e.innerText))")
    assert len(weights) == tokens - 1
    assert sum(weights) == pytest.approx(100, abs=0.1 * tokens)
    before = page.text("#attention")
    page.run("byId('layer').value = 1; byId('head').value = 2; byId('head').dispatchEvent(new Event('change'))")
    assert page.text("#attention") != before
    assert "head 2 of layer 1" in page.text("#attention-note")
    last, said = page.run("return [inside.lens, answers[0].tokens].map((all) => all.at(-1).probability)")
    assert last == pytest.approx(said, rel=1e-5 if numba.config.DISABLE_JIT else 0, abs=0)

    page.run("byId('attribute').focus()")
    page.press("Enter")
    until(lambda: "Of the difference" in page.text("#shares-note"))
    assert "of the way disagree by" in page.text("#shares-note")
    assert count(page, "#shares span") == tokens - 1

    page.run("byId('switch').requestSubmit()")
    until(lambda: page.text("#difference") and count(page, ".answer") == 2)
    assert page.texts(".chip") == ["layer 0, head 0\n×"] or "layer 0, head 0" in page.text(".chip")
    assert page.text(".answer:nth-child(2) h2").startswith("The answer without head 0.0")
    marked = page.run("return answers.map((a) => a.tokens.map((t) => t.span.matches('.other')))")
    ids = page.run("return answers.map((a) => a.tokens.map((t) => t.id))")
    assert any(map(any, marked)) == (ids[0] != ids[1])
    assert page.run("return document.documentElement.scrollWidth") <= width
    assert page.run(CONTRAST) >= 4.5
    page.run("document.querySelector('.chip button').click()")
    assert count(page, ".answer") == 1
    assert page.errors() == []


def test_the_served_page_says_what_is_wrong_in_one_line(browser, address):
    page = Page(browser, address)
    page.run("byId('prompt').value = 'fox '.repeat(300); byId('form').requestSubmit()")
    until(lambda: page.text("#status").endswith("has no room for more"))
    page.run("byId('prompt').value = '<b>the</b> quick'; byId('tokens').value = 100; byId('form').requestSubmit()")
    until(lambda: count(page, ".token") > 20)
    page.run("byId('stop').click()")
    assert page.text("#status") == "stopped" or page.text("#status").startswith("100 tokens")
    assert count(page, ".token b b") == 0
    page.run("window.fetch = () => Promise.reject(new TypeError('gone')); byId('form').requestSubmit()")
    until(lambda: page.text("#status") == "the server does not answer; does autotx serve still run?")
    assert all("400 (Bad Request)" in error for error in page.errors()), "the browser's own line on the first of them"
