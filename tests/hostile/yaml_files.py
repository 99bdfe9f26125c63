"""TASK files and recipes that are wrong: in their structure, or in how they are written down."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator
from typing import Any

import yaml

from tests.hostile.values import Draw, Meaning, gravest, misspelt, odd_scalar, odd_value

Tree = dict[str, Any]
Mutation = Callable[[Draw, Tree, bool], Meaning | None]
TextMutation = Callable[[Draw, bytes], tuple[bytes, Meaning]]
FREE = ("ood", "expect", "map", "sequences", "fusions", "unions", "mixes", "methods", "grid")  # their keys are names


def blocks(tree: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Every mapping and list of a tree, with the key under which it stands."""
    if isinstance(tree, dict):
        yield name, tree
        for key, value in tree.items():
            yield from blocks(value, key)
    elif isinstance(tree, list):
        yield name, tree
        for value in tree:
            yield from blocks(value, name)


def a_mapping(draw: Draw, tree: Tree) -> tuple[str, dict[str, Any]]:
    return draw.choice([(name, block) for name, block in blocks(tree) if isinstance(block, dict) and block])


def drop_key(draw: Draw, tree: Tree, huge: bool) -> Meaning | None:
    _, block = a_mapping(draw, tree)
    block.pop(draw.choice(list(block)))
    return None


def misspell_key(draw: Draw, tree: Tree, huge: bool) -> Meaning | None:
    name, block = a_mapping(draw, tree)
    key = draw.choice(list(block))
    new = misspelt(draw, str(key))
    block[new] = block.pop(key)
    return "hostile" if name in FREE or new == key else "wrong"


def add_key(draw: Draw, tree: Tree, huge: bool) -> Meaning | None:
    name, block = a_mapping(draw, tree)
    block[draw.choice(("lr_rate", "Labels", "texts2", "__proto__", "seed ", "0"))] = odd_value(draw, huge=huge)
    return "hostile" if name in FREE else "wrong"


def odd_key(draw: Draw, tree: Tree, huge: bool) -> Meaning | None:
    """A key that is a number, a date, nothing or a truth value."""
    _, block = a_mapping(draw, tree)
    key = odd_scalar(draw, huge=huge)
    block[key] = block.pop(draw.choice(list(block)))
    return None


def replace_value(draw: Draw, tree: Tree, huge: bool) -> Meaning | None:
    _, block = draw.choice([(name, block) for name, block in blocks(tree) if block])
    place = draw.choice(list(block) if isinstance(block, dict) else list(range(len(block))))
    block[place] = odd_value(draw, huge=huge)
    return None


def wrap_value(draw: Draw, tree: Tree, huge: bool) -> Meaning | None:
    """A value in a list of one, as text, or as the key of a block."""
    _, block = a_mapping(draw, tree)
    key = draw.choice(list(block))
    block[key] = draw.choice(([block[key]], str(block[key]), {str(block[key]): None}, {"path": block[key]}))
    return None


def swap_values(draw: Draw, tree: Tree, huge: bool) -> Meaning | None:
    _, block = a_mapping(draw, tree)
    one, two = draw.choice(list(block)), draw.choice(list(block))
    block[one], block[two] = block[two], block[one]
    return None


def change_list(draw: Draw, tree: Tree, huge: bool) -> Meaning | None:
    """An item doubled, dropped, out of its order or of another kind."""
    lists = [block for _, block in blocks(tree) if isinstance(block, list) and block]
    if lists:
        items = draw.choice(lists)
        odd, first = odd_scalar(draw, huge=huge), items[0]
        draw.choice((lambda: items.append(first), items.pop, items.clear, lambda: items.append(odd)))()
    return None


def yes_and_no(draw: Draw, tree: Tree, huge: bool) -> Meaning | None:
    """Labels that YAML reads as truth values, numbers or dates when they are not quoted."""
    words = ([False, True], ["no", "yes"], [0, 1], ["0", "1"], ["1", "0"], [1.0, 2.0], [None, "x"], ["on", "off"])
    tree["labels"] = draw.choice(words)
    return None


