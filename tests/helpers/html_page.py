"""A page as a reader of it sees it: text, titles, tags."""

from html.parser import HTMLParser

VOID = {"meta", "img", "br", "rect", "line", "polygon"}


class Page(HTMLParser):
    """Text, tags and attributes of a page; fails where tags do not close each other."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.titles: list[str] = []
        self._open: list[str] = []
        self.feed(content)
        self.close()
        assert self._open == []
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open[-1:] == ["h2"]:
            self.titles.append(data.strip())
        if self._open[-1:] != ["style"]:
            self.words.append(data)

    def count(self, tag: str, kind: str | None = None) -> int:
        return sum(t == tag and (kind is None or a.get("class") == kind) for t, a in self.tags)

    def values(self, tag: str, attribute: str) -> list[str]:
        return [str(a[attribute]) for t, a in self.tags if t == tag and attribute in a]
