"""What every built page must be: whole, with links that lead somewhere, and loading nothing from elsewhere."""

import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag

LOADED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href", "object": "data"}
ELSEWHERE = re.compile(r"(?:https?:)?//", re.IGNORECASE)
LOADED_BY_STYLE = re.compile(r"""(?:url\(\s*["']?|@import\s+["'])((?:https?:)?//[^"')]+)""", re.IGNORECASE)


class Page(HTMLParser):
    """The anchors of a page, its links, and what it loads."""

    def __init__(self, text):
        super().__init__()
        self.anchors, self.links, self.loads = set(), [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        given = {name: value or "" for name, value in attributes}
        self.anchors |= {given.get("id"), given.get("name")}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        if tag in LOADED and LOADED[tag] in given and given.get("rel") not in ("canonical", "author"):
            self.loads.append(given[LOADED[tag]])


def faults(folder: Path) -> list[str]:
    """What is wrong with the pages in a folder, a line for each fault."""
    pages = {path: Page(path.read_text(encoding="utf-8")) for path in sorted(folder.rglob("*.html"))}
    found = []
    for path, page in pages.items():
        name = path.relative_to(folder)
        found += [f"{name} loads {url}" for url in page.loads if ELSEWHERE.match(url)]
        found += [f"{name} has a style that loads {url}" for url in LOADED_BY_STYLE.findall(path.read_text())]
        for url in [*page.links, *page.loads]:
            if not re.match(r"[a-z]+:|//|#$", url) and (fault := _unfound(url, path, pages)):
                found.append(f"{name} links to {url}: {fault}")
    for path in sorted(folder.rglob("*.css")):
        found += [f"{path.relative_to(folder)} loads {u}" for u in LOADED_BY_STYLE.findall(path.read_text())]
    return found


def _unfound(url, path, pages):
    """Why a local link of the page at `path` leads nowhere; None if it does lead somewhere."""
    file, anchor = urldefrag(url)
    file = unquote(file.partition("?")[0])
    target = (path.parent / file).resolve() if file else path
    if target not in pages:
        return None if target.is_file() else "there is no such file"
    return None if not anchor or unquote(anchor) in pages[target].anchors else "there is no such anchor"
