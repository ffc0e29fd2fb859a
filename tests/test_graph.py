"""Pictures of computation graphs: what is shown, folded, written, and what is refused."""

import graphlib
import html
import json
import re
import subprocess
import webbrowser
import xml.etree.ElementTree as ET
from pathlib import Path

import graphviz
import numpy as np
import pytest
from matplotlib import path as mpl_path
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath
from matplotlib.transforms import Bbox

import autotx
from autotx import Tensor, nn, viz
from autotx.models import GPT, MLP, GPTConfig, Transformer, TransformerConfig
from autotx.models.cli import main
from autotx.text import counted
from autotx.viz import dot, folding, labels, primitives, titles
from autotx.viz.graph import _LOOKS
from autotx.viz.ops import COMPOSED, OPS, erf, example
from autotx.viz.trace import trace


def leaf(values, name=None):
    return Tensor(values, requires_grad=True, dtype=np.float32, name=name)


def gpt_loss(n_layer=3, n_embd=8, vocab_size=11, rng=None, n_head=2):
    model = GPT(GPTConfig(16, vocab_size, n_layer, n_head, n_embd), rng=rng)
    ids = np.arange(5)[None]
    return model(ids, ids + 1)[1]


def transformer_loss(n_layer):
    model = Transformer(TransformerConfig(20, 8, n_layer, 2, 8), np.random.default_rng(0))
    return model.loss(np.array([[3, 4, 2, 0]]), np.array([[1, 5, 6, 2]]))


def xor_loss():
    x = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.float32)
    y = np.array([[0], [1], [1], [0]], np.float32)
    return autotx.mse_loss(MLP((2, 4, 1), "tanh", rng=np.random.default_rng(0))(x), y)


def shown(tensor, **settings):
    """What is shown: the nodes' ops or names, and the closed groups' paths, in order; and the view."""
    t = trace(tensor)
    view = folding.view(t, **settings)
    words = []
    for item in view.items.values():
        if item.kind == "node":
            words.append(t.nodes[item.id].op or t.nodes[item.id].name)
        else:
            words.append(t.groups[item.id].path if item.kind == "group" else "rest")
    return words, view


def svg_of(tensor, tmp_path, **settings):
    viz.render(tensor, tmp_path / "g.svg", **settings)
    return ET.fromstring((tmp_path / "g.svg").read_text())


def texts(svg):
    return [e.text for e in svg.iter("{http://www.w3.org/2000/svg}text")]


# ---- What is shown ----------------------------------------------------------------------------------------------


def test_a_gpt_is_embeddings_blocks_and_head():
    words, view = shown(gpt_loss(), depth=1)
    assert words == [
        *("wte.weight", "ids", "wte", "wpe", "ids", "add"),
        *("blocks.0", "ln_f", "linear", "targets", "cross_entropy"),
    ]
    assert [len(run.members) for run in view.runs.values()] == [3]
    drawn = viz.graph(gpt_loss(), depth=1).source
    assert "blocks.0 to blocks.2" in drawn
    assert "Block × 3" in drawn


def test_equal_blocks_are_closed_when_nobody_says_how_deep():
    words, _ = shown(gpt_loss())
    assert "blocks.0" in words
    assert words.count("layer_norm") == 1  # ln_f is open


def test_the_block_that_stands_for_all_can_be_opened():
    words, view = shown(gpt_loss(), expand=["blocks"], depth=1)
    assert words[6:12] == ["blocks.0.ln_1", "blocks.0.attn", "add", "blocks.0.ln_2", "blocks.0.mlp", "add"]
    assert "blocks.1" not in " ".join(words)
    sorter = graphlib.TopologicalSorter()
    for source, target, *_ in view.edges:
        sorter.add(target, source)
    sorter.prepare()  # CycleError for an edge from a block to the one that stands for it


def test_one_block_opened_alone_leaves_the_others_folded():
    words, _ = shown(gpt_loss(n_layer=5), expand=["blocks.2", "blocks.2.mlp"], depth=1)
    assert [w for w in words if w.startswith("blocks")] == [
        *("blocks.0", "blocks.2.ln_1", "blocks.2.attn", "blocks.2.ln_2"),
        *("blocks.2.mlp.fc", "blocks.2.mlp.proj", "blocks.3"),
    ]


