"""A page for each command of `autotx`, with all its settings, made from the parser that the command itself uses."""

import argparse

from making.rst import escaped, heading

from autotx.models import cli


def pages() -> dict:
    """The pages: a dict of document name -> text."""
    return {"commands/index": _index()} | {f"commands/{name}": page(name) for name in cli.COMMANDS}


def page(name: str) -> str:
    """The page of a command, as reStructuredText."""
    _, parser = cli.load(name)
    parts = [heading(f"autotx {name}", "="), escaped(parser.description or "")]
    usage = f"autotx {name} [settings]" if any(a.option_strings for a in parser._actions) else f"autotx {name}"
    words = " ".join(_shown(a) for a in parser._actions if not a.option_strings)
    parts.append(f".. code-block:: none\n\n   {f'{usage} {words}'.strip()}")
    if parser.epilog:
        lines = "\n".join(f"   {line}".rstrip() for line in parser.epilog.splitlines())
        parts.append(f".. code-block:: none\n\n{lines}")
    parts += [heading("Settings", "-"), f".. program:: autotx {name}"]
    for group in parser._action_groups:
        actions = [a for a in group._group_actions if a.help is not argparse.SUPPRESS]
        if actions and group not in parser._action_groups[:2]:
            parts.append(heading(group.title or "", "~"))
        parts += [_setting(parser, action) for action in actions]
    return "\n\n".join(parts) + "\n"


def _setting(parser, action):
    names = ", ".join(f"{n} {_values(action)}".strip() for n in action.option_strings or [_shown(action)])
    text = parser._get_formatter()._expand_help(action) if action.help else ""
    if action.choices and "{" not in names:
        text = f"{text}; one of {', '.join(map(str, action.choices))}"
    return f".. option:: {names}\n\n   {escaped(' '.join(text.split()))}"


def _values(action):
    """What a flag takes, as in the help of the command."""
    if action.nargs == 0:
        return ""
    if action.metavar is None and action.choices:
        return "NAME"
    name = action.metavar or action.dest.upper()
    name = name if isinstance(name, str) else " ".join(name)
    return {"?": f"[{name}]", "*": f"[{name} ...]", "+": f"{name} [{name} ...]"}.get(action.nargs, name)


def _shown(action):
    name = action.metavar or action.dest
    return {"?": f"[{name}]", "*": f"[{name} ...]", "+": f"{name} ..."}.get(action.nargs, name)


def _index():
    rows = ""
    for title, group in cli.GROUPS.items():
        lines = [f"* :doc:`autotx {name} <{name}>`: {escaped(summary)}" for name, (_, summary) in group.items()]
        rows += "\n\n".join([heading(title[0].upper() + title[1:], "-"), "\n".join(lines), ""])
    entries = "\n".join(f"   {name}" for name in cli.COMMANDS)
    text = (
        "``autotx COMMAND --help`` shows the settings of a command in the terminal. Errors take one line. The exit "
        "status is 0 when all is done, 2 for wrong usage or a failure, 130 after Ctrl-C; of a training also 143 and "
        "129, after SIGTERM and SIGHUP."
    )
    return f"{heading('Commands', '=')}\n\n{text}\n\n{rows}\n\n.. toctree::\n   :hidden:\n\n{entries}\n"
