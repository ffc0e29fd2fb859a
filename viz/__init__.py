"""Pictures of recorded graphs, training runs, attention weights and embeddings."""

from autotx.viz.attention import AttentionMap, attention, attention_maps
from autotx.viz.choices import choices
from autotx.viz.curves import curves
from autotx.viz.embeddings import embeddings
from autotx.viz.graph import graph, graph_json, render, show_graphs, write_json
from autotx.viz.lens import lens, lens_page
from autotx.viz.page import Page, page
from autotx.viz.patching import patching
from autotx.viz.positions import positions
from autotx.viz.saving import save
from autotx.viz.shares import shares
from autotx.viz.statistics import LayerStatistics, layer_statistics
from autotx.viz.steps import step_times
from autotx.viz.style import Picture
from autotx.viz.trace import Trace, record, trace

__all__ = [
    "AttentionMap", "LayerStatistics", "Page", "Picture", "Trace", "attention", "attention_maps", "choices",
    "curves", "embeddings", "graph", "graph_json", "layer_statistics", "lens", "lens_page", "page", "patching",
    "positions", "record", "render", "save", "shares", "show_graphs", "step_times", "trace", "write_json",
]  # fmt: skip
