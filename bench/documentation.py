"""Hooks of MkDocs for what the site has beside `docs/`: pages and pictures from elsewhere, and generated reference.

Links are written as they are in the repository, so that the pages read well there too; here they become the site's.
"""

import posixpath
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.command_reference import command_reference

ROOT = Path(__file__).resolve().parent.parent
COMMANDS = "<!-- commands: generated -->"
_LINK = re.compile(r'(\]\(|src=")(?![a-z]+:|#)([^)"#\s]+)(#[^)"\s]*)?(?=[)"\s])')


def outside_files(root: Path) -> dict[str, str]:
    """From each file outside `docs/` that the site has, by its path in the repository, to its path in the site."""
    pictures = sorted((root / "bench" / "results").glob("*.png")) + sorted((root / "bench" / "results").glob("*.jpg"))
    return {
        "CHANGELOG.md": "changelog.md",
        "CONTRIBUTING.md": "contributing.md",
        **{f"bench/results/{picture.name}": f"results/{picture.name}" for picture in pictures},
    }


def site_links(markdown: str, page: str, outside: Mapping[str, str]) -> str:
    """The markdown of `page`, a path in the site, with its relative links leading to places in the site.

    A link to a file of the repository that is not in the site is left as it is, and MkDocs complains about it.
    """
    sources = {place: source for source, place in outside.items()}
    source = sources.get(page, f"docs/{page}")

    def moved(match: re.Match[str]) -> str:
        opening, target, anchor = match.group(1), match.group(2), match.group(3) or ""
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        if path == "README.md":
            place, anchor = "index.md", ""
        elif path in outside:
            place = outside[path]
        elif path.startswith("docs/"):
            place = path.removeprefix("docs/")
        else:
            return match.group(0)
        return opening + posixpath.relpath(place, posixpath.dirname(page) or ".") + anchor

    return _LINK.sub(moved, markdown)


def on_files(files: Any, config: Any) -> Any:
    """MkDocs' hook: adds the files that are not under `docs/`."""
    from mkdocs.structure.files import File

    for source, place in outside_files(ROOT).items():
        files.append(File.generated(config, place, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """MkDocs' hook: fills in what is generated and leads links to their place in the site."""
    if COMMANDS in markdown:
        markdown = markdown.replace(COMMANDS, command_reference())
    return site_links(markdown, page.file.src_uri, outside_files(ROOT))
