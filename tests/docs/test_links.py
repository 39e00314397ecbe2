"""Links of the documents lead somewhere, files and headings alike, in the repository; no network is asked."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "datasets" / "README.md"])
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """Those of a page's headings as hosts of repositories make them: lower case, blanks to hyphens, no other signs.

    A heading that is there already gets a number.
    """
    found: dict[str, int] = {}
    made = set()
    for title in re.findall(r"^#+ +(.*?) *$", FENCE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE):
        name = re.sub(r"[^\w\- ]", "", LINK.sub(lambda m: m[0][1 : m[0].index("]")], title).lower()).replace(" ", "-")
        count = found[name] = found.get(name, -1) + 1
        made.add(f"{name}-{count}" if count else name)
    return made


def missing(page: Path) -> list[str]:
    """Links of a page that lead nowhere."""
    wrong = []
    for link in LINK.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
        if re.match(r"https?://", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            wrong.append(link)
    return wrong


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    assert not missing(page)


def test_a_wrong_link_is_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# One: `two`\n[a](#one-two) [b](#one) [c](other.md) [d](https://example.org/x)\n```\n[e](f)\n```\n"
    )
    assert missing(page) == ["#one", "other.md"]


def test_every_page_is_listed_in_the_site() -> None:
    nav = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").split("\nnav:\n")[1]
    listed = set(re.findall(r": ([\w]+\.md)$", nav, re.MULTILINE))
    assert {page.name for page in PAGES if page.parent == ROOT / "docs"} <= listed


def test_the_readme_leads_to_every_page_and_stays_short() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert all(f"](docs/{page.name}" in readme for page in PAGES if page.parent == ROOT / "docs")
    assert readme.count("\n") <= 120


def test_commands_of_the_readme_are_those_that_the_page_tries() -> None:
    """What README says of own data in short, docs/own_data.md says at length, and a test runs it there."""
    readme, page = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/own_data.md"))
    section = readme.split("## Own data in five commands")[1].split("\n## ")[0]
    lines = re.findall(r"^(?:wps-sam|    DATASETS).*", section, re.MULTILINE)
    assert sum(line.startswith("wps-sam") for line in lines) == 5
    assert not [line for line in lines if line.removesuffix(" \\") not in page]


def test_documents_call_the_subcommands_by_their_names() -> None:
    """tools/ are aliases; a reader learns one name of each."""
    for page in PAGES:
        if page.name not in {
            "MODEL_ZOO.md",
            "CHANGELOG.md",
            "CONTRIBUTING.md",
        }:  # which say what was run, and what is edited
            assert not re.findall(r"(?<!tests/)tools/\w+\.py", page.read_text(encoding="utf-8")), page


def test_named_subcommands_exist() -> None:
    from wps_sam.cli import COMMANDS

    for page in PAGES:
        named = set(re.findall(r"wps-sam ([a-z][\w-]*)", page.read_text(encoding="utf-8")))
        assert named <= COMMANDS.keys() | {"authors"}, page