STRUCTURE: dict[str, Mutation] = {
    "key dropped": drop_key,
    "key misspelt": misspell_key,
    "unknown key": add_key,
    "key of another type": odd_key,
    "other value": replace_value,
    "value wrapped": wrap_value,
    "values swapped": swap_values,
    "list changed": change_list,
    "yes and no": yes_and_no,
}


def double_key(draw: Draw, text: bytes) -> tuple[bytes, Meaning]:
    """A key that stands twice in one block, with another value."""
    lines = [line for line in text.splitlines() if re.match(rb"\w+:", line)]
    if not lines:
        return text, "hostile"
    key = draw.choice(lines).partition(b":")[0]
    return text + key + b": " + draw.choice((b"x", b"1", b"[a, b]", b"{}")) + b"\n", "wrong"


def double_inner_key(draw: Draw, text: bytes) -> tuple[bytes, Meaning]:
    lines = [line for line in text.splitlines() if re.match(rb" +\w+: [\w.]+$", line)]
    if not lines:
        return text, "hostile"
    line = draw.choice(lines)
    return text.replace(line, line + b"\n" + line, 1), "wrong"


def spoil_bytes(draw: Draw, text: bytes) -> tuple[bytes, Meaning]:
    place = draw.randrange(len(text) + 1)
    junk = draw.choice(
        (b"\x00", b"\xff\xfe", b"\t", b"{", b"]", b": ", b"&a ", b"*a", b"'", b"\x85", b"!!", b"%", b"|")
    )
    return text[:place] + junk + text[place:], "hostile"


def cut(draw: Draw, text: bytes) -> tuple[bytes, Meaning]:
    return text[: draw.randrange(len(text) + 1)], "hostile"


def without_key(text: bytes, key: bytes) -> bytes:
    """A file without one of its first keys and what stands under it."""
    return re.sub(rb"^" + key + rb":.*\n(?:[ -].*\n)*", b"", text, flags=re.MULTILINE)


def alias_bomb(draw: Draw, text: bytes) -> tuple[bytes, Meaning]:
    """A billion laughs, of lists or of merged mappings, as the value of a key."""
    depth, merged = draw.choice((3, 9, 25)), draw.random() < 0.3
    grown = ["&a0 {x: y}" if merged else "&a0 [x, x]"]
    for i in range(1, depth):
        again = ", ".join([f"*a{i - 1}"] * 9)
        grown.append(f"&a{i} {{<<: [{again}]}}" if merged else f"&a{i} [{again}]")
    keys = ("labels", "name", "ood", "train", "text", "head", "data", "seeds", "localize", "expect")
    key = draw.choice(keys)
    inner = f"{{{', '.join(f'k{i}: {value}' for i, value in enumerate(grown))}}}"
    value = draw.choice((f"[{', '.join(grown)}]", inner, f"{{kind: {inner}}}", f"{{lr: [{', '.join(grown)}]}}"))
    return without_key(text, key.encode()) + f"{key}: {value}\n".encode(), "wrong"


def alias_to_itself(draw: Draw, text: bytes) -> tuple[bytes, Meaning]:
    key = draw.choice((b"train", b"labels", b"head", b"ood", b"text", b"seeds", b"name"))
    value = draw.choice((b": &a {x: *a}\n", b": &a [*a, *a]\n", b": [x, &a {lr: *a}]\n", b": {lr: &a [*a]}\n"))
    return without_key(text, key) + key + value, "wrong"


def nest_deeply(draw: Draw, text: bytes) -> tuple[bytes, Meaning]:
    depth = draw.choice((50, 900, 5000))
    key = draw.choice((b"labels", b"name", b"expect", b"train", b"ood"))
    deep = draw.choice((b"[" * depth + b"]" * depth, b"{a: " * depth + b"}" * depth))
    return without_key(text, key) + key + b": " + deep, "wrong"


