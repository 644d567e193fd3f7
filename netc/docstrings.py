"""The texts under the fields of a class, read from its source when they are asked for.

Pydantic would read them whenever a class is made (`use_attribute_docstrings`). With a hundred classes of layers that is
a third of the time in which netc starts, and only the JSON Schema and the pages made of it say them.
"""

import ast
import functools
import inspect
import itertools
import sys

Texts = dict[str, str]


def texts_of(cls: type[object]) -> Texts:
    """Return the text under each field that a class of a module declares, or inherits and does not declare anew.

    A class inside of another, or of a function, has none.
    """
    texts: Texts = {}
    for each in reversed(cls.__mro__):
        declared = inspect.get_annotations(each)
        texts = {name: text for name, text in texts.items() if name not in declared}
        texts |= _texts_of_module(each.__module__).get(each.__qualname__, {}) if declared else {}
    return texts


@functools.cache
def _texts_of_module(name: str) -> dict[str, Texts]:
    """Return the texts of each class of a module."""
    tree = ast.parse(inspect.getsource(sys.modules[name]))
    return {node.name: _texts(node) for node in tree.body if isinstance(node, ast.ClassDef)}


def _texts(node: ast.ClassDef) -> Texts:
    texts: Texts = {}
    for field, below in itertools.pairwise(node.body):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(below, ast.Expr)
            and isinstance(below.value, ast.Constant)
            and isinstance(below.value.value, str)
        ):
            texts[field.target.id] = inspect.cleandoc(below.value.value)
    return texts
