"""Parse a page as a browser does, and list the leaves of a JSON value, to compare the two."""

from html.parser import HTMLParser


class Reader(HTMLParser):
    """What a browser sees: open elements (each must be closed), addresses, ids, values of <data>, and plain text."""

    VOID = frozenset("meta link br img input".split())

    def __init__(self, text: str):
        super().__init__()
        self.open, self.addresses, self.ids, self.numbers, self.words = [], [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.addresses += [
            given[name] for name in ("src", "href", "poster", "data", "action", "xlink:href") if given.get(name)
        ]
        self.ids += [given["id"]] if "id" in given else []
        self.numbers += [float(given["value"])] if tag == "data" else []
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, (tag, self.open[-4:], self.getpos())

    def handle_data(self, data):
        if not {"style", "script", "data", "svg", "code", "pre", "sup"} & set(self.open):
            self.words.append(data)


def flat(value) -> list:
    """All numbers and strings below a value of JSON."""
    if isinstance(value, dict):
        return [leaf for item in value.values() for leaf in flat(item)]
    if isinstance(value, list):
        return [leaf for item in value for leaf in flat(item)]
    return [value]
