"""Every relative link, image and anchor of the documentation leads somewhere. Asks nothing of the network.

python scripts/tools/check_links.py
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
LINK = re.compile(r"\]\(<?([^)\s>]+)>?[^)]*\)|<(?:img|a)\s[^>]*(?:src|href)=\"([^\"]+)\"")
HEADING = re.compile(r"^#{1,6}\s+(.+?)\s*#*$", re.MULTILINE)
FENCE = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
UNREAD = re.compile(rf"{FENCE.pattern}|`[^`\n]*`|\$\$.*?\$\$|\$[^$\n]+\$", re.MULTILINE | re.DOTALL)


def pages() -> list[Path]:
    """The pages that a reader meets."""
    named = (ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "CHANGELOG"))
    return [*named, *sorted((ROOT / "docs").glob("**/*.md"))]


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    found: dict[str, int] = {}
    every = set()
    for title in HEADING.findall(FENCE.sub("", page.read_text())):
        anchor = _anchor(title)
        count = found.get(anchor, 0)
        every.add(f"{anchor}-{count}" if count else anchor)
        found[anchor] = count + 1
    return every


def _anchor(title: str) -> str:
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title).lower()
    return re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")


def broken(page: Path) -> Iterator[str]:
    """A line for each link of a page that leads nowhere."""
    text = page.read_text()
    prose = UNREAD.sub(lambda found: re.sub(r"[^\n]", " ", found[0]), text)
    for match in LINK.finditer(prose):
        link = match[1] or match[2]
        if re.match(r"[a-z]+:", link):
            continue
        line = prose.count("\n", 0, match.start()) + 1
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        if not target.exists():
            yield f"{page.relative_to(ROOT)}:{line}: {link}: no such file"
        elif anchor and target.suffix == ".md" and anchor not in anchors(target):
            yield f"{page.relative_to(ROOT)}:{line}: {link}: no such heading"


def main() -> None:
    lines = [line for page in pages() for line in broken(page)]
    for line in lines:
        print(line)
    sys.exit(bool(lines))


if __name__ == "__main__":
    main()
