"""What MkDocs does in addition, see mkdocs.yml.

Pages link to files outside of docs/ as they do where the repository is browsed.
On the site, images among these files are copied, and other files are linked to
in the repository, if pyproject.toml has its address.
"""

import pathlib
import posixpath
import re
import tomllib

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

REPOSITORY = pathlib.Path(__file__).parents[1]
COPIES = "repository"  # the folder of the site that has the images
LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!\w+:|#)([^)#\s]+)(#[^)\s]*)?\)")
# Scripts, styles, fonts and images of other hosts; links are no such thing.
FOREIGN = [
    re.compile(
        r"""<(?:script|img|iframe|source)\b[^>]*\ssrc=["'](?:\w+:)?//"""
    ),
    re.compile(r"""<link\b(?![^>]*canonical)[^>]*\shref=["'](?:\w+:)?//"""),
    re.compile(r"""@import\s+(?:url\()?["']?(?:\w+:)?//|url\(["']?\w*:?//"""),
]


def outside(page, link):
    """The path in the repository, or `None` if the file is in docs/."""
    folder = posixpath.join("docs", posixpath.dirname(page.src_uri))
    path = posixpath.normpath(posixpath.join(folder, link))
    return None if path.startswith("docs/") else path


def on_config(config):
    """Takes the address of the repository from pyproject.toml."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    config.repo_url = project["project"].get("urls", {}).get("Repository")
    return config


def on_files(files, config):
    """Adds the images outside of docs/ to the site."""
    images = {
        path
        for page in files.documentation_pages()
        for mark, _, link, _ in LINK.findall(page.content_string)
        if mark and (path := outside(page, link))
    }
    for path in sorted(images):
        file = REPOSITORY / path
        if not file.is_file():
            raise PluginError(f"There is no image {path}")
        name = f"{COPIES}/{path}"
        files.append(File.generated(config, name, abs_src_path=str(file)))
    return files


def on_page_markdown(markdown, page, config, files):
    """Makes the links out of docs/ fit the site."""
    del files

    def replaced(match):
        mark, text, link, anchor = match.groups()
        path = outside(page.file, link)
        if path is None:
            return match[0]
        if not (REPOSITORY / path).exists():
            raise PluginError(f"{page.file.src_uri}: there is no {path}")
        if mark:
            folder = posixpath.dirname(page.file.src_uri)
            copy = posixpath.relpath(f"{COPIES}/{path}", folder)
            return f"![{text}]({copy})"
        if not config.repo_url:
            return text
        address = config.repo_url.rstrip("/")
        return f"[{text}]({address}/blob/HEAD/{path}{anchor or ''})"

    return LINK.sub(replaced, markdown)


def on_post_build(config):
    """Refuses a site that needs other hosts."""
    found = [
        f"{file.name}: {match[0]}"
        for file in pathlib.Path(config.site_dir).rglob("*")
        if file.suffix in (".html", ".css")
        for pattern in FOREIGN
        for match in pattern.finditer(file.read_text())
    ]
    if found:
        raise PluginError("Other hosts are needed by " + "; ".join(found))
