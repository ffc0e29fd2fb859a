"""The pictures that the paper shows or describes, drawn by matplotlib from numbers that the engine computes.

Each function returns a matplotlib Figure. `as_svg` turns it into an element of an HTML page, without a background and
with text and axes in the colour of the page's text, so that it is legible in light and dark mode.
"""

import functools
import io
import re

import numpy as np

from autotx import no_grad
from autotx.models.paper import timing, trained
from autotx.models.paper.constants import PE, W_K, W_Q, WEIGHTS, X
from autotx.models.paper.networks import xor_by_relu, xor_by_sigmoid
from autotx.models.paper.steps import attention_weights, causal, linear, position_encoding, tensor
from autotx.viz.backend import matplotlib

BLUE, ORANGE, GREEN, RED = "#4c8ed9", "#e08a3c", "#4fae72", "#d9574f"
INK = "#123456"  # a placeholder, which as_svg replaces by the colour of the page's text
WORDS = ("You", "are", "welcome")
STYLE = dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK)
STYLE |= {"font.size": 9.5, "axes.titlesize": 10.5, "axes.spines.top": False, "axes.spines.right": False}


def drawn(draw):
    """Decorator: runs the function with STYLE as matplotlib's settings."""

    @functools.wraps(draw)
    def styled():
        with matplotlib().rc_context(STYLE):
            return draw()

    return styled


def _figure(columns, width=9.0, height=3.4):
    """A Figure with axes side by side, and a list of these axes."""
    mpl = matplotlib()
    figure = mpl.figure.Figure(figsize=(width, height), layout="constrained")
    mpl.backends.backend_svg.FigureCanvasSVG(figure)
    return figure, [figure.add_subplot(1, columns, i + 1) for i in range(columns)]


