"""Finds any of many words in one pass over a text, however many there are.

Here belongs the making of one pattern of all words: a tree by their first letters, so that a place in the text is left
after as many steps as letters agree, and not tried once a word.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_LONGEST = 32  # letters of a word that are looked for: more would say nothing new, and the tree stays flat

_Tree = dict[int, "_Tree"]


def one_of(words: Iterable[bytes]) -> re.Pattern[bytes]:
    """A pattern that `search` finds wherever one of the words stands, or the first 32 bytes of it; never for no words."""
    tree: _Tree = {}
    for word in sorted({word[:_LONGEST] for word in words if word}):
        _add(tree, word)
    return re.compile(_alternatives(tree) if tree else rb"(?!)", re.DOTALL)


def _add(tree: _Tree, word: bytes) -> None:
    """Words come sorted: one that begins with another is found by that one."""
    for letter in word:
        if letter in tree and not tree[letter]:
            return
        tree = tree.setdefault(letter, {})


def _alternatives(tree: _Tree) -> bytes:
    branches = [_branch(letter, below) for letter, below in tree.items()]
    return branches[0] if len(branches) == 1 else b"(?:" + b"|".join(branches) + b")"


def _branch(letter: int, below: _Tree) -> bytes:
    found = re.escape(bytes([letter]))
    while len(below) == 1:
        ((letter, below),) = below.items()
        found += re.escape(bytes([letter]))
    return found + _alternatives(below) if below else found
