"""Hooks of mkdocs: files outside of docs become pages, links to them work on both sides; formulas.

Pages link relative to the repository, as the git host shows them. The site has the files outside of
docs below ``repository/``.
"""

import logging
import posixpath
import re
from html import unescape
from pathlib import Path

import docs_reference
from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from pymdownx.slugs import slugify

ROOT = Path(__file__).parents[1]
OUTSIDE = [
    *("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "CITATION.cff"),
    "datasets/*/README.md",
]
LINK = re.compile(r'(?:(?<=\]\()|(?<=src="))(?![a-z]+:|#|/)([^)"#\s]+)')
MATH = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)
log = logging.getLogger("mkdocs.hooks.docs_site")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Name anchors as the git host does, so that links work on both sides."""
    config.mdx_configs["toc"]["slugify"] = slugify(case="lower")
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files outside of docs."""
    for pattern in OUTSIDE:
        for path in sorted(ROOT.glob(pattern)):
            name = f"repository/{path.relative_to(ROOT).as_posix()}"
            files.append(File.generated(config, name, abs_src_path=str(path)))
    for name, text in docs_reference.pages():
        files.append(File.generated(config, f"reference/{name}", content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links from a file of the repository to its place in the site."""
    source = page.file.src_uri
    folder = posixpath.dirname(posixpath.join("docs", source))
    if source.startswith("repository/"):
        folder = posixpath.dirname(source.removeprefix("repository/"))

    def rewritten(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(folder, match[1]))
        return posixpath.relpath(_place(target), posixpath.dirname(source) or ".")

    return LINK.sub(rewritten, markdown)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Write formulas as MathML, which browsers draw without a script."""

    def drawn(match: re.Match[str]) -> str:
        formula = _mathml(unescape(match[2]), is_displayed=match[1] == "div")
        if "\\" in formula:
            log.warning("%s: latex2mathml cannot draw %s", page.file.src_uri, match[2])
        return formula

    return MATH.sub(drawn, html)


def _mathml(latex: str, *, is_displayed: bool) -> str:
    formula = str(convert(latex, display="block" if is_displayed else "inline"))
    formula = formula.replace("<mo>&#x02016;", '<mo stretchy="false">&#x02016;')  # norms
    return f'<div class="formula">{formula}</div>' if is_displayed else formula


def _place(path: str) -> str:
    """Return where the site has a file of the repository."""
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    if path.startswith("conf/"):
        return f"reference/{path.split('/')[1]}.md"
    return f"repository/{path}"
