"""Fill in a jinja2 template: a page, whose values are escaped, or a Markdown file."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup


def render_template(
    template: Path,
    filters: Mapping[str, Any],
    clean: Callable[[object], str],
    **context: object,
) -> str:
    """`template` with `context`. `clean` turns any value into text that is safe to print.

    A template whose name ends in `.html.jinja` is escaped as HTML; an unknown name is an error.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(template.parent),
        autoescape=template.name.endswith(".html.jinja"),
        finalize=lambda value: value if isinstance(value, Markup) else clean(value),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= filters
    return environment.get_template(template.name).render(context)
