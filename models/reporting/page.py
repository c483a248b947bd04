"""A Markdown report as one HTML file that needs nothing beside it."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping
from string import Template
from typing import Final

from markdown_it import MarkdownIt

_KINDS: Final = {".svg": "image/svg+xml", ".png": "image/png"}
_PAGE: Final = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
:root { --ink: #1c2b33; --quiet: #5d707a; --line: #dde5e8; --lead: #1f6f8b; }
body { margin: 0 auto; max-width: 76rem; padding: 2.5rem 1.5rem 5rem; color: var(--ink);
  font: 16px/1.55 system-ui, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 1rem; }
h2 { font-size: 1.3rem; margin: 3rem 0 .5rem; padding-top: 1.2rem;
  border-top: 1px solid var(--line); }
p { max-width: 48rem; color: var(--quiet); }
ul { padding-left: 1.2rem; color: var(--quiet); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .86rem; font-variant-numeric: tabular-nums; }
th, td { padding: .4rem .8rem; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { text-align: left; font-weight: 600; border-bottom: 2px solid var(--lead); }
td:first-child { font-weight: 500; }
tbody tr:hover { background: #f4f8f9; }
img { max-width: 100%; height: auto; margin: 1.5rem 0 0; }
@media print { body { max-width: none; } h2 { break-after: avoid; } }
</style>
</head>
<body>
$body
</body>
</html>
""")


def as_page(markdown: str, files: Mapping[str, bytes]) -> str:
    """The report as HTML, with its pictures inside.

    Args:
        markdown: what `as_markdown` gave. HTML in it is shown as text, not run.
        files: name of each picture that it names to its bytes.

    Raises:
        ValueError: for a picture of a kind that is not known.
    """
    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(markdown)
    body = body.replace("<table>", '<div class="wide"><table>').replace(
        "</table>", "</table></div>"
    )
    for name, content in files.items():
        kind = _KINDS.get(name[name.rfind(".") :])
        if kind is None:
            raise ValueError(f"page: {name} is no picture; known are {', '.join(_KINDS)}")
        inside = f"data:{kind};base64,{base64.b64encode(content).decode()}"
        body = body.replace(f'src="{html.escape(name)}"', f'src="{inside}"')
    title = markdown.partition("\n")[0].lstrip("# ")
    return _PAGE.substitute(title=html.escape(title), body=body)
