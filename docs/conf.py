"""The settings of the site, and what is made from the code before Sphinx reads the pages.

sphinx-build -W docs site     builds it; open site/index.html
"""

import re
import sys
from pathlib import Path

from docutils import nodes
from sphinx.errors import ExtensionError

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from making import checks, commands, fonts, formulas, ops, reference, whitepaper  # noqa: E402

import autotx  # noqa: E402
from autotx.models.formats.gguf_tokenizer import PATTERNS  # noqa: E402
from autotx.models.formats.quantised import FORMATS  # noqa: E402

project, author, release = "autotx", "the authors of autotx", autotx.__version__
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.viewcode"]
myst_enable_extensions = ["colon_fence", "dollarmath", "substitution"]
nb_execution_mode = "off"  # their outputs are kept: docs/learn/run.py
nb_merge_streams = True  # what a cell printed is one box, however many pieces it came in
nb_code_prompt_show = "Show the solution"
nb_code_prompt_hide = "Hide the solution"
myst_substitutions = {
    "gguf_types": ", ".join(sorted(form.name for form in FORMATS.values())),
    "gguf_patterns": ", ".join(PATTERNS),
}
myst_heading_anchors = 3
exclude_patterns = ["making", "static"]
nitpicky = True
nitpick_ignore_regex = [("py:.*", ".*")]  # types in signatures, most of which have no page here
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
python_maximum_signature_line_length = 100
highlight_language = "none"
smartquotes = False  # "--lr" is no dash
pygments_style, pygments_dark_style = "a11y-high-contrast-light", "a11y-high-contrast-dark"
html_math_renderer = "mathml"
html_theme = "furo"
html_title = "autotx"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_show_search_summary = False  # it would fetch each page found, which no browser allows from the disk
html_show_sphinx = html_show_sourcelink = html_copy_source = html_show_copyright = False
html_theme_options = {"source_directory": "docs/"}


def make(app):
    """Write the pages that are made from the code, and draw their pictures."""
    sections = whitepaper.sections_by_op()
    whitepaper.write(Path(app.outdir, "whitepaper"))
    pages = ops.pages(sections) | commands.pages() | reference.pages() | whitepaper.pages()
    for name, text in pages.items():
        path = HERE / f"{name}.rst"
        path.parent.mkdir(exist_ok=True)
        if not path.exists() or path.read_text(encoding="utf-8") != text:  # Sphinx reads again what is newer
            path.write_text(text, encoding="utf-8")
    ops.pictures(HERE / "ops")


def trim(app, name, source):
    """Leave out the empty line that ends the output of an example for doctest. (An event of Sphinx.)"""
    source[0] = re.sub(r"(>>>[^`]*)\n\n```\n", r"\1\n```\n", source[0])


def describe(app, document):
    """Give the pictures that notebooks draw a text for readers who do not see them. (An event of Sphinx.)"""
    for picture in document.findall(nodes.image):
        if "alt" not in picture:
            section = picture.parent
            while not isinstance(section, nodes.section):
                section = section.parent
            picture["alt"] = f"Drawn by the code above, in “{section.next_node(nodes.title).astext()}”"


def check(app, error):
    """Add the font of the formulas, and stop where a built page is not whole."""
    if error:
        return
    fonts.write(Path(app.outdir, "_static", "math.woff"))
    if found := checks.faults(Path(app.outdir)):
        raise ExtensionError("\n".join(found))


def setup(app):
    app.add_html_math_renderer("mathml", (formulas.inline, None), (formulas.displayed, None))
    app.connect("builder-inited", make)
    app.connect("source-read", trim)
    app.connect("doctree-read", describe)
    app.connect("build-finished", check, priority=900)  # after what the theme writes
    app.connect("autodoc-process-docstring", reference.on_docstring)
    app.connect("autodoc-process-signature", reference.on_signature)
    app.connect("autodoc-skip-member", reference.on_member)
