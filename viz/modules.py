"""The modules of a model by name, and a way to listen to them: how pictures see what a forward pass does not keep."""

import contextlib

from autotx.nn import Module


def named_modules(model, prefix=""):
    """An iterator of (dotted name, Module) below a model, in the order of assignment, such as "blocks.0.attn".

    The model itself comes first, as "". A module that is found at two places comes once, under its first name.
    """
    yield from _walk(model, prefix, set())


def _walk(value, name, seen):
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, Module):
        yield name, value
    inner = vars(value) if isinstance(value, Module) else value
    for key, part in inner.items() if isinstance(inner, dict) else enumerate(inner):
        if isinstance(part, Module | list | tuple | dict):
            yield from _walk(part, f"{name}.{key}" if name else str(key), seen)


@contextlib.contextmanager
def wrapped(modules, wrap):
    """Inside, the forward of each module is `wrap(name, forward)`. modules: dict of name -> Module."""
    own = {name: vars(module).get("forward") for name, module in modules.items()}
    for name, module in modules.items():
        module.forward = wrap(name, module.forward)
    try:
        yield
    finally:
        for name, module in modules.items():
            if own[name] is None:
                del module.forward
            else:
                module.forward = own[name]
