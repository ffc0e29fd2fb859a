"""The size of activations and gradients in every layer during training, which shows whether they vanish or explode.

    statistics = viz.LayerStatistics(model, every=10)
    for step in range(1000):
        with statistics.step(step):  # around forward and backward, before optimizer.step()
            loss = model(...)
            loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    figure, axes = viz.layer_statistics(statistics.records)

The records can be stored as JSON and drawn later.
"""

import contextlib
import math

import numpy as np

from autotx.nn import Module
from autotx.tensor import Tensor
from autotx.viz import style
from autotx.viz.backend import matplotlib
from autotx.viz.modules import wrapped

MOST_LAYERS = 160  # more rows would not be legible


class LayerStatistics:
    """Measures the layers of a model, the modules that hold parameters themselves, in steps divisible by `every`.

    records: a list of {"step": int, "activations": {layer: number}, "gradients": {layer: number}}. A number is the root
    mean square of the layer's last result, or of the gradients of its parameters.
    ValueError: `every` is not a positive int, or the model has no parameters.
    """

    def __init__(self, model: Module, every: int = 1):
        if not isinstance(every, int) or every < 1:
            raise ValueError(f"LayerStatistics: every is {every!r}; give a whole number, 1 or more")
        self.every, self.records = every, list[dict]()
        self.layers = {name or "model": m for name, m in model.named_modules() if _own(m)}
        if not self.layers:
            raise ValueError(f"LayerStatistics: {type(model).__name__} has no parameters")

    @contextlib.contextmanager
    def step(self, step: int):
        """`with statistics.step(step):` around the forward and backward pass of this step, an int."""
        if step % self.every:
            yield
            return
        sizes = {}

        def wrap(name, forward):
            def measured(*args, **settings):
                out = forward(*args, **settings)
                if isinstance(out, Tensor):
                    sizes[name] = _size([out.data])
                return out

            return measured

        with wrapped(self.layers, wrap):
            yield
        gradients = {name: [p.grad for p in _own(m) if p.grad is not None] for name, m in self.layers.items()}
        gradients = {name: _size(arrays) for name, arrays in gradients.items() if arrays}
        self.records.append({"step": step, "activations": sizes, "gradients": gradients})


def _own(module):
    """The parameters that a module holds itself, without those of its submodules."""
    return [value for value in vars(module).values() if isinstance(value, Tensor) and value.requires_grad]


def _size(arrays):
    """The root mean square of all numbers in some arrays; not finite if one of them is not."""
    with np.errstate(all="ignore"):
        total = sum(float(np.square(a, dtype=np.float64).sum()) for a in arrays)
        return float(np.sqrt(total / max(sum(a.size for a in arrays), 1)))


def layer_statistics(records: list[dict], title: str = "Activations and gradients of every layer",
                     dark: bool = False) -> style.Picture[np.ndarray]:  # fmt: skip
    """Draw the records of LayerStatistics for activations and gradients: a row per layer, a column per record.

    The background colour is the median of all layers and steps; blue is smaller, orange larger, on a log scale. Exact
    zeros, NaN and Inf are hatched; grey is a layer without a number, such as one whose parameters another layer uses.
    Returns a Picture, (Figure, array (2,) of Axes). ValueError: no records, no layer was called, or there are more than
    MOST_LAYERS layers.
    """
    if not records:
        raise ValueError("layer_statistics: there are no records; run some steps inside LayerStatistics.step first")
    layers = list(dict.fromkeys(name for r in records for name in (*r["gradients"], *r["activations"])))
    if not layers:
        raise ValueError("layer_statistics: no layer was called in these steps; call the model inside `with step(i):`")
    if len(layers) > MOST_LAYERS:
        raise ValueError(f"layer_statistics: {len(layers)} layers are too many for a picture, at most {MOST_LAYERS}")
    with style.look(dark) as look:
        figure = style.figure(10.5, 1.9 + 0.17 * max(len(layers), 6), layout="constrained")
        axes = figure.subplots(1, 2, sharey=True)
        shown = set()
        for panel, kind in zip(axes, ("activations", "gradients")):
            table = np.array([[r[kind].get(name, np.nan) for r in records] for name in layers], float)
            absent = np.array([[name not in r[kind] for r in records] for name in layers])
            shown |= _heat(figure, panel, table, absent, [r["step"] for r in records], look)
        names = [style.label(name, 40, plain=True, ending=True) for name in layers]
        axes[0].set_yticks(range(len(layers)), names, fontsize=8)
        axes[0].set_title("Activations: size of what the layer returns")
        axes[1].set_title("Gradients: size of the parameters' gradient")
        figure.suptitle(style.label(title, 90, plain=True), x=0.01, ha="left")
        handles = [matplotlib().patches.Patch(**_hatch(k, look), label=k) for k in _HATCHES if k in shown]
        figure.legend(handles=handles, loc="outside lower right", ncols=3, fontsize=8)
    return style.Picture(figure, axes)


_HATCHES = {"exactly zero": "....", "NaN or Inf": "xxxx", "not called by itself": ""}


def _hatch(kind, look):
    return {"hatch": _HATCHES[kind], "facecolor": look.grey, "edgecolor": look.hatch, "linewidth": 0}


def _heat(figure, axes, table, absent, steps, look):
    """Draw the logarithms of a table as a heat map around their median. Returns the set of kinds of marked cells."""
    usable = np.isfinite(table) & (table > 0)
    logs = np.log10(np.where(usable, table, 1))
    middle = float(np.median(logs[usable])) if usable.any() else 0.0
    reach = max(1.0, float(np.abs(logs[usable] - middle).max())) if usable.any() else 1.0
    settings = {"cmap": style.blend(look.diverging), "vmin": middle - reach, "vmax": middle + reach}
    image = axes.imshow(np.ma.masked_where(~usable, logs), **settings, aspect="auto", interpolation="nearest")
    hatched = dict(zip(_HATCHES, (table == 0, ~np.isfinite(table) & ~absent, absent)))
    for kind, cells in hatched.items():
        axes.add_collection(style.cells(cells, **_hatch(kind, look)))
    at = np.arange(0, len(steps), math.ceil(len(steps) / 6))
    axes.set_xticks(at, [str(steps[i]) for i in at])
    axes.set_xlabel("step")
    axes.tick_params(length=2)
    bar = figure.colorbar(image, ax=axes, location="bottom", shrink=0.9, aspect=40)
    ticker = matplotlib().ticker
    bar.locator = ticker.MultipleLocator(max(1, round(reach / 3)))
    bar.formatter = ticker.FuncFormatter(lambda x, _: f"{10**x:g}")
    bar.set_label("root mean square")
    bar.outline.set_visible(False)
    return {kind for kind, cells in hatched.items() if cells.any()}
