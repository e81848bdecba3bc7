r"""An extension of griffe: formulas and roles of Sphinx in docstrings become Markdown.

``.. math::`` and ``:math:`` become formulas as pages have them, and ``:class:`~a.b.C``` becomes
``C``, with a link where the site has it.
"""

import re
from typing import Any

from griffe import Extension, Object

# to the end of its line, and what is indented more than it
BLOCK = re.compile(r"^( *)\.\. math::(.*(?:\n(?:\1 +\S.*|(?=\n\1 +\S)))*)", re.MULTILINE)
INLINE = re.compile(r":math:`([^`]+)`")
ROLE = re.compile(r":(?:class|func|meth|attr|mod|data|exc):`(~?)([\w.\s]+)`")


class SphinxMarkup(Extension):
    """Rewrites every docstring before it is parsed."""

    def on_object(self, *, obj: Object, **kwargs: Any) -> None:
        """Rewrite the docstring of one object."""
        if obj.docstring:
            obj.docstring.value = in_markdown(obj.docstring.value)


def in_markdown(docstring: str) -> str:
    """Return a docstring in Markdown."""
    return ROLE.sub(_name, INLINE.sub(_formula, BLOCK.sub(_displayed, docstring)))


def _displayed(match: re.Match[str]) -> str:
    return f"\n{match[1]}$${_line(match[2])}$$\n"


def _formula(match: re.Match[str]) -> str:
    return f"${_line(match[1])}$"


def _line(formula: str) -> str:
    return " ".join(formula.split())


def _name(match: re.Match[str]) -> str:
    is_short = bool(match[1])
    path = "".join(match[2].split())
    name = path.rpartition(".")[2] if is_short else path
    return f'<autoref optional identifier="{path}">`{name}`</autoref>'
