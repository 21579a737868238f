"""Marks by two oracles in plain Python: a tree with operands that are literals, and a regular expression."""

import re
from collections.abc import Callable


class Node:
    """A part of an expression: its kind, the characters that it covers, and its operands."""

    def __init__(self, kind: str, begin: int, end: int, *operands: "Node") -> None:
        self.kind, self.begin, self.end, self.operands = kind, begin, end, operands

    @property
    def literal(self) -> bool:
        return self.kind == "number" or (self.kind == "minus" and self.operands[0].kind == "number")

    def spans(self) -> list[tuple[int, int]]:
        """The operations whose operands are literals; brackets include a minus directly before them."""
        if self.literal:
            return []
        if all(operand.literal for operand in self.operands):
            return [(self.begin, self.end)]
        inner = self.operands[0]
        if self.kind == "minus" and inner.kind == "brackets" and inner.operands[0].literal:
            return [(self.begin, self.end)]
        return [span for operand in self.operands for span in operand.spans()]


def parsed(text: str) -> Node:
    """The tree of an expression; a parser with one function for each level of precedence."""
    place = 0

    def accept(characters: str) -> str:
        nonlocal place
        if place < len(text) and text[place] in characters:
            place += 1
            return text[place - 1]
        return ""

    def chain(operators: str, operand: Callable[[], Node]) -> Node:
        node = operand()
        while operator := accept(operators):
            right = operand()
            node = Node(operator, node.begin, right.end, node, right)
        return node

    def factor() -> Node:
        begin = place
        if accept("-"):
            inner = factor()
            return Node("minus", begin, inner.end, inner)
        if accept("("):
            inner = total()
            assert accept(")")
            return Node("brackets", begin, place, inner)
        while accept("0123456789"):
            pass
        assert place > begin
        return Node("number", begin, place)

    def total() -> Node:
        return chain("+-", lambda: chain("*", factor))

    node = total()
    assert place == len(text)
    return node


def by_tree(text: str) -> list[tuple[int, int]]:
    return parsed(text).spans()


# A unary minus as '~', so that rules are one character of the text each.
RULES = re.compile(
    r"~?\(~?\d+\)"
    r"|(?<!\d)~~\d+"
    r"|(?<![*~\d])~?\d+\*~?\d+"
    r"|(?:^|(?<=\())~?\d+[+-]~?\d+(?![\d*])"
)


def by_rules(text: str) -> list[tuple[int, int]]:
    return [match.span() for match in RULES.finditer(re.sub(r"(?<![\d)])-", "~", text))]


def with_brackets(text: str, spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The spans; those of two numbers that fill a bracket without a minus before it are extended by the bracket."""
    found, text = [], re.sub(r"(?<![\d)])-", "~", text)
    for begin, end in spans:
        two_numbers = re.fullmatch(r"~?\d+[-+*]~?\d+", text[begin:end])
        filled = re.search(r"(?<!~)\($", text[:begin]) and text[end : end + 1] == ")"
        found.append((begin - 1, end + 1) if two_numbers and filled else (begin, end))
    return found


def marks_at(text: str, spans: list[tuple[int, int]]) -> str:
    marks = ["."] * len(text)
    for begin, end in spans:
        marks[begin:end] = "^" * (end - begin)
    return "".join(marks)


def spans_in(marks: str) -> list[tuple[int, int]]:
    return [match.span() for match in re.finditer(r"\^+", marks)]


def carried_out(text: str, marks: str) -> str:
    """The text with the value of each marked operation in its place, computed by Python."""
    for begin, end in reversed(spans_in(marks)):
        text = f"{text[:begin]}{eval(text[begin:end])}{text[end:]}"
    return text
