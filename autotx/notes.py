"""Facts about a result that pictures show and the engine does not need. They are freed with the graph."""

from autotx.tensor import Tensor, next_tick


class Notes(dict):
    """The settings of a result's op, with facts for pictures beside them, so that both share one slot of a Tensor.

    spans: (module, tick before, tick after) for each call of a Module that returned the result, inner calls first.
    record: what viz.record saw of the op.
    """

    spans: tuple = ()
    record: object = None


def notes(t) -> Notes:
    """The Notes of a result that has a graph."""
    if t._settings.__class__ is not Notes:
        t._settings = Notes(t._settings or ())
    return t._settings


def note_span(out, module, before):
    """Note on the Tensors in `out` that `module` returned them and began at the tick `before`.

    A result whose tick lies in a span was computed by that module. So pictures are grouped at no cost for an op.
    """
    span, found = (module, before, next_tick()), [out]
    for t in found:
        if t.__class__ is Tensor:
            if t._parents is not None and t._tick > before:  # an older one was passed through
                notes(t).spans += (span,)
        elif isinstance(t, tuple | list):
            found.extend(t)
        elif isinstance(t, dict):
            found.extend(t.values())
