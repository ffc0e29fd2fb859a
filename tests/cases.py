"""The table: for every op, the arguments it is checked with. A new op needs an entry in CASES, or test_ops.py names it.

`on(x, y, axis=1)` is one case: the op called with these arrays (each becomes a float64 Tensor that requires a gradient)
and these settings. Numbers and None stay as they are. `transposed`, `reversed_` and `every_other` give the op a
view: the leaf is the array, what reaches the op has other strides. A setting `rng=7` becomes a fresh generator with
that seed at every call. Places where a derivative is a convention (ties, kinks) are in CONVENTIONS of test_ops.py.
"""

import numpy as np

_rng = np.random.default_rng(2)


class View:
    """An array, and the view of it that reaches the op."""

    def __init__(self, array, take):
        self.array, self.take = array, take


class Case:
    """Arguments and settings of one call. length: how many numbers are summed up, scales the tolerance in float32."""

    def __init__(self, *args, gradcheck=True, torch=True, length=1, **settings):
        self.gradcheck, self.torch, self.length, self.settings = gradcheck, torch, length, settings
        self.args = [a if isinstance(a, View) else View(a, lambda x: x) for a in args]

    def leaves(self, make):
        """The arguments, arrays made into Tensors (or torch's) by `make`."""
        return [make(a.array) if isinstance(a.array, np.ndarray) else a.array for a in self.args]

    def call(self, op, leaves):
        settings = dict(self.settings)
        if "rng" in settings:
            settings["rng"] = np.random.default_rng(settings["rng"])
        return op(*(a.take(leaf) for a, leaf in zip(self.args, leaves)), **settings)

    def __repr__(self):
        args = [
            "x".join(map(str, a.array.shape)) or "0d" if isinstance(a.array, np.ndarray) else str(a.array)
            for a in self.args
        ]
        settings = [k if "array" in repr(v) else f"{k}={v}" for k, v in self.settings.items()]
        return ", ".join(args + settings).replace("slice(None, None, None)", ":")


on = Case


def big(*args, **settings):
    """A case large enough for the compiled kernels, so too large for finite differences."""
    return Case(*args, gradcheck=False, **settings)


def transposed(array):
    return View(array, _axes_reversed)


def _axes_reversed(x):
    """The axes in reverse order (for which torch's .T is not meant where there are more than two)."""
    return x.permute(*range(x.ndim)[::-1]) if hasattr(x, "permute") else x.T


def reversed_(array):
    return View(array, _backwards)


def _backwards(x):
    """All axes reversed: negative strides (which torch alone does not have)."""
    return x.flip(tuple(range(x.ndim))) if hasattr(x, "flip") else x[(slice(None, None, -1),) * x.ndim]


def every_other(array):
    return View(array, lambda x: x[::2])


# What the arrays hold


def r(*shape):
    """Normal numbers."""
    return np.asarray(_rng.normal(size=shape))


def pos(*shape):
    """Between 0.5 and 2."""
    return np.asarray(_rng.uniform(0.5, 2, size=shape))


def away(*shape):
    """Of both signs, at least 0.5 away from 0."""
    return np.asarray(pos(*shape) * _rng.choice([-1, 1], size=shape))