def test_depth_closes_and_opens_everything():
    assert shown(gpt_loss(), depth=0)[0] == ["GPT", "ids", "ids", "targets"]
    words, view = shown(gpt_loss(), depth=9, max_nodes=500)
    assert "group" not in {item.kind for item in view.items.values()}
    assert words.count("gelu") == 1  # of the block that stands for all


def test_blocks_of_other_sizes_are_not_folded():
    class Odd(nn.Module):
        def __init__(self):
            rng = np.random.default_rng(0)
            self.layers = [nn.Linear(2, 2, rng=rng), nn.Linear(2, 2, rng=rng), nn.Linear(2, 3, rng=rng)]

        def forward(self, x):
            for layer in self.layers:
                x = layer(x)
            return x

    words, view = shown(Odd()(leaf([[1.0, 2.0]])), depth=1)
    assert words[1:] == ["layers.0", "layers.2"]
    assert [len(r.members) for r in view.runs.values()] == [2]


def test_every_edge_of_the_graph_is_shown_or_inside_a_closed_group():
    tensor = gpt_loss()
    t = trace(tensor)
    view = folding.view(t, depth=9, max_nodes=500)
    assert {v for _, _, v, _, _ in view.edges} <= {n for item in view.items.values() for n in item.nodes}
    targets = {target for _, target, *_ in view.edges}
    assert all(key in targets for key, item in view.items.items() if t.nodes[item.id].op)


def test_the_encoder_decoder():
    loss = transformer_loss(3)
    words, view = shown(loss, depth=1)
    assert {"encoder.0", "decoder.0"} <= set(words)
    assert sorted(len(r.members) for r in view.runs.values() if len(r.members) == 3) == [3, 3]
    memory = [e for e in view.edges if e[0][0] == "group" and e[1][0] == "group"]
    assert len({(source, target) for source, target, *_ in memory}) == 1  # the encoder feeds the decoder, once
    drawn = viz.graph(loss).source
    assert "EncoderBlock × 3" in drawn
    assert "DecoderBlock × 3" in drawn


def test_what_comes_in_is_seen_though_the_module_is_closed():
    words, _ = shown(nn.Linear(2, 1, rng=np.random.default_rng(0))(Tensor([[1.0, 2.0]], name="x")), depth=0)
    assert words == ["x", "Linear"]


# ---- The budget -------------------------------------------------------------------------------------------------


def test_a_graph_over_the_budget_is_folded_further_and_says_so():
    words, view = shown(gpt_loss(), depth=9, max_nodes=20)
    assert len(words) <= 20
    assert re.match(r"folded to 2 levels of modules: \d+ nodes are more than max_nodes=20", view.notes[0])
    assert "are more than max_nodes=20" in viz.graph(gpt_loss(), depth=9, max_nodes=20).source


def test_without_modules_the_middle_is_left_out():
    y = leaf([1.0], "x")
    for _ in range(200):
        y = y.tanh()
    words, view = shown(y, max_nodes=10)
    assert len(words) == 10
    assert words[0] == "x"
    assert words.count("rest") == 1
    assert view.notes == ["192 nodes in the middle are not shown: 201 are more than max_nodes=10"]
    assert {(x, z) for x, z, *_ in view.edges if "rest" in (x[0], z[0])} == {
        (("node", 3), ("rest", -1)),
        (("rest", -1), ("node", 196)),
    }


def test_gpt_2_small_is_drawn_with_few_nodes(tmp_path):
    loss = gpt_loss(12, 768, 50257, n_head=12)
    svg = svg_of(loss, tmp_path)
    assert len(shown(loss)[0]) == 14
    assert {"blocks.0 to blocks.11", "Block × 12", "7,087,872 parameters each"} <= set(texts(svg))


# ---- Files ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("type_", "begins"), [("svg", b"<?xml"), ("png", b"\x89PNG"), ("dot", b"digraph")])
def test_every_type_of_file(tmp_path, type_, begins):
    file = tmp_path / f"g.{type_}"
    viz.render(xor_loss(), file)
    assert file.read_bytes().startswith(begins)
    assert [f.name for f in tmp_path.iterdir()] == [file.name]


