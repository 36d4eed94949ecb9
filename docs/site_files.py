"""A hook of MkDocs: the site has the README and all that it links to, each file at its path in the repository.

So a link means the same on the site as on GitHub, and `mkdocs build --strict` fails for a dead one.
"""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

LINK = re.compile(r"""\]\(([^)\s]+)\)|(?:src|srcset|href)="([^"]+)\"""")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """MkDocs calls it with docs/ and the theme's files; the theme's stay."""
    root = Path(config.config_file_path).resolve().parent
    for file in [file for file in files if file.src_dir == config.docs_dir]:
        files.remove(file)
    styles = {root / name for name in config.extra_css}
    for path in sorted(reachable(root / "README.md", root) | styles):
        files.append(File(str(path.relative_to(root)), str(root), config.site_dir, config.use_directory_urls))
    return files


def reachable(start: Path, root: Path) -> set[Path]:
    """The page, every file of the repository that it links to, and their links in turn."""
    found: set[Path] = set()
    waiting = [start]
    while waiting:
        page = waiting.pop()
        if page in found or not page.is_file() or not page.is_relative_to(root):
            continue
        found.add(page)
        if page.suffix == ".md":
            links = (markdown or html for markdown, html in LINK.findall(page.read_text("utf-8")))
            waiting += [(page.parent / link.partition("#")[0]).resolve() for link in links if "://" not in link]
    return found