def rewrite(draw: Draw, text: bytes) -> tuple[bytes, Meaning]:
    """The same content, written down in another way."""
    ways: tuple[Callable[[], bytes], ...] = (
        lambda: text.replace(b"\n", b"\r\n"),
        lambda: b"# a comment\n---\n" + text + b"\n\n",
        lambda: b"\xef\xbb\xbf" + text,
        lambda: text.decode().encode("utf-16"),
        lambda: yaml.safe_dump(yaml.safe_load(text), default_flow_style=True, sort_keys=False).encode(),
    )
    try:
        return draw.choice(ways)(), "harmless"
    except (yaml.YAMLError, UnicodeDecodeError):  # mutated before: there is no such content
        return text, "hostile"


def write_other(draw: Draw, text: bytes) -> tuple[bytes, Meaning]:
    """No mapping at all, or more than one document."""
    tags = (
        b"!!python/object/apply:os.system ['touch executed']",
        b"!!python/name:os.system x",
        b"!!binary x",
        b"!t {}",
    )
    whole = (b"", b"\n\n", b"null", b"- a\n- b\n", b"text", b"42", b"2024-01-01", text + b"---\n" + text, b"[" + text)
    return draw.choice((*whole, *(b"name: " + tag for tag in tags))), "wrong"


def long_text(draw: Draw, text: bytes) -> tuple[bytes, Meaning]:
    """Megabytes in one scalar, and for one file in some hundred ten of them."""
    size = 10_000_000 if draw.random() < 0.05 else 100_000
    return text + b"licence: " + b"x" * size + b"\n", "wrong"


def yaml_1_1(draw: Draw, text: bytes) -> tuple[bytes, Meaning]:
    """Spellings that YAML 1.1 reads in its own way: octal, base 60, truth values, dates."""
    words = (b"010", b"1:30", b"0b11", b"1_000", b"yes", b"Off", b"2024-01-01", b"2024-13-45", b".inf", b".nan", b"0o7")
    places = list(re.finditer(rb"(?<=: )[\w.]+$", text, re.MULTILINE))
    if not places:
        return text, "hostile"
    place = draw.choice(places)
    return text[: place.start()] + draw.choice((*words, b"=", b"<<", b"'true'", b'"false"')) + text[
        place.end() :
    ], "hostile"


WRITING: dict[str, TextMutation] = {
    "key twice": double_key,
    "inner key twice": double_inner_key,
    "spoilt bytes": spoil_bytes,
    "cut": cut,
    "aliases that explode": alias_bomb,
    "alias to itself": alias_to_itself,
    "deep nesting": nest_deeply,
    "written otherwise": rewrite,
    "no mapping": write_other,
    "long text": long_text,
    "YAML 1.1": yaml_1_1,
}


def to_text(content: Tree) -> bytes:
    """YAML of a tree; what YAML has no word for becomes text."""
    try:
        return yaml.safe_dump(content, sort_keys=False).encode("utf-8", "surrogatepass")
    except yaml.YAMLError:
        return repr(content).encode("utf-8", "surrogatepass")


def hostile_yaml(draw: Draw, content: Tree, *, huge: bool = True) -> tuple[bytes, list[str], Meaning]:
    """A file, the names of what was done to it, and what that means.

    Args:
        draw: of everything.
        content: what a sound file holds.
        huge: whether numbers may be huge, so that what is asked for would rightly never end.
    """
    tree, names = copy.deepcopy(content), []
    meanings: list[Meaning] = []
    for _ in range(draw.choice((0, 1, 1, 1, 2, 3))):
        names.append(draw.choice(list(STRUCTURE)))
        meanings.append(STRUCTURE[names[-1]](draw, tree, huge) or "hostile")
        if not tree:
            break
    text = to_text(tree)
    if not names or draw.random() < 0.2:
        name = draw.choice(list(WRITING))
        text, meaning = WRITING[name](draw, text)
        names.append(name)
        meanings.append(meaning)
    together: Meaning = gravest(meanings) if len(names) == 1 else "hostile"  # one may undo another
    return text, names, together