def test_a_graph_is_a_digraph_that_notebooks_show():
    drawn = viz.graph(xor_loss())
    assert isinstance(drawn, graphviz.Digraph)
    assert "<svg" in drawn._repr_mimebundle_()["image/svg+xml"]
    assert drawn.pipe("png").startswith(b"\x89PNG")


def test_notebooks_show_numbers_and_below_them_a_graph_after_the_switch():
    assert not hasattr(Tensor, "_repr_html_")
    viz.show_graphs()
    try:
        loss, chain = xor_loss(), leaf([1.0], name="<x>")
        for _ in range(100):
            chain = chain * 2.0
        for tensor in (loss, chain, unrolled(10)):
            shown = tensor._repr_html_()
            numbers, graph = shown.split("</pre>")
            assert numbers == f"<pre>{html.escape(repr(tensor))}"
            assert graph.strip().startswith("<svg")
        loss.backward()
        assert loss._repr_html_() is None
        assert Tensor([1.0])._repr_html_() is None
    finally:
        viz.show_graphs(False)
    viz.show_graphs(False)
    assert not hasattr(Tensor, "_repr_html_")


def unrolled(steps):
    """A recurrent network without modules."""
    w, u, h = leaf(np.ones((2, 3))), leaf(np.ones((3, 3))), np.zeros((1, 3))
    for _ in range(steps):
        h = (np.ones((1, 2)) @ w + h @ u).tanh()
    return h.sum()


