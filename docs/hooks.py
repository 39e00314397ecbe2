"""What the documentation's build adds to the pages of this folder; MkDocs calls the functions ``on_...``.

Pages are written so that they can be read in the repository: links lead to files as they lie there. In the site, the
documents of the repository's root are pages too, and any other file that a page links to is copied beside them.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import urlsplit

import config_reference
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
# Documents that stay where they are, and the names of their pages.
DOCUMENTS = {
    "MODEL_ZOO.md": "model_zoo.md",
    "datasets/README.md": "data_sets.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
SOURCES = {page: document for document, page in DOCUMENTS.items()}
# In docs/configuration.md, where the tables belong.
MARKER = "<!-- the tables of the keys -->"
LINK = re.compile(r"\[([^\]]*)\]\(([^)\s]+)\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the documents, and the files that any page links to."""
    for document, page in DOCUMENTS.items():
        files.append(File.generated(config, page, content=(ROOT / document).read_text(encoding="utf-8")))
    for page in list(files.documentation_pages()):
        for target in _linked_files(page.content_string, page.src_uri):
            if files.get_file_from_path(_in_site(target)) is None:
                files.append(File.generated(config, _in_site(target), abs_src_path=str(ROOT / target)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turns links into those of the site, and puts the configuration's tables into their page."""
    uri = page.file.src_uri
    if uri == "configuration.md":
        if markdown.count(MARKER) != 1:
            raise ValueError(f"docs/configuration.md: expected the line {MARKER!r} once")
        markdown = markdown.replace(MARKER, config_reference.as_markdown())

    def moved(match: re.Match[str]) -> str:
        text, link = match.groups()
        target = _target(link, uri)
        if target is None:
            return match[0]
        if (ROOT / target).is_dir():  # no page: its name alone stays
            return text
        path = os.path.relpath(_in_site(target), os.path.dirname(uri) or ".")
        return f"[{text}]({urlsplit(link)._replace(path=path).geturl()})"

    return LINK.sub(moved, markdown)


def _linked_files(markdown: str, uri: str) -> set[str]:
    targets = (_target(link, uri) for _, link in LINK.findall(markdown))
    return {target for target in targets if target is not None and (ROOT / target).is_file()}


def _target(link: str, uri: str) -> str | None:
    """What a link of a page leads to, from the repository's root; None: a link that stays as it is."""
    parts = urlsplit(link)
    if parts.scheme or not parts.path:
        return None
    folder = Path(SOURCES.get(uri, f"docs/{uri}")).parent
    return Path(os.path.normpath(folder / parts.path)).as_posix()


def _in_site(target: str) -> str:
    """Where a file of the repository lies in the site."""
    return DOCUMENTS.get(target, target.removeprefix("docs/") if target.startswith("docs/") else f"files/{target}")