def apart(*shape):
    """No two alike, none at 0: finite differences do not step over a kink."""
    n = int(np.prod(shape))
    return np.reshape(0.3 * _rng.permutation(np.arange(n) - n // 2) + 0.1, shape)


def prob(*shape):
    """Between 0 and 1."""
    return np.asarray(_rng.uniform(0.05, 0.95, size=shape))


def ints(high, *shape):
    return _rng.integers(0, high, size=shape)


def mask(*shape):
    """About half True, the first of each row True, so that no row is empty."""
    m = _rng.random(shape) < 0.5
    m[..., 0] = True
    return m


def unary(draw):
    views = [on(transposed(draw(4, 3))), on(reversed_(draw(2, 3))), on(every_other(draw(5, 2)))]
    return [on(draw(*shape)) for shape in [(), (1,), (0,), (5,), (3, 4), (2, 3, 2), (3, 0, 2)]] + views


def binary(x, y, number):
    shapes = [
        ((3, 4), (3, 4)),
        ((3, 4), (4,)),
        ((4,), (3, 4)),
        ((3, 1), (1, 4)),
        ((2, 1, 3), (4, 1)),
        ((), (3, 2)),
        ((3, 2), ()),
        ((), ()),
    ]
    sizes = [((0,), (1,)), ((2, 0), (0,)), ((1,), (1, 1)), ((1, 1), (3,))]
    mixed = [
        on(transposed(x(4, 3)), reversed_(y(3, 4))),
        on(every_other(x(5)), y(3)),
        on(x(3, 2), number),
        on(number, y(3, 2)),
    ]
    return [on(x(*a), y(*b)) for a, b in shapes + sizes] + mixed


def reduction(draw, empty=True):
    axes = [None, 0, 1, -1, (0, 2), (-1, 0), (0, 1, 2)]
    wholes = [on(draw(), torch=False), on(draw(1)), on(draw(4)), on(draw(3, 4), axis=()) if empty else on(draw(2, 2))]
    views = [
        on(transposed(draw(3, 4)), axis=0),
        on(reversed_(draw(3, 4)), axis=1),
        on(every_other(draw(5, 2)), axis=-1, keepdims=True),
    ]
    sizes = [on(draw(0)), on(draw(2, 0), axis=1), on(draw(2, 0), axis=0)] if empty else [on(draw(2, 0), axis=0)]
    return (
        [on(draw(2, 3, 2), axis=axis) for axis in axes]
        + [on(draw(2, 3, 2), axis=axis, keepdims=True) for axis in (None, 1, (0, 2))]
        + [*wholes, *views, *sizes, on(draw(1, 3), axis=0)]
    )


def shifted(draw):
    return lambda *shape: np.asarray(draw(*shape) + 0.1)


ROWS = [
    on(r(5)),
    on(r(1)),
    on(r(3, 4)),
    on(r(2, 3, 4)),
    on(r(3, 1)),
    on(r(2, 0)),
    on(r(0, 3)),
    on(transposed(r(4, 3))),
    on(reversed_(r(3, 4))),
]
AXES = [
    on(r(3, 4), axis=0),
    on(r(2, 3, 2), axis=1),
    on(r(2, 3, 2), axis=-2),
    on(every_other(r(5, 3)), axis=0),
    on(r(3, 4) + 800.0),
]
FLAT = [
    on(r(4, 5), targets=ints(5, 4)),
    on(r(2, 3, 4), targets=ints(4, 2, 3)),
    on(r(4), targets=np.int64(2)),
    on(r(3, 1), targets=ints(1, 3)),
]
LOSS = [on(r(4, 5), targets=ints(5, 4), reduction=way) for way in ("sum", "none")]
SKIP = [
    on(r(4, 5), targets=np.array([1, -1, 0, -1]), ignore_index=-1),
    on(r(4, 5), targets=np.array([1, 2, 0, 2]), ignore_index=2, reduction="none"),
]
PAIR = [on(r(3, 4), prob(3, 4), reduction=way) for way in ("mean", "sum", "none")]
PAIRS = [
    on(r(), prob()),
    on(r(1), prob(1)),
    on(r(2, 1, 3), prob(2, 1, 3)),
    on(r(0), prob(0), reduction="sum"),
    on(transposed(r(4, 3)), reversed_(prob(3, 4))),
]

CASES = {
    "add": binary(r, r, 2.0),
    "sub": binary(r, r, 2.0),
    "mul": binary(r, r, 2.0),
    "div": binary(r, away, 2.0),
    "pow": [
        *binary(pos, r, 2.0),
        on(r(3, 4), 2),
        on(r(3, 4), 3.0),
        on(away(3, 4), -1),
        on(r(3), 1),
        on(r(3), 0),
        on(pos(3), 0.5),
        on(-pos(3), 3),
    ],
    "neg": unary(r),
    "exp": unary(r),
    "log": unary(pos),
    "sqrt": unary(pos),
    "tanh": unary(r),
    "sigmoid": [*unary(r), on(40 * r(6))],
    "relu": unary(apart),
    "abs": unary(apart),
    "gelu": [
        *unary(r),
        on(r(3, 4), approximate="tanh"),
        on(transposed(r(3, 2)), approximate="tanh"),
        on(r(), approximate="tanh"),
        on(5 * r(9)),
        big(r(70, 130)),
        big(r(70, 130), approximate="tanh"),
    ],
    "maximum": binary(apart, shifted(apart), 0.25),
    "minimum": binary(apart, shifted(apart), 0.25),
    "where": [
        on(*case.args, condition=c)
        for case, c in zip(
            binary(r, r, 2.0)[:14],
            [
                mask(3, 4),
                mask(3, 1),
                mask(4),
                mask(3, 4),
                mask(2, 4, 3),
                mask(3, 2),
                mask(1, 2),
                mask(1)[0],
                mask(1),
                mask(2, 1),
                mask(1),
                mask(3),
                mask(3, 4),
                mask(3),
            ],
        )
    ],
    "clip": [
        *(on(*case.args, min=-0.25, max=0.75) for case in unary(apart)),
        on(apart(3, 4), min=-0.25),
        on(apart(3, 4), max=0.75),
        on(apart(3, 4), -0.25, 0.75),
    ],
    "masked_fill": [
        on(r(3, 4), mask=mask(3, 4), value=9.0),
        on(r(3, 4), mask=mask(4), value=-1e9),
        on(r(2, 3, 4), mask=mask(3, 1), value=0),
        on(r(), mask=np.array(True), value=1.5),
        on(r(), mask=np.array(False), value=1.5),
        on(r(0), mask=np.zeros(0, bool), value=1.0),
        on(r(1), mask=np.array([False]), value=1.0),
        on(transposed(r(4, 3)), mask=mask(3, 4), value=-2.0),
        on(reversed_(r(3, 4)), mask=mask(3, 4), value=2.0),
    ],
    "sum": [*reduction(r), big(r(300, 70), axis=0, length=10)],
    "mean": [*reduction(r, empty=False), big(r(300, 70), axis=0)],
    "var": [
        *reduction(r, empty=False),
        on(r(3, 4), axis=1, correction=1),
        on(r(5), correction=1),
        on(r(3, 4), axis=0, correction=1, keepdims=True),
        on(r(3, 4) + 100),
    ],
    "max": reduction(apart, empty=False),
    "min": reduction(apart, empty=False),
    "logsumexp": [*reduction(r, empty=False), on(r(3, 4) + 800.0, axis=1)],
    "cumsum": [
        on(r(4), axis=0),
        on(r(1), axis=0),
        on(r(0), axis=0),
        on(r(3, 4), axis=0),
        on(r(3, 4), axis=1),
        on(r(2, 3, 2), axis=-2),
        on(r(2, 0, 3), axis=1),
        on(transposed(r(4, 3)), axis=1),
        on(reversed_(r(3, 4)), axis=0),
        on(every_other(r(5, 2)), axis=-1),
    ],
    "reshape": [
        on(r(3, 4), shape=(4, 3)),
        on(r(3, 4), shape=(2, -1)),
        on(r(3, 4), shape=-1),
        on(r(1), shape=()),
        on(r(), shape=(1, 1)),
        on(r(2, 0), shape=(0, 3)),
        on(r(2, 3, 4), shape=(6, 4)),
        on(transposed(r(4, 3)), shape=(12,)),
        on(reversed_(r(3, 4)), shape=(2, 6)),
    ],
    "permute": [
        on(r(2, 3, 4), axes=(2, 0, 1)),
        on(r(2, 3, 4), axes=(-1, -3, -2)),
        on(r(2, 3, 4), axes=(0, 1, 2)),
        on(r(3, 4), axes=(1, 0)),
        on(r(3), axes=(0,)),
        on(r(), axes=()),
        on(r(2, 0, 3), axes=(1, 2, 0)),
        on(r(1, 1, 2), axes=(2, 1, 0)),
        on(transposed(r(2, 3)), axes=(1, 0)),
        on(reversed_(r(2, 1, 3)), axes=(1, 2, 0)),
    ],
    "transpose": [
        on(r(3, 4), 0, 1),
        on(r(2, 3, 4), axis0=-1, axis1=-2),
        on(r(2, 3, 4), axis0=0, axis1=2),
        on(r(2, 3), axis0=1, axis1=1),
        on(r(1, 3), axis0=0, axis1=1),
        on(r(2, 0), axis0=0, axis1=1),
        on(transposed(r(3, 2)), axis0=0, axis1=1),
        on(reversed_(r(2, 3, 2)), axis0=0, axis1=1),
    ],
    "expand": [
        on(r(3), shape=(2, 3)),
        on(r(3, 1), shape=(3, 4)),
        on(r(1, 3), shape=(2, 2, 3)),
        on(r(), shape=(2, 3)),
        on(r(1), shape=(0,)),
        on(r(0), shape=(2, 0)),
        on(r(3, 4), shape=(3, 4)),
        on(r(3, 1), shape=(-1, 4)),
        on(r(2, 1, 3), shape=(4, -1, 2, -1)),
        on(transposed(r(1, 3)), shape=(3, 2)),
        on(reversed_(r(3)), shape=(2, 3)),
    ],
    "squeeze": [
        on(r(1, 3, 1)),
        on(r(1, 3, 1), axis=0),
        on(r(1, 3, 1), axis=-1),
        on(r(1, 3, 1), axis=(0, 2)),
        on(r(1, 1)),
        on(r()),
        on(r(1, 0)),
        on(transposed(r(1, 3)), axis=1),
        on(reversed_(r(1, 3)), axis=0),
    ],
    "unsqueeze": [
        on(r(3), axis=0),
        on(r(3), axis=-1),
        on(r(2, 3), axis=1),
        on(r(), axis=0),
        on(r(0), axis=1),
        on(r(1), axis=0),
        on(transposed(r(3, 2)), axis=1),
        on(reversed_(r(3, 2)), axis=-1),
    ],
    "getitem": [
        on(r(5), index=2),
        on(r(5), index=-1),
        on(r(5), index=slice(1, 4)),
        on(r(6), index=slice(None, None, -2), torch=False),
        on(r(3, 4), index=(slice(None), 1)),
        on(r(3, 4), index=(1, 2)),
        on(r(3, 4), index=(Ellipsis, 0)),
        on(r(3, 4), index=(None, slice(1, 3), slice(None, 2))),
        on(r(3, 4), index=slice(3, 3)),
        on(r(5), index=np.array([0, 3, 3, 0, 3])),
        on(r(5), index=[1, 1, 4], torch=False),
        on(r(5), index=np.array([-1, -5, 4])),
        on(r(3, 4), index=np.array([[0, 2], [2, 2]])),
        on(r(3, 4), index=(np.array([0, 0, 2]), np.array([1, 1, 3]))),
        on(r(3, 4), index=(slice(1, None), np.array([0, 0]))),
        on(r(2, 3, 4), index=(np.array([1, 1]), slice(None), np.array([0, 3]))),
        on(r(3, 4), index=mask(3, 4)),
        on(r(3, 4), index=np.array([True, False, True])),
        on(r(3, 4), index=(slice(None), np.array([True, False, False, True]))),
        on(r(4), index=np.zeros(4, bool)),
        on(r(4), index=np.zeros(0, np.int64)),
        on(r(), index=()),
        on(r(), index=Ellipsis),
        on(r(), index=None),
        on(r(0, 3), index=slice(None)),
        on(transposed(r(4, 3)), index=(slice(1, 3), np.array([0, 0]))),
        on(reversed_(r(3, 4)), index=1),
        on(every_other(r(5, 2)), index=np.array([2, 0, 2])),
    ],
    "gather": [
        on(r(3, 4), index=ints(4, 3, 2), axis=1),
        on(r(3, 4), index=ints(3, 2, 4), axis=0),
        on(r(3, 4), index=np.array([[1, 1, 1], [0, 3, 0], [2, 2, 3]]), axis=-1),
        on(r(2, 3, 2), index=ints(3, 2, 1, 2), axis=1),
        on(r(4), index=ints(4, 6), axis=0),
        on(r(1), index=np.zeros(3, int), axis=0),
        on(r(3, 4), index=np.zeros((3, 0), int), axis=1),
        on(r(3, 4), index=np.array([[-1, 0]]), axis=1, torch=False),
        on(transposed(r(4, 3)), index=ints(4, 3, 2), axis=1),
        on(reversed_(r(3, 4)), index=ints(4, 3, 2), axis=1),
    ],
    "concat": [
        on(r(2, 3), r(1, 3)),
        on(r(2, 3), r(2, 1), r(2, 2), axis=1),
        on(r(2, 3), r(2, 3), axis=-1),
        on(r(3)),
        on(r(0), r(3)),
        on(r(2, 0), r(2, 1), axis=1),
        on(r(1, 1), r(1, 1), axis=0),
        on(transposed(r(3, 2)), reversed_(r(1, 3))),
        on(every_other(r(5, 2)), r(3, 2), axis=1),
    ],
    "stack": [
        on(r(2, 3), r(2, 3)),
        on(r(2, 3), r(2, 3), r(2, 3), axis=1),
        on(r(2, 3), r(2, 3), axis=-1),
        on(r(), r()),
        on(r(3)),
        on(r(0), r(0)),
        on(r(1), r(1), axis=1),
        on(transposed(r(3, 2)), reversed_(r(2, 3)), axis=2),
    ],
    "pad": [
        on(r(3), widths=[(1, 2)]),
        on(r(2, 3), widths=[(1, 0), (0, 2)]),
        on(r(2, 3), widths=[(0, 0), (0, 0)]),
        on(r(2, 3), widths=[(1, 1), (2, 1)], value=7.0),
        on(r(), widths=[]),
        on(r(0), widths=[(1, 1)]),
        on(r(1), widths=[(2, 0)], value=-1.0),
        on(transposed(r(3, 2)), widths=[(1, 0), (1, 0)]),
        on(reversed_(r(2, 3)), widths=[(0, 1), (0, 1)]),
    ],
    "tril": [
        on(r(3, 3)),
        on(r(2, 4)),
        on(r(4, 2), diagonal=1),
        on(r(2, 3, 3), diagonal=-1),
        on(r(3, 3), diagonal=5),
        on(r(3, 3), diagonal=-5),
        on(r(1, 1)),
        on(r(0, 3)),
        on(transposed(r(3, 4))),
        on(reversed_(r(3, 3))),
    ],
    "matmul": [
        on(r(3, 4), r(4, 2)),
        on(r(4), r(4)),
        on(r(4), r(4, 2)),
        on(r(3, 4), r(4)),
        on(r(2, 3, 4), r(4, 2)),
        on(r(3, 4), r(2, 4, 2)),
        on(r(2, 3, 4), r(2, 4, 2)),
        on(r(2, 1, 3, 4), r(3, 4, 2)),
        on(r(2, 1, 2, 3), r(1, 2, 3, 2)),
        on(r(4), r(2, 4, 3)),
        on(r(2, 3, 4), r(4)),
        on(r(2, 2, 3, 4), r(4)),
        on(r(1, 1), r(1, 1)),
        on(r(3, 0), r(0, 2)),
        on(r(2, 3, 0), r(0, 2)),
        on(r(0, 3), r(3, 2)),
        on(r(3, 2), r(2, 0)),
        on(r(2, 3, 2), r(2, 0)),
        on(r(0), r(0)),
        on(transposed(r(4, 3)), transposed(r(2, 4))),
        on(reversed_(r(3, 4)), reversed_(r(4, 2))),
        on(every_other(r(5, 3)), reversed_(r(2, 3, 2))),
        big(r(90, 130), r(130, 70), length=10),
        big(r(4, 60, 40), transposed(r(60, 40)), length=10),
        big(r(6, 50, 40), r(6, 40, 60), length=10),
        big(r(2, 1, 50, 40), r(3, 40, 60), length=10),
    ],
    "linear": [
        on(r(3, 4), r(2, 4), r(2)),
        on(r(3, 4), r(2, 4)),
        on(r(3, 4), r(2, 4), None),
        on(r(4), r(2, 4), r(2)),
        on(r(2, 3, 4), r(5, 4), r(5)),
        on(r(1, 1), r(1, 1), r(1)),
        on(r(0, 4), r(2, 4), r(2)),
        on(r(2, 0), r(3, 0), r(3)),
        on(transposed(r(4, 3)), transposed(r(4, 2)), reversed_(r(2))),
        on(reversed_(r(3, 4)), reversed_(r(2, 4)), r(2)),
        big(r(3, 50, 70), r(90, 70), r(90), length=10),
        big(r(150, 70), r(90, 70), length=10),
    ],
    "einsum": [
        on(r(3, 4), r(4, 2), subscripts="ik,kj->ij"),
        on(r(3, 4), r(4, 2), subscripts="ik,kj"),
        on(r(3, 4), subscripts="ij->ji"),
        on(r(3, 4), subscripts="ij->i"),
        on(r(3, 4), subscripts="ij->"),
        on(r(3, 3), subscripts="ii->i"),
        on(r(3, 3), subscripts="ii"),
        on(r(3), r(3), subscripts="i,i->"),
        on(r(3), r(2), subscripts="i,j->ij"),
        on(r(2, 3), r(2, 3, 2), r(2, 2), subscripts="bi,bij,bj->b"),
        on(r(2, 3, 4), r(4, 2), subscripts="...k,kj->...j"),
        on(r(2, 3, 2), r(2, 2, 3), subscripts="...ij,...ji->..."),
        on(r(1, 3), r(4, 3), subscripts="...i,...i->..."),
        on(r(2, 1, 3), r(4, 3), subscripts="...i,...i->...i"),
        on(r(), r(3), subscripts=",i->i"),
        on(r(3, 4), r(2), subscripts="ij,k->k"),
        on(r(2, 0), r(0, 3), subscripts="ik,kj->ij"),
        on(r(1, 2), r(2, 1), subscripts="ab, bc -> ac"),
        on(transposed(r(4, 3)), reversed_(r(4, 2)), subscripts="ik,kj->ij"),
    ],
    "softmax": [*ROWS, *AXES, big(r(90, 200)), big(30 * r(3, 40, 70), axis=1)],
    "log_softmax": [*ROWS, *AXES, big(r(90, 200)), big(30 * r(3, 40, 70), axis=1, length=4)],
    "layer_norm": [
        on(r(3, 4), r(4), r(4)),
        on(r(2, 3, 4), r(4), r(4)),
        on(r(4), r(4), r(4)),
        on(r(3, 4), r(4), r(4), eps=0.1),
        on(r(3, 4), r(4), r(4), 0.01, torch=False),
        on(r(0, 4), r(4), r(4)),
        on(
            r(3, 1), r(1), r(1), length=30
        ),  # one element has no variance: what is left of dx is a rounding error / sqrt(eps)
        on(10 * r(2, 4) + 50, r(4), r(4)),
        on(transposed(r(4, 3)), r(4), r(4)),
        on(reversed_(r(3, 4)), reversed_(r(4)), every_other(r(7))),
        big(r(3, 50, 130), r(130), r(130), length=10),
    ],
    "dropout": [
        on(r(3, 4), p=0.5, rng=7),
        on(r(3, 4), 0.1, rng=7),
        on(r(3, 4), p=0.5),
        on(r(3, 4), p=0.0, rng=7),
        on(r(), p=0.5, rng=7),
        on(r(0), p=0.5, rng=7),
        on(r(1), p=0.5, rng=8),
        on(transposed(r(4, 3)), p=0.3, rng=7),
        on(reversed_(r(3, 4)), p=0.9, rng=7),
    ],
    "embedding": [
        on(r(5, 3), ids=np.array([0, 2, 4])),
        on(r(5, 3), ids=np.array([1, 1, 1, 0])),
        on(r(5, 3), ids=ints(5, 2, 3)),
        on(r(5, 3), ids=np.array(3)),
        on(r(5, 3), ids=np.zeros(0, int)),
        on(r(1, 1), ids=np.zeros((2, 2), np.int32)),
        on(r(5, 3), ids=ints(5, 6)[::-2]),
        on(transposed(r(3, 5)), ids=np.array([4, 4, 0])),
        on(reversed_(r(5, 3)), ids=np.array([4, 4, 0], np.uint8)),
        big(r(60, 70), ids=ints(60, 9, 100), length=10),
    ],
    "rms_norm": [
        on(r(3, 4), r(4)),
        on(r(2, 3, 4), r(4)),
        on(r(4), r(4)),
        on(r(3, 4), r(4), eps=0.1),
        on(r(3, 4), r(4), 0.01),
        on(r(0, 4), r(4)),
        on(away(3, 1), r(1)),
        on(10 * r(2, 4) + 50, r(4)),
        on(transposed(r(4, 3)), r(4)),
        on(reversed_(r(3, 4)), reversed_(r(4))),
        on(every_other(r(7, 4)), every_other(r(7))),
        big(r(3, 50, 130), r(130), length=10),
    ],
    "rope": [
        on(r(3, 4)),
        on(r(2, 3, 4)),
        on(r(2, 2, 3, 6), base=100.0),
        on(r(2, 1, 2, 2, 4)),
        on(r(3, 2), start=5),
        on(r(1, 4), 10.0, 3),
        on(r(0, 4)),
        on(r(2, 0, 3, 4)),
        on(transposed(r(4, 3))),
        on(reversed_(r(2, 3, 4))),
        on(every_other(r(5, 4))),
        big(r(2, 3, 300, 64), base=1e5, start=1000),
    ],
    "swiglu": [
        on(r(), r()),
        on(r(5), r(5)),
        on(r(3, 4), r(3, 4)),
        on(r(2, 3, 2), r(2, 3, 2)),
        on(r(0), r(0)),
        on(40 * r(6), r(6)),
        on(transposed(r(4, 3)), r(3, 4)),
        on(reversed_(r(2, 3)), every_other(r(4, 3))),
        big(r(300, 70), r(300, 70)),
    ],
    "scaled_dot_product_attention": [
        on(r(3, 2), r(3, 2), r(3, 2)),
        on(r(2, 3, 2), r(2, 4, 2), r(2, 4, 3)),
        on(r(2, 1, 3, 2), r(2, 1, 4, 2), r(2, 1, 4, 2)),
        on(r(3, 2), r(3, 2), r(3, 2), causal=True),
        on(r(2, 2, 3), r(2, 4, 3), r(2, 4, 3), causal=True),
        on(r(4, 2), r(2, 2), r(2, 2), causal=True),
        on(r(1, 3), r(1, 3), r(1, 3), causal=True),
        on(r(2, 3, 2), r(2, 4, 2), r(2, 4, 2), mask=mask(3, 4)),
        on(r(2, 3, 2), r(2, 4, 2), r(2, 4, 2), mask=mask(2, 1, 4)),
        on(r(3, 2), r(4, 2), r(4, 2), mask=r(3, 4)),
        on(r(3, 2), r(4, 2), r(4, 2), mask=np.where(mask(3, 4), 0.5, -np.inf)),
        on(r(3, 2), r(3, 2), r(3, 2), mask=mask(3, 3), causal=True),
        on(r(3, 2), r(3, 2), r(3, 2), mask=np.array([[1, 0, 1], [0, 0, 0], [1, 1, 1]], bool)),
        on(r(2, 3, 2), r(4, 2), r(2, 4, 2)),
        on(r(2, 1, 2, 2), r(1, 3, 3, 2), r(3, 2)),
        on(r(3, 2), r(3, 2), r(3, 2), dropout_p=0.4, rng=7),
        on(r(2, 3, 2), r(2, 3, 2), r(2, 3, 2), causal=True, dropout_p=0.4, rng=7),
        on(r(0, 2), r(3, 2), r(3, 2)),
        on(r(0, 3, 2), r(0, 3, 2), r(0, 3, 2)),
        on(transposed(r(2, 3)), transposed(r(2, 4)), transposed(r(2, 4))),
        on(reversed_(r(3, 2)), reversed_(r(4, 2)), reversed_(r(4, 2)), causal=True),
        big(r(2, 3, 70, 16), r(2, 3, 70, 16), r(2, 3, 70, 16), causal=True),
        big(r(2, 3, 40, 16), r(2, 3, 70, 16), r(2, 3, 70, 24)),
        big(r(2, 3, 40, 16), r(2, 3, 70, 16), r(2, 3, 70, 16), mask=mask(2, 1, 40, 70)),
        big(r(3, 70, 16), r(3, 70, 16), r(3, 70, 16), causal=True, dropout_p=0.2, rng=7),
    ],
    "multi_head_attention": [  # x (B, T, 3 C), or x (B, T, C) and kv (B, S, 2 C)
        on(r(2, 3, 12), n_head=2),
        on(r(1, 3, 9), n_head=3),
        on(r(2, 3, 6), n_head=1, causal=True),
        on(r(2, 1, 6), n_head=2, causal=True),
        on(r(1, 4, 12), n_head=2, mask=mask(4, 4)),
        on(r(2, 4, 6), n_head=2, mask=mask(2, 1, 1, 4)),
        on(r(2, 4, 6), n_head=2, mask=mask(2, 2, 4, 4), causal=True),
        on(r(2, 4, 6), n_head=2, mask=r(4, 4)),
        on(r(2, 3, 6), n_head=2, mask=np.where(mask(2, 1, 1, 3), 0.5, -np.inf)),
        on(r(1, 3, 6), n_head=2, mask=np.array([[1, 0, 1], [0, 0, 0], [1, 1, 1]], bool)),
        on(r(2, 3, 12), n_head=2, causal=True, dropout_p=0.4, rng=7),
        on(r(0, 3, 6), n_head=2, causal=True),
        on(r(2, 0, 6), n_head=2),
        on(transposed(r(12, 3, 2)), n_head=2, causal=True),
        on(reversed_(r(2, 3, 12)), n_head=2, causal=True),
        big(r(2, 70, 144), n_head=3, causal=True),
        big(r(2, 70, 96), n_head=2, mask=mask(2, 1, 1, 70), dropout_p=0.2, rng=7),
        on(r(2, 3, 4), r(2, 4, 8), n_head=2),
        on(r(1, 3, 3), r(1, 2, 6), n_head=3),
        on(r(2, 3, 2), r(2, 4, 4), n_head=1),
        on(r(2, 3, 4), r(2, 4, 8), n_head=2, causal=True),
        on(r(2, 3, 4), r(2, 4, 8), n_head=2, mask=mask(3, 4)),
        on(r(2, 3, 4), r(2, 4, 8), n_head=2, mask=mask(2, 1, 1, 4)),
        on(r(2, 3, 4), r(2, 4, 8), n_head=2, mask=np.where(mask(2, 1, 1, 4), 0.5, -np.inf)),
        on(r(2, 3, 4), r(2, 4, 8), n_head=2, dropout_p=0.4, rng=7),
        on(r(0, 3, 4), r(0, 4, 8), n_head=2),
        on(transposed(r(4, 3, 2)), transposed(r(8, 4, 2)), n_head=2),
        on(reversed_(r(2, 3, 4)), reversed_(r(2, 4, 8)), n_head=2, causal=True),
        big(r(2, 40, 48), r(2, 70, 96), n_head=3),
        big(r(2, 40, 48), r(2, 70, 96), n_head=2, mask=mask(2, 1, 1, 70)),
        on(r(2, 3, 12), n_head=4, n_kv_head=1, causal=True),
        on(r(2, 3, 16), n_head=4, n_kv_head=2),
        on(r(1, 4, 10), n_head=3, n_kv_head=1, mask=mask(3, 4, 4)),
        on(r(2, 3, 16), n_head=4, n_kv_head=2, causal=True, dropout_p=0.4, rng=7),
        on(r(2, 3, 8), r(2, 4, 8), n_head=4, n_kv_head=2),
        on(r(2, 3, 24), n_head=2, causal=True, rope_base=10.0),
        on(r(1, 3, 16), n_head=2, n_kv_head=1, causal=True, rope_base=1e4),
        on(r(2, 3, 8), r(2, 4, 8), n_head=2, n_kv_head=1, rope_base=10.0),
        on(transposed(r(16, 3, 2)), n_head=2, n_kv_head=1, causal=True, rope_base=10.0),
        big(r(2, 150, 160), n_head=6, n_kv_head=2, causal=True, rope_base=1e4),
        big(r(2, 40, 96), r(2, 70, 64), n_head=6, n_kv_head=2, mask=mask(2, 6, 40, 70)),
    ],
    "cross_entropy": [
        *FLAT,
        *LOSS,
        *SKIP,
        on(r(4, 5), targets=ints(5, 4), label_smoothing=0.1),
        on(r(4, 5), targets=np.array([1, -100, 0, 4]), ignore_index=-100, label_smoothing=0.3),
        on(r(2, 3, 4), targets=ints(4, 2, 3), label_smoothing=0.2, reduction="none"),
        on(r(0, 5), targets=ints(5, 0), reduction="sum"),
        on(r(4, 5) + 800.0, targets=ints(5, 4), length=10),  # at 800 float32 numbers are 6e-5 apart
        on(transposed(r(5, 4)), targets=ints(5, 4)),
        on(reversed_(r(4, 5)), targets=ints(5, 4)),
        big(r(3, 40, 200), targets=ints(200, 3, 40)),
        big(r(120, 200), targets=ints(200, 120), ignore_index=3, label_smoothing=0.1),
    ],
    "linear_cross_entropy": [
        on(r(4, 3), r(5, 3), targets=ints(5, 4)),
        on(r(2, 3, 2), r(4, 2), targets=ints(4, 2, 3), reduction="sum", label_smoothing=0.2),
        on(r(4, 3), r(5, 3), targets=np.array([1, -100, 0, 4]), ignore_index=-100, label_smoothing=0.3),
        on(r(3), r(4, 3), targets=np.array(2)),
        on(r(0, 3), r(5, 3), targets=ints(5, 0), reduction="sum"),
        on(transposed(r(3, 4)), reversed_(r(5, 3)), targets=ints(5, 4)),
        big(r(3, 40, 50), r(200, 50), targets=ints(200, 3, 40)),
        big(r(120, 50), r(200, 50), targets=ints(200, 120), ignore_index=3, label_smoothing=0.1),
    ],
    "nll_loss": [
        *FLAT,
        *LOSS,
        *SKIP,
        on(r(0, 5), targets=ints(5, 0), reduction="sum"),
        on(transposed(r(5, 4)), targets=ints(5, 4)),
        on(reversed_(r(4, 5)), targets=ints(5, 4)),
    ],
    "mse_loss": [*PAIR, *PAIRS],
    "binary_cross_entropy_with_logits": [
        *PAIR,
        *PAIRS,
        on(40 * r(6), prob(6)),
        on(r(3, 4), prob(3, 4), pos_weight=pos(4)),
        on(r(3, 4), prob(3, 4), reduction="sum", pos_weight=2.5),
        on(r(3, 4), prob(3, 4), reduction="none", pos_weight=np.array([0.0, 2.0, 1.0, 0.5])),
    ],
}
CASES["triu"] = CASES["tril"]


def recurrent(gates, states, biases=True):
    """Cases of a recurrent layer with so many gates and states: x, the first states, the weights, the biases."""

    def arrays(B, T, I, H):
        first, weights = [r(B, H) for _ in range(states)], [r(gates * H, n) / n**0.5 for n in (I, H)]
        return [r(B, T, I), *first, *weights, r(gates * H), r(gates * H)]

    def viewed(view, x, *rest):
        return on(view(x), *rest)

    return [
        on(*arrays(2, 3, 2, 3)),
        on(*arrays(1, 1, 1, 1)),
        on(*arrays(3, 2, 1, 2)),
        on(*arrays(2, 4, 3, 2)[:-2]),
        on(*arrays(2, 2, 3, 2)[:-2], None, None),
        on(*arrays(2, 3, 2, 3)[:-1]),
        on(*arrays(0, 3, 2, 2), torch=False),
        viewed(transposed, r(2, 3, 2), *arrays(2, 3, 2, 2)[1:]),
        viewed(reversed_, *arrays(2, 3, 2, 2)),
        big(*arrays(33, 7, 20, 40), length=10),
        big(*arrays(3, 4, 30, 400), length=10),
    ]


CASES |= {"rnn": recurrent(1, 1), "lstm": recurrent(4, 2), "gru": recurrent(3, 1)}
CASES["rnn"] += [
    on(*CASES["rnn"][0].leaves(np.array), nonlinearity="relu"),
    big(*CASES["rnn"][-2].leaves(np.array), nonlinearity="relu", length=10),
]


def inside(*shape):
    """Between -0.9 and 0.9."""
    return np.asarray(_rng.uniform(-0.9, 0.9, size=shape))


def above_one(*shape):
    return np.asarray(1 + pos(*shape))


def shares(*shape):
    """Rows of probabilities."""
    return _rng.dirichlet(np.ones(shape[-1]), shape[:-1])


_TIES = np.array([[1.0, 3.0, 1.0, 2.0], [0.0, 0.0, 2.0, 0.0]])
WEIGHT = np.array([0.5, 2.0, 1.0, 0.0, 1.5])

CASES |= {
    **{name: unary(r) for name in ("sin", "cos", "arctan", "sinh", "cosh", "arcsinh", "exp2", "expm1", "square")},
    **{name: unary(inside) for name in ("tan", "arcsin", "arccos", "arctanh")},
    "arccosh": unary(above_one),
    **{name: unary(pos) for name in ("log1p", "log2", "log10")},
    **{name: [*unary(r), on(40 * r(6))] for name in ("silu", "softplus", "logsigmoid")},
    "elu": [*unary(apart), on(apart(3, 4), alpha=0.5), on(apart(3), 2.0)],
    "leaky_relu": [*unary(apart), on(apart(3, 4), negative_slope=0.3), on(apart(3), 0.0)],
    "floor_divide": binary(r, away, 2.0),
    "remainder": binary(r, away, 2.0),
    "std": [
        *reduction(r, empty=False),
        on(r(3, 4), axis=1, correction=1),
        on(r(5), correction=1),
        on(r(3, 4), axis=0, correction=1, keepdims=True),
        on(np.full((2, 3), 0.5), axis=1, gradcheck=False),
    ],
    "norm": [
        *reduction(away),
        on(away(3, 4), ord=1),
        on(away(3, 4), 3, axis=0),
        on(away(3, 4), ord=1.5, axis=1, keepdims=True),
        on(np.zeros((2, 3)), axis=1, gradcheck=False),
    ],
    "prod": [
        *reduction(away),
        on(np.array([[0.0, 2.0, 3.0], [0.0, 0.0, 3.0], [1.0, 0.0, 2.0]])),
        on(np.array([[0.0, 2.0, 3.0], [0.0, 0.0, 3.0], [1.0, 0.0, 2.0]]), axis=1),
        on(np.array([[0.0, 2.0, 3.0], [0.0, 0.0, 3.0], [1.0, 0.0, 2.0]]), axis=0, keepdims=True),
    ],
    "flip": [
        on(r(3)),
        on(r(3, 4)),
        on(r(3, 4), axis=0),
        on(r(2, 3, 2), axis=(0, -1)),
        on(r()),
        on(r(0), axis=0),
        on(r(2, 0), axis=0),
        on(transposed(r(4, 3)), axis=1),
        on(reversed_(r(3, 4)), axis=0),
    ],
    "roll": [
        on(r(5), shift=2),
        on(r(3, 4), shift=-1),
        on(r(3, 4), shift=1, axis=0),
        on(r(3, 4), shift=7, axis=-1),
        on(r(3, 4), shift=(1, -2), axis=(0, 1)),
        on(r(), shift=1),
        on(r(0), shift=1, axis=0),
        on(transposed(r(4, 3)), shift=1, axis=1),
        on(reversed_(r(3, 4)), shift=1),
    ],
    "diagonal": [
        on(r(3, 3)),
        on(r(2, 4)),
        on(r(4, 2), offset=-1),
        on(r(3, 3), offset=1),
        on(r(2, 3, 3), axis1=1, axis2=2),
        on(r(2, 3, 3), offset=1, axis1=-1, axis2=-2),
        on(r(2, 3, 4)),
        on(r(1, 1)),
        on(r(0, 3)),
        on(r(3, 3), offset=5),
        on(transposed(r(4, 3))),
        on(reversed_(r(3, 3))),
    ],
    "sort": [
        on(apart(5)),
        on(apart(3, 4)),
        on(apart(3, 4), axis=0),
        on(apart(3, 4), axis=1, descending=True),
        on(apart(2, 3, 2), axis=-2),
        on(apart(1)),
        on(apart(0)),
        on(apart(2, 0), axis=0),
        on(_TIES, gradcheck=False),
        on(_TIES, axis=1, descending=True, gradcheck=False),
        on(transposed(apart(4, 3)), axis=1),
        on(reversed_(apart(3, 4)), axis=0),
        on(every_other(apart(5, 2))),
    ],
    "topk": [
        on(apart(5), k=2),
        on(apart(3, 4), 1),
        on(apart(3, 4), k=2, axis=0),
        on(apart(2, 3, 2), k=3, axis=-2),
        on(apart(4), k=4),
        on(apart(4), k=0),
        on(apart(0), k=0),
        on(_TIES, k=2, gradcheck=False, torch=False),  # torch takes others of equal elements
        on(transposed(apart(4, 3)), k=2, axis=1),
        on(reversed_(apart(3, 4)), k=2, axis=0),
    ],
    "clone": unary(r),
    "astype": [on(*case.args, dtype=np.float64) for case in unary(r)],
}
for _name in ("softmax", "log_softmax"):
    CASES[_name] += [on(r(3, 4), axis=None), on(r(2, 3, 2), axis=(0, 2)), on(r(2, 3, 2), axis=(-1, 1)), on(r(), axis=0)]
CASES["cumsum"] += [on(r(), axis=0), on(r(), axis=-1)]
for _name in ("sum", "mean", "var", "max", "min", "logsumexp", "std", "norm", "prod"):
    CASES[_name] += [on(apart(), axis=-1), on(apart(), axis=(0,), keepdims=True)]
CASES["cross_entropy"] += [
    on(r(4, 5), targets=ints(5, 4), weight=WEIGHT),
    on(r(4, 5), targets=np.array([1, 3, 0, 4]), weight=WEIGHT, label_smoothing=0.2),
    on(r(4, 5), targets=np.array([1, 2, 0, 4]), weight=WEIGHT, ignore_index=2),
    on(r(2, 3, 5), targets=ints(5, 2, 3), weight=WEIGHT, ignore_index=1, label_smoothing=0.1, reduction="sum"),
    on(r(2, 3, 5), targets=ints(5, 2, 3), weight=WEIGHT, reduction="none"),
    on(r(4, 5), targets=shares(4, 5)),
    on(r(2, 3, 5), targets=shares(2, 3, 5), weight=WEIGHT, label_smoothing=0.1),
    on(r(4, 5), targets=shares(4, 5), reduction="none"),
    on(r(4, 5), targets=shares(4, 5), weight=WEIGHT, reduction="sum"),
    on(r(5), targets=shares(5)),
    big(transposed(r(40, 300)), targets=shares(300, 40)),
]
