"""The tags of a prompt, such as `<message>`, which what it shows can neither open nor close."""

import re
from collections.abc import Iterable

from jinja2 import nodes

from trivium.llm.prompt_values import MARK

# White space, and what looks like none at all.
_GAP = r"[\s\x00-\x20\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff]*+"
_TAG = re.compile(rf"<(?={_GAP}(?:/{_GAP})?([a-z_][\w:.-]*)[\s/>])", re.IGNORECASE)


class Tags:
    """The tags that templates have in their text.

    Each `<` of theirs is marked before the values are filled in, so that afterwards any other `<` before
    the name of a tag is of a value, in one piece or in several.
    """

    def __init__(self, templates: Iterable[nodes.Template]) -> None:
        names = {name.lower() for tree in templates for text in _texts(tree) for name in _TAG.findall(text)}
        any_name = "|".join(re.escape(name) for name in sorted(names))
        self._forged = re.compile(rf"<(?={_GAP}(?:/{_GAP})?(?:{any_name})(?![\w:.-]))", re.IGNORECASE)
        self._none = not names

    def mark(self, template: nodes.Template) -> None:
        """Marks the tags in a template's own text."""
        for data in template.find_all(nodes.TemplateData):
            data.data = _TAG.sub(MARK, data.data.replace(MARK, "\ufffd"))

    def guard(self, rendered: str) -> str:
        """Puts the marked tags back, and `&lt;` for the `<` of every other."""
        if self._none:
            return rendered
        return self._forged.sub("&lt;", rendered).replace(MARK, "<")


def _texts(template: nodes.Template) -> list[str]:
    texts = [data.data for data in template.find_all(nodes.TemplateData)]
    constants = [const.value for const in template.find_all(nodes.Const)]
    return texts + [text for text in constants if isinstance(text, str)]