@pytest.mark.parametrize("f", [lambda x: x * x, lambda x: x + x, lambda x: x @ x, lambda x: x / x])
def test_an_op_used_on_one_tensor_twice_has_two_edges(f):
    """Each is a part of the gradient: of x * x it is 2 x."""
    out = f(leaf([[1.0, 2.0], [3.0, 4.0]]))
    edges = [line for line in viz.graph(out).source.splitlines() if "node_0 -> node_1" in line]
    assert [re.search(r'tooltip="(\w) of \w+: d\1 = ', edge)[1] for edge in edges] == ["x", "y"]
    named = str(out._op) in ("matmul", "div")  # where the two arguments differ
    assert [re.search(r">(\w )?\(2, 2\)<", edge)[1] for edge in edges] == (["x ", "y "] if named else [None, None])


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda g, folder: viz.save(g, folder / "g.png"), "g.png"),
        (lambda g, folder: g.render(folder / "g", format="svg"), "g.svg"),
        (lambda g, folder: g.render("g.png", folder), "g.png"),
        (lambda g, folder: g.render(directory=folder), "autotx.svg"),
        (lambda g, folder: g.save(folder / "g.png"), "g.png"),
    ],
)
def test_a_graph_is_written_in_the_ways_people_try(call, name, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))  # without Graphviz
    path = call(viz.graph(xor_loss()), tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_bytes().startswith(b"\x89PNG" if name.endswith("png") else b"<?xml")
    assert path in (None, str(tmp_path / name))


def test_viewing_a_graph_opens_its_picture(tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    viz.graph(xor_loss()).view(tmp_path / "g")
    assert opened == [(tmp_path / "g.svg").as_uri()]


@pytest.mark.parametrize("given", [Tensor([1.0]), "text"])
def test_what_is_no_picture_is_not_saved(given, tmp_path):
    with pytest.raises(TypeError, match=r"save: a (Tensor|str) is no picture; give viz.graph\(loss\)"):
        viz.save(given, tmp_path / "g.png")
    with pytest.raises(ValueError, match=r"g.gif ends in .gif; give it a name that ends in .svg, .png, .pdf or"):
        viz.save(viz.graph(xor_loss()), tmp_path / "g.gif")


def test_the_system_s_dot_comes_first_and_a_pdf_needs_it(tmp_path, monkeypatch):
    program = tmp_path / "dot"
    program.write_text("#!/bin/sh\ncat > /dev/null; echo by the system\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    viz.render(xor_loss(), tmp_path / "g.pdf")
    assert (tmp_path / "g.pdf").read_text() == "by the system\n"
    program.unlink()
    if not dot.shutil.which("dot"):
        with pytest.raises(ValueError, match=r"^render: a \.pdf needs Graphviz' own program dot, which is not"):
            viz.render(xor_loss(), tmp_path / "h.pdf")
        assert not (tmp_path / "h.pdf").exists()


def test_dot_text_needs_no_program_and_a_picture_says_which_one(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(dot.metadata, "files", lambda name: [])
    viz.render(xor_loss(), tmp_path / "g.dot")
    with pytest.raises(ValueError, match=r"^render: neither dot nor graphviz-pure is installed; pip install"):
        viz.render(xor_loss(), tmp_path / "g.svg")


def test_a_program_that_fails_is_told_and_nothing_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr(dot, "_program", lambda type_: "/bin/false")
    with pytest.raises(ValueError, match=r"^render: false could not lay the graph out: exit status 1"):
        viz.render(xor_loss(), tmp_path / "g.svg")
    assert list(tmp_path.iterdir()) == []


def test_a_type_that_does_not_exist(tmp_path):
    with pytest.raises(ValueError, match=r"g\.gif ends in \.gif; give .* ends in \.svg, \.png, \.pdf or \.dot"):
        viz.render(xor_loss(), tmp_path / "g.gif")


def test_a_folder_that_does_not_exist(tmp_path):
    for write in (viz.render, viz.write_json):
        with pytest.raises(ValueError, match=r"g\.svg: there is no folder .*no; make it first"):
            write(xor_loss(), tmp_path / "no" / "g.svg")


def test_bad_graphs_and_groups():
    with pytest.raises(ValueError, match=r"^trace: this tensor of shape \(1,\) has no graph"):
        viz.graph(Tensor([1.0]))
    loss = xor_loss()
    with pytest.raises(ValueError, match=r"^graph: there is no group 'block' to expand; there are MLP, layers\.0"):
        viz.graph(loss, expand=["block"])
    with pytest.raises(ValueError, match=r"^graph: add is not known to be composed of others; known are linear"):
        viz.graph(loss, fused=["add"])
    with pytest.raises(ValueError, match=r"^graph: depth is -1; give 0"):
        viz.graph(loss, depth=-1)
    loss.backward()
    with pytest.raises(ValueError, match=r"^trace: the graph below this result of \w+ was freed by backward"):
        viz.graph(loss)


# ---- What is written --------------------------------------------------------------------------------------------


def test_nodes_tell_what_a_person_asks(tmp_path):
    w = leaf([[1.0, 2.0]], "w")
    with viz.record():
        loss = (w * 3).softmax().sum()
        loss.backward(retain_graph=True)
    seen = texts(svg_of(loss, tmp_path))
    assert {"w", "x × 3", "softmax", "Σ x", "mul · (1, 2)", "float32 · 8 B", "value 3 6", "gradient 1"} <= set(seen)
    assert any(re.match(r"forward .*s, backward .*s", text) for text in seen)
    titles = [a.get("{http://www.w3.org/1999/xlink}title") for a in ET.parse(tmp_path / "g.svg").iter()]
    assert any("gradient: dx = g y" in title for title in titles if title)
    assert any("loss = (w * 3).softmax().sum()" in title for title in titles if title)


def test_results_have_their_names_and_transposes_their_sign(tmp_path):
    x = leaf(np.ones((2, 3)))
    product = x @ x.T
    product.name = "G"
    seen = texts(svg_of(product.reshape(1, 2, 2).transpose(-1, -2).transpose(0, 1), tmp_path))
    assert "G = x y" in seen
    assert seen.count("xᵀ") == 2
    assert "axes 0 ↔ 1" in seen


def test_edges_carry_shapes(tmp_path):
    x, w = Tensor(np.ones((2, 3)), name="x"), leaf(np.ones((3, 4)), "w")
    seen = texts(svg_of(x @ w, tmp_path))
    assert seen.count("(2, 3)") == seen.count("(3, 4)") == 2  # in the node and on the edge


def test_formulas_are_shown_when_asked_for(tmp_path):
    @autotx.lift
    def nameless(x, /):
        return x + 1, (lambda g: g,)

    seen = texts(svg_of(nameless(leaf([1.0]).tanh()), tmp_path, formulas=True))
    assert {"forward: y = tanh(x)", "backward: dx = g (1 - y^2)", "nameless(x)"} <= set(seen)
    assert not any("None" in text for text in seen)


def test_gradients_are_computed_when_asked_for_and_left_alone(tmp_path):
    w = leaf([1.0, 2.0], "w")
    seen = texts(svg_of((w * w).sum(), tmp_path, grads=True))
    assert "gradient 2 4" in seen
    assert w.grad is None
    assert "gradient 2 4" not in texts(svg_of((w * w).sum(), tmp_path))


def test_kinds_differ_in_colour_and_shape():
    looks = [look for _, look in _LOOKS.values()]
    assert len({look["shape"] + look.get("style", "") + look.get("peripheries", "") for look in looks}) == len(looks)
    assert len({look.get("fillcolor") for look in looks}) == len(looks)
    for look in looks:  # black on it can be read, also when colours are gone
        assert _brightness(look.get("fillcolor", "#ffffff")) > 0.7


def _brightness(colour):
    r, g, b = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return 0.2126 * r**2.2 + 0.7152 * g**2.2 + 0.0722 * b**2.2


def test_the_legend_has_the_kinds_that_are_there(tmp_path):
    seen = texts(svg_of(xor_loss(), tmp_path))
    assert {"Legend", "input", "parameter", "op, its result", "loss"} <= set(seen)
    assert "closed module" not in seen
    assert "Legend" not in texts(svg_of(xor_loss(), tmp_path, legend=False))


NAMES = ['a<b>"c" & d', "back\\n\\lslash", "\\N of \\G", "\\", "{a|b}", "<i>x</i>", "tab\tand\nline", "ü ∂"]


@pytest.mark.parametrize("name", NAMES)
def test_names_are_escaped(tmp_path, name):
    svg = svg_of((leaf([1.0], name) * 2).sum(), tmp_path)
    assert "".join(c if c.isprintable() else " " for c in name) in texts(svg)


def test_text_stays_inside_its_box(tmp_path):
    """By the widths of DejaVu Sans Condensed, which is wider than Arial and 0.9 times as wide as DejaVu Sans."""
    svg = svg_of(gpt_loss(), tmp_path, depth=9, values=True, grads=True)
    space = "{http://www.w3.org/2000/svg}"
    for group in svg.iter(f"{space}g"):
        if group.get("class") != "node":
            continue
        outline = [float(x) for shape in group.iter() for x in _xs(shape)]
        for text in group.iter(f"{space}text"):
            size = float(text.get("font-size"))
            font = FontProperties(family="DejaVu Sans", weight=text.get("font-weight") or "normal")
            width = 0.9 * TextPath((0, 0), text.text, size=size, prop=font).get_extents().width
            x = float(text.get("x"))
            middle = x if text.get("text-anchor") == "middle" else x + width / 2
            assert middle - width / 2 >= min(outline) - 0.5, text.text
            assert middle + width / 2 <= max(outline) + 0.5, text.text


def _xs(shape):
    if shape.tag.endswith("polygon"):
        return [p.split(",")[0] for p in shape.get("points").split()]
    if shape.tag.endswith("path"):
        return [p.split(",")[0] for p in re.findall(r"-?[\d.]+,-?[\d.]+", shape.get("d"))]
    return []


def test_nodes_do_not_overlap():
    source = viz.graph(gpt_loss(), depth=9, fused=["multi_head_attention"]).source
    plain = subprocess.run(
        [dot._program("svg"), "-Tplain"], input=source.encode(), capture_output=True, check=True
    ).stdout.decode()
    boxes = [tuple(map(float, row.split()[2:6])) for row in plain.splitlines() if row.startswith("node ")]
    assert len(boxes) > 40
    for i, (x, y, w, h) in enumerate(boxes):
        for other_x, other_y, other_w, other_h in boxes[:i]:
            assert abs(x - other_x) >= (w + other_w) / 2 - 0.01 or abs(y - other_y) >= (h + other_h) / 2 - 0.01


@pytest.mark.parametrize("depth", [2, 3, 9])
@pytest.mark.parametrize("loss", [gpt_loss, lambda: transformer_loss(3)])
def test_no_edge_crosses_the_title_of_an_open_module(loss, depth):
    laid = json.loads(dot.lay_out(viz.graph(loss(), depth=depth, max_nodes=500).source, "json"))
    curves = [op["points"] for edge in laid["edges"] for op in edge.get("_draw_", ()) if op["op"] == "b"]
    frames = [o for o in laid["objects"] if o["name"].startswith("cluster") and o["name"] != "cluster_legend"]
    titles = [op for frame in frames for op in frame["_ldraw_"] if op["op"] == "T"]
    assert len(titles) >= len(frames) > 1
    for title in titles:
        x, y = title["pt"]
        box = Bbox.from_extents(x, y - 2, x + title["width"], y + 9)
        assert not any(_bezier_path(points).intersects_bbox(box, filled=False) for points in curves), title["text"]


@pytest.mark.parametrize("loss", [gpt_loss, lambda: transformer_loss(3)])
def test_labels_of_edges_lie_on_no_node_and_on_no_other_label(loss):
    drawn = viz.graph(loss(), depth=9, fused=["multi_head_attention"], max_nodes=500)
    laid = json.loads(dot.lay_out(drawn.source, "json"))
    labels_ = [Bbox.from_extents(*titles._text(edge)) for edge in laid["edges"] if titles._text(edge)]
    nodes = [Bbox.from_extents(*_box(o)) for o in laid["objects"] if "pos" in o]
    assert len(labels_) > 40
    for i, box in enumerate(labels_):
        assert box.count_overlaps(labels_[:i] + nodes) == 0


def _box(node):
    (x, y), w, h = map(float, node["pos"].split(",")), float(node["width"]) * 72, float(node["height"]) * 72
    return x - w / 2, y - h / 2, x + w / 2, y + h / 2


def test_no_line_strikes_through_the_label_of_an_edge(tmp_path):
    svg = svg_of(leaf([1.0], "x") * 2, tmp_path)
    (edge,) = (g for g in svg.iter("{http://www.w3.org/2000/svg}g") if g.get("class") == "edge")
    shapes = [e for e in edge.iter() if e.tag.endswith(("path", "polygon", "text"))]
    assert [e.get("fill") for e in shapes[-2:]] == ["white", "#333333"], "a plate above the line, the text on it"


def test_a_matrix_stands_in_columns(tmp_path):
    svg = svg_of(leaf([[1.0, -0.25], [10.5, 3.0]], "x") * 2, tmp_path)
    places = {e.text: float(e.get("x")) for e in svg.iter("{http://www.w3.org/2000/svg}text")}
    assert places["10.5"] < places["1"] < places["−0.25"] < places["3"]


def _bezier_path(points):
    return mpl_path.Path(points, [mpl_path.Path.MOVETO] + [mpl_path.Path.CURVE4] * (len(points) - 1))


def test_formulas_are_broken_where_they_may_be():
    text = "forward: y = gamma xhat + beta with xhat = (x - m) r, r = 1 / sqrt(v + eps), m the mean"
    lines = labels.wrapped(text, 40)
    assert lines == ["forward: y = gamma xhat + beta with", "xhat = (x - m) r, r = 1 / sqrt(v + eps),", "m the mean"]


def test_numbers_are_short():
    assert labels.numbers(np.array([1.0, -0.0, 2.5], np.float32)) == ["1 0 2.5"]
    assert labels.numbers(np.zeros(0)) == ["empty"]
    assert labels.numbers(np.arange(100)) == ["0 1 2 3 4 5 6 7 8 9 10 11 12 13 1…"]
    assert labels.numbers(np.arange(200).reshape(10, 20)) == ["from 0 to 199"]
    assert labels.numbers(np.full((5, 5), np.nan))[0] == "mean nan, std nan"
    assert [labels.memory(n) for n in (999, 1500, 2e6, 3e9)] == ["999 B", "1.5 kB", "2 MB", "3 GB"]
    assert [labels.seconds(s) for s in (2e-6, 3e-3, 4)] == ["2 µs", "3 ms", "4 s"]


# ---- Fused ops, opened ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(COMPOSED))
def test_fused_ops_are_composed_of_primitives_that_give_the_same(name):
    out, grads = example(name)
    whole = trace(out)
    want = whole.gradients(grads)
    opened = trace(out)
    for node in opened.nodes:
        node.grad = want.get(node.id)
    primitives.open_fused(opened, [name])
    assert name not in [n.op for n in opened.nodes]
    assert opened.groups[-1].module == name
    last = opened.nodes[opened.root]
    np.testing.assert_allclose(last.value, out.data, rtol=1e-5)
    assert all(a.node < n.id for n in opened.nodes for a in n.parents)
    assert all(n.grad is None or n.grad.shape == n.shape for n in opened.nodes)


HIDDEN = np.array([[False, False], [True, False]])  # the first token may look at nothing
FAR = [[1e4, -1e4, 0.0], [-200.0, 200.0, 3.0]]


@pytest.mark.parametrize(
    "op",
    [
        lambda x: autotx.softmax(x),
        lambda x: autotx.log_softmax(x),
        lambda x: autotx.gelu(x),
        lambda x: autotx.cross_entropy(x, [0, 1]),
        lambda x: autotx.cross_entropy(x + np.array([0, -np.inf, 0]), [0, 2], label_smoothing=0.0),
        lambda x: autotx.binary_cross_entropy_with_logits(x, np.ones((2, 3)), pos_weight=2.0),
        lambda x: autotx.binary_cross_entropy_with_logits(x, np.zeros((2, 3))),
        lambda x: autotx.scaled_dot_product_attention(x, x, x, mask=HIDDEN),
    ],
)
def test_opened_ops_have_no_nan_where_the_whole_one_has_none(op):
    x = leaf(FAR)
    out = op(x)
    opened = trace(out)
    for i, gradient in opened.gradients(np.ones(out.shape)).items():
        opened.nodes[i].grad = gradient
    primitives.open_fused(opened, list(COMPOSED))
    for node in opened.nodes:
        assert not np.isnan(node.value).any(), node.op
        assert node.grad is None or np.isfinite(node.grad).all(), node.op
    np.testing.assert_allclose(opened.nodes[opened.root].value, out.data)


def test_an_index_of_none_and_other_settings_that_are_none_are_drawn():
    x = leaf(np.ones((2, 3)))
    for index, text in ((None, "x[None]"), ((None, ...), "x[None, ...]"), ((slice(1), None), "x[:1, None]")):
        assert text in viz.graph(x[index]).source
        assert viz.graph_json(x[index])["nodes"][-1]["math"] == text


def test_control_characters_in_names_are_drawn_as_spaces():
    svg = viz.graph(leaf([1.0], name="a\rb\0c\x1bd\ne") * 2).pipe("svg", encoding="utf-8")
    assert "a b c d e" in " ".join(ET.fromstring(svg).itertext())


def test_an_example_is_the_same_at_every_call():
    for name in OPS:
        np.testing.assert_array_equal(example(name)[0].data, example(name)[0].data)


def test_an_op_that_cannot_be_opened_truly_stays_whole():
    q, k, v = (leaf(np.random.default_rng(i).normal(size=(3, 4))) for i in range(3))
    out = autotx.scaled_dot_product_attention(q, k, v, dropout_p=0.5, rng=np.random.default_rng(0))
    t = trace(out)
    primitives.open_fused(t, ["scaled_dot_product_attention"])
    assert t.nodes[-1].op == "scaled_dot_product_attention"


def test_opened_ops_inside_of_modules(tmp_path):
    words, _ = shown(gpt_loss(1, rng=np.random.default_rng(0)), depth=9)
    assert "layer_norm" in words
    loss = gpt_loss(1, rng=np.random.default_rng(0))
    seen = texts(svg_of(loss, tmp_path, fused=["layer_norm"], depth=9, max_nodes=200))
    assert seen.count("layer norm") == 3
    assert seen.count("√x") == 3


def test_what_an_opened_op_is_made_of_is_opened_too():
    """Many heads are reshapes around an attention, and that is made of others; a mask stays one node."""
    rng = np.random.default_rng(0)
    x, kv, mask = leaf(rng.normal(size=(2, 3, 4))), leaf(rng.normal(size=(2, 2, 8))), rng.random((3, 2)) < 0.5

    def opened(*fused):
        t = trace(autotx.multi_head_attention(x, kv, n_head=2, mask=mask))
        primitives.open_fused(t, fused)
        return [node.op or node.name for node in t.nodes]

    heads = opened("multi_head_attention")
    assert heads.count("scaled_dot_product_attention") == heads.count("mask") == 1
    assert {"reshape", "getitem", "transpose"} < set(heads)
    whole = opened("softmax", "scaled_dot_product_attention", "multi_head_attention")
    assert whole.count("reshape") == heads.count("reshape") == 3
    assert {"matmul", "masked_fill", "exp"} < set(whole)
    assert not {"softmax", "scaled_dot_product_attention", "multi_head_attention"} & set(whole)


def test_the_error_function():
    assert autotx.gradcheck(erf, Tensor([-1.0, 0.0, 0.5, 2.0], requires_grad=True, dtype=np.float64))


# ---- JSON -------------------------------------------------------------------------------------------------------


def test_json_has_nodes_edges_groups_and_shapes(tmp_path):
    loss = gpt_loss(rng=np.random.default_rng(0))
    viz.write_json(loss, tmp_path / "g.json", grads=True)
    read = json.loads((tmp_path / "g.json").read_text())
    t = trace(loss)
    assert [n["op"] for n in read["nodes"]] == [n.op for n in t.nodes]
    assert [tuple(n["shape"]) for n in read["nodes"]] == [n.shape for n in t.nodes]
    assert len(read["edges"]) == sum(len(n.parents) for n in t.nodes)
    same = {g["path"]: g["same_as"] for g in read["groups"]}
    assert same["blocks.0"] is None
    assert same["blocks.2"] == [g.path for g in t.groups].index("blocks.0")
    last = read["nodes"][read["root"]]
    assert last["math"] == "−Σ y ln softmax"
    assert last["value"]["numbers"] == pytest.approx(loss.item())
    assert last["grad"]["numbers"] == 1


def test_json_without_numbers_that_json_lacks():
    x = leaf([1.0, np.inf, np.nan])
    read = json.loads(json.dumps(viz.graph_json(x * 1.0), allow_nan=False))
    assert read["nodes"][0]["value"]["numbers"] == [1, None, None]


# ---- The command ------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _inside(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def refused(capsys, *argv):
    """The one line on stderr of a command that fails with status 2."""
    assert main(["graph", *argv]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    return said


def test_the_command_draws_the_xor_network(capsys):
    assert main(["graph", "--model", "mlp", "--json", "g.json"]) == 0
    assert capsys.readouterr().out == "Drawn to graph.svg\nNodes, edges and groups are in g.json\n"
    assert "layers.0.weight" in Path("graph.svg").read_text()
    assert json.loads(Path("g.json").read_text())["groups"][1]["path"] == "MLP"


@pytest.mark.parametrize("name", sorted(n for n, f in vars(autotx).items() if hasattr(f, "op")))
def test_the_command_draws_every_op(name):
    assert main(["graph", "--op", name, "--out", "op.dot"]) == 0
    drawn = Path("op.dot").read_text()
    assert labels.escaped(labels.op_title(name)) in drawn or name in ("exp", "tanh", "abs")
    assert "gradient" in drawn


def test_the_command_draws_an_op_opened(capsys):
    assert main(["graph", "--op", "layer_norm", "--fused", "layer_norm", "--out", "op.dot"]) == 0
    assert "√x" in Path("op.dot").read_text()


@pytest.mark.slow
def test_the_command_draws_a_trained_model(capsys):
    Path("t.txt").write_text("to be or not to be " * 50)
    settings = "--text t.txt --out run --steps 1 --n-layer 2 --n-embd 8 --n-head 2 --block-size 8 --batch-size 2"
    assert main(["train", *settings.split()]) == 0
    assert main(["graph", "--model", "run", "--values", "--grads", "--expand", "blocks.0", "--out", "g.svg"]) == 0
    assert "blocks.0.attn" in Path("g.svg").read_text()


def test_the_command_refuses_in_one_line(capsys):
    assert "--op layernorm: there is no such op; there are abs, add," in refused(capsys, "--op", "layernorm")
    assert "there is no group 'b' to expand; there are MLP, lay" in refused(capsys, "--model", "mlp", "--expand", "b")
    assert "g.gif ends in .gif; give it a name that" in refused(capsys, "--model", "mlp", "--out", "g.gif")
    for flag in ("--out", "--json"):
        assert "no/g.svg: there is no folder no; make it" in refused(capsys, "--model", "mlp", flag, "no/g.svg")
    assert "--model nowhere: there is no such folder; give gpt" in refused(capsys, "--model", "nowhere")
    assert "autotx graph: max_nodes is 1; give 3" in refused(capsys, "--model", "mlp", "--max-nodes", "1")
    assert list(Path().iterdir()) == []


def test_one_has_no_plural():
    assert [counted(n, "layer") for n in (0, 1, 2, 1024)] == ["0 layers", "1 layer", "2 layers", "1,024 layers"]
