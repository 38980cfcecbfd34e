"""What MkDocs does in addition, see mkdocs.yml.

Pages link to files outside of docs/ as they do where the repository is browsed.
On the site, images among these files are copied. Links to other files lead into
the repository if pyproject.toml has its address. As long as it has none, they
lead to copies: texts and code become pages, which a browser shows, and all else
is copied as it is. Links to folders are then text.
"""

import pathlib
import posixpath
import re
import tomllib

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File
from mkdocs.structure.files import InclusionLevel

REPOSITORY = pathlib.Path(__file__).parents[1]
COPIES = "repository"  # the folder of the site that has the copies
# What becomes a page, and its language.
CODE = {
    "": "text",
    ".cff": "yaml",
    ".py": "python",
    ".toml": "toml",
    ".yaml": "yaml",
}
CODE_PAGE = """\
---
search:
  exclude: true
---

# {path}

``````{language}
{code}
``````
"""
# A block of code, in which nothing is a link, or a link to a file.
LINK = re.compile(
    r"^(?P<fence>`{3,}).*?^(?P=fence)$"
    r"|(?P<mark>!?)\[(?P<text>[^\]]*)\]"
    r"\((?!\w+:|#)(?P<link>[^)#\s]+)(?P<anchor>#[^)\s]*)?\)",
    re.DOTALL | re.MULTILINE,
)
# Scripts, styles, fonts and images of other hosts; links are no such thing.
FOREIGN = [
    re.compile(
        r"""<(?:script|img|iframe|source)\b[^>]*\ssrc=["'](?:\w+:)?//"""
    ),
    re.compile(r"""<link\b(?![^>]*canonical)[^>]*\shref=["'](?:\w+:)?//"""),
    re.compile(r"""@import\s+(?:url\()?["']?(?:\w+:)?//|url\(["']?\w*:?//"""),
]


def target(page, link):
    """The path in the repository of what a page links to."""
    inside = page.src_uri.startswith(f"{COPIES}/")
    path = page.src_uri[len(COPIES) + 1 :] if inside else f"docs/{page.src_uri}"
    return posixpath.normpath(posixpath.join(posixpath.dirname(path), link))


def name_on_site(path):
    """The name of a file of the repository among the files of the site."""
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    is_code = pathlib.PurePosixPath(path).suffix in CODE
    return f"{COPIES}/{path}" + ".md" * is_code


def copy(config, path):
    """A file outside of docs/, as a page or as it is."""
    file = REPOSITORY / path
    options = {"inclusion": InclusionLevel.NOT_IN_NAV}
    if file.suffix in CODE:
        options["content"] = CODE_PAGE.format(
            path=path, language=CODE[file.suffix], code=file.read_text()
        )
    else:
        options["abs_src_path"] = str(file)
    return File.generated(config, name_on_site(path), **options)


def on_config(config):
    """Takes the addresses of repository and site from pyproject.toml."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    urls = project["project"].get("urls", {})
    config.repo_url = urls.get("Repository")
    if "Documentation" in urls:
        config.site_url = urls["Documentation"].rstrip("/") + "/"
    return config


def on_files(files, config):
    """Adds the files outside of docs/ that the site needs."""
    pages = list(files.documentation_pages())
    added = set()
    for page in pages:  # copies among them, which may link to further files
        for match in LINK.finditer(page.content_string):
            if match["link"] is None or (config.repo_url and not match["mark"]):
                continue
            path = target(page, match["link"])
            if path.startswith("docs/") or path in added:
                continue
            if not (REPOSITORY / path).exists():
                raise PluginError(f"{page.src_uri}: there is no {path}")
            if (REPOSITORY / path).is_file():
                added.add(path)
                file = copy(config, path)
                files.append(file)
                if file.is_documentation_page():
                    pages.append(file)
    return files


def on_page_markdown(markdown, page, config, files):
    """Makes the links out of docs/ fit the site."""
    del files

    def replaced(match):
        if match["link"] is None:
            return match[0]
        path, anchor = target(page.file, match["link"]), match["anchor"] or ""
        if not (REPOSITORY / path).exists():
            raise PluginError(f"{page.file.src_uri}: there is no {path}")
        is_inside = path.startswith("docs/")
        if not (is_inside or match["mark"]) and config.repo_url:
            address = config.repo_url.rstrip("/")
            return f"[{match['text']}]({address}/blob/HEAD/{path}{anchor})"
        if (REPOSITORY / path).is_dir():
            return match["text"]
        folder = posixpath.dirname(page.file.src_uri)
        link = posixpath.relpath(name_on_site(path), folder)
        return f"{match['mark']}[{match['text']}]({link}{anchor})"

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