def as_svg(figure):
    """The Figure as an <svg> element, a str."""
    buffer = io.BytesIO()
    with matplotlib().rc_context({"svg.fonttype": "path", "svg.hashsalt": "autotx"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue().decode()
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg, flags=re.S)
    return re.sub(r'width="[\d.]+pt" height="[\d.]+pt"', 'class="picture" role="img"', svg, count=1)


@drawn
def positions():
    """Position encodings as a heat map; the example's three rows as printed, and by the formulas."""
    figure, (map_axes, printed_axes, right_axes) = _figure(3, width=10.5)
    image = map_axes.imshow(position_encoding(60, 64).data, cmap="RdBu", vmin=-1, vmax=1, aspect="auto")
    map_axes.set(title="60 positions, $d$ = 64", xlabel="column", ylabel="position")
    figure.colorbar(image, ax=map_axes, shrink=0.9)
    for axes, title, values in (
        (printed_axes, "Printed for $d$ = 4", PE.values),
        (right_axes, "By the formulas", position_encoding(3, 4).data),
    ):
        _matrix(axes, values, "RdBu", -1, 1, "{:.4f}")
        axes.set(title=title, xlabel="column", ylabel="position")
    return figure


def _matrix(axes, values, colours, low, high, form):
    """Draw a small matrix as coloured squares with their numbers."""
    axes.imshow(values, cmap=colours, vmin=low, vmax=high, aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        strong = value > 0.55 or value < -0.55  # the square is dark there
        axes.text(column, row, form.format(value), ha="center", va="center", color="white" if strong else "#222222")
    axes.set(xticks=range(values.shape[1]), yticks=range(values.shape[0]))


@drawn
def attention():
    """The weights of "You are welcome": printed, with a causal mask, and with the positions of the formulas."""
    figure, panels = _figure(3, width=10.5)
    x = tensor(X) + position_encoding(3, 4)
    q, k = linear(W_Q)(x), linear(W_K)(x)
    shown = (
        ("As printed, and computed", WEIGHTS.values),
        ("With the formulas' positions", attention_weights(q, k).data),
        ("The same, causal mask", attention_weights(q, k, mask=causal(3)).data),
    )
    for axes, (title, weights) in zip(panels, shown):
        _matrix(axes, weights, "Blues", 0, 1, "{:.3f}")
        axes.set(title=title, xlabel="attends to")
        axes.set_xticks(range(3), WORDS)
        axes.set_yticks(range(3), WORDS)
    panels[0].set_ylabel("word")
    return figure


@drawn
def sine():
    """sin(x) fitted by a line and by the 10-10-1 network, as in the paper's plot."""
    figure, panels = _figure(2, height=3.6)
    x, y, line, network, steps = trained.sine_fits()
    fits = (("Linear model", line, RED), (f"Network 10-10-1, {steps:,} steps of Adam", network, GREEN))
    for axes, (title, fit, colour) in zip(panels, fits):
        axes.scatter(x, y, s=14, color=BLUE, label="sin(x)", alpha=0.8)
        axes.plot(x, fit, color=colour, linewidth=2.2, label=f"fit, squared error {np.mean((fit - y) ** 2):.3f}")
        axes.set(title=title, xlabel="x", ylim=(-1.5, 1.9))
        axes.legend(loc="upper center", ncols=2, frameon=False)
    return figure


def _corners(axes):
    """Draw the four points of XOR, white for 0 and black for 1, as in the paper's plot."""
    colours = ["white" if output == 0 else "black" for output in trained.XOR_OUTPUTS]
    axes.scatter(*trained.XOR_INPUTS.T, s=110, c=colours, edgecolors="#888888", linewidth=1.5, zorder=3)
    axes.set(xlabel="$x_1$", ylabel="$x_2$", xticks=(0, 0.5, 1), yticks=(0, 0.5, 1))


@drawn
def xor_points():
    """The four points of XOR, and the answers of the best linear regression."""
    figure, (axes, regression) = _figure(2, width=7.2, height=3.4)
    _corners(axes)
    axes.set(title="XOR: white 0, black 1", xlim=(-0.1, 1.1), ylim=(-0.1, 1.1), aspect="equal")
    axes.grid(linestyle="--", linewidth=0.5, alpha=0.6)
    answers = trained.xor_regression()
    names = ["".join(f"{v:.0f}" for v in row) for row in trained.XOR_INPUTS]
    regression.bar(names, answers, color=RED, width=0.55, label="its answer")
    regression.plot(names, trained.XOR_OUTPUTS, "o", color=BLUE, label="XOR")
    regression.set(title="The best linear regression", ylim=(-0.05, 1.45), yticks=(0, 0.5, 1), xlabel="$x_1 x_2$")
    regression.legend(frameon=False, loc="upper center", ncols=2)  # above all points: its marker is not a data point
    return figure


@drawn
def xor_networks():
    """The outputs of three networks on the unit square: sigmoid and ReLU with given weights, tanh with learned ones."""
    figure, panels = _figure(4, width=12, height=3.1)
    network, losses = trained.xor_network()
    grid = np.linspace(-0.1, 1.1, 121)
    square = np.stack(np.meshgrid(grid, grid), axis=-1)
    with no_grad():
        shown = (
            ("Sigmoid, weights given", xor_by_sigmoid(square)[1].data),
            ("ReLU, weights given (up to 0.5)", xor_by_relu(square)[1].data),
            ("tanh, learned", network(square)[..., 0].sigmoid().data),
        )
    for axes, (title, heights) in zip(panels, shown):
        axes.imshow(heights, origin="lower", extent=(-0.1, 1.1, -0.1, 1.1), cmap="coolwarm", vmin=0, vmax=1, alpha=0.85)
        _corners(axes)
        axes.set(title=title, aspect="equal")
    panels[3].semilogy(losses, color=GREEN, linewidth=2)
    panels[3].set(title="Learning from random weights", xlabel="step", ylabel="cross entropy")
    panels[3].grid(alpha=0.3)
    return figure


@drawn
def word_trainer():
    """The probabilities of mat, hat, bat and rat over the script's 2,000 steps."""
    figure, (axes,) = _figure(1, width=8)
    before, _, final = trained.word_trainer()
    styles = (("mat", BLUE, "-"), ("hat", ORANGE, "-"), ("bat", GREEN, "--"), ("rat", RED, "-"))
    for word, (name, colour, style) in enumerate(styles):
        axes.plot(before[:, word], style, color=colour, linewidth=2, label=f"{name}  {final[word]:.8f}")
    axes.set(title="The cat sat on the …", xlabel="step", ylabel="probability", ylim=(0, 1))
    axes.legend(title="after 2,000 steps", frameon=False, loc="center right")
    axes.grid(alpha=0.3)
    return figure


@drawn
def complexity():
    """Measured time against tokens, layers and width, with fitted exponents, and the slope that the paper claims."""
    figure, panels = _figure(3, width=11, height=3.6)
    for axes, sweep in zip(panels, timing.sweeps()):
        power = {"n": 2, "l": 1, "d": 1}[sweep.letter]
        sizes = np.array(sweep.fitted_sizes, dtype=float)
        slope = 1e3 * sweep.times["whole model"][-1] * (sizes / sizes[-1]) ** power
        axes.loglog(sizes, slope, "--", color="#999999", label=f"paper: ${sweep.letter}^{power}$")
        for (label, times), colour in zip(sweep.times.items(), (BLUE, ORANGE)):
            exponent, fit = timing.fitted(sweep.sizes, times)
            axes.loglog(sweep.sizes, np.multiply(times, 1e3), "o", color=colour)
            name = f"{label}: ${sweep.letter}^{{{exponent:.2f}}}$"
            axes.loglog(sweep.fitted_sizes, fit * 1e3, "-", color=colour, label=name)
        axes.set(title=sweep.title, xlabel=sweep.letter)
        axes.set_xticks(sweep.sizes, [str(s) for s in sweep.sizes])
        axes.minorticks_off()
        axes.yaxis.set_major_locator(matplotlib().ticker.LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, loc="upper left")
    panels[0].set_ylabel("milliseconds of one core")
    return figure
