"""Blocks: declared once with parameters, used by name, expanded tree to tree before anything is validated.

    blocks:
      basic:
        parameters: {channels: null, stride: 1}     # null: every use must give it
        layers:
          - {name: conv1, type: Convolution, num_output: $channels, kernel_size: 3, pad: 1, stride: $stride}
          - {name: relu1, type: ReLU}
          - {name: conv2, type: Convolution, num_output: $channels, kernel_size: 3, pad: 1}
          - {name: sum, type: Eltwise, bottom: [conv2, $in]}
    layers:
      - {name: res1, block: basic, channels: 16, repeat: 3}

A use becomes the block's layers with scoped names (res1/conv1; with `repeat` res1/1/conv1, res1/2/conv1, ...), between
two layers of type Split, which cost nothing: `res1/in`, which `$in` stands for, and `res1`, the top of the last layer.
Inside, a name means the block's own layer if it has one; every inner layer can be read from outside by its scoped name,
which is how a block has several outputs. A `side` of a use branches off behind its last layer. With `checkpoint: true`
the layers of each copy get its name, `res1/2`, as one more `checkpoint`. `$channels` alone is the parameter's value,
`${channels * 4}` arithmetic. `use: [blocks/resnet.yaml]` imports the blocks of other files,
relative to the file that says so.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

from netc.declared import shown
from netc.errors import Diagnostic, Position, SpecError, did_you_mean
from netc.spec.instances import Block, BlockError, Instance, named, with_field
from netc.spec.text import read_tree
from netc.spec.tree import Entry, Node, Tree, plain

MAX_LAYERS = 20_000  # after expansion; ResNet-1202 has 3,600
MAX_NESTING = 16
OWN_KEYS = frozenset({"name", "block", "bottom", "repeat", "include", "side", "checkpoint"})


def expand_blocks(tree: Tree, folder: Path | None = None) -> Tree:
    """Return the tree without `blocks` and `use`, every use of a block replaced by its layers.

    Args:
        tree: a parsed spec.
        folder: where `use` looks for files; None refuses it.

    Raises:
        SpecError: all mistakes in blocks and their uses.
    """
    root = tree.root.content
    assert isinstance(root, dict), "the root of a tree is a mapping"
    if not {"blocks", "use", "fuse"} & root.keys() and not _uses_blocks(root.get("layers")):
        return tree
    expander = _Expander(folder)
    expander.define(root, folder, ())
    rest = {key: entry for key, entry in root.items() if key not in ("blocks", "use")}
    if "layers" in rest:
        rest["layers"] = expander.entry(rest["layers"])
    fuse = rest.get("fuse")
    if fuse is not None and isinstance(fuse.node.content, dict) and "layers" in fuse.node.content:
        content = fuse.node.content | {"layers": expander.entry(fuse.node.content["layers"])}
        rest["fuse"] = Entry(fuse.key, Node(fuse.node.position, content))
    if expander.diagnostics:
        raise SpecError(expander.diagnostics)
    return Tree(Node(tree.root.position, rest))


def _uses_blocks(layers: Entry | None) -> bool:
    nodes = layers.node.content if layers is not None else ()
    return isinstance(nodes, tuple) and any(isinstance(n.content, dict) and "block" in n.content for n in nodes)


class _Expander:
    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._blocks: dict[str, Block] = {}
        self.diagnostics: list[Diagnostic] = []
        self._count = 0

    # -- definitions -------------------------------------------------------------------------------------

    def define(self, root: Mapping[str, Entry], folder: Path | None, files: tuple[Path, ...]) -> None:
        """Collect the blocks of a file and of the files that it uses."""
        message = "use should be a list of files, such as [blocks/resnet.yaml]"
        for file in _items(root.get("use"), self._report, message):
            self._import(file, folder, files)
        blocks = root.get("blocks")
        if blocks is None:
            return
        if not isinstance(blocks.node.content, dict):
            self._report(blocks.node.position, "blocks should be a mapping from names to blocks")
            return
        for name, entry in blocks.node.content.items():
            if name in self._blocks:
                first = self._blocks[name].position
                self._report(entry.key, f'the block "{name}" is defined already ({first})')
            else:
                self._define(name, entry)

    def _import(self, entry: Node, folder: Path | None, files: tuple[Path, ...]) -> None:
        name = entry.content
        if not isinstance(name, str) or Path(name).is_absolute():
            self._report(entry.position, "use takes paths relative to this file, such as blocks/resnet.yaml")
            return
        if folder is None:
            self._report(entry.position, f'"{name}" cannot be found: this spec is no file')
            return
        try:
            path = (folder / name).resolve()
        except (OSError, RuntimeError, ValueError):  # links in a circle, or a byte that no path has
            self._report(entry.position, f"{shown(name)} cannot be the path of a file; check its spelling")
            return
        if path in files:
            self._report(entry.position, f'"{name}" uses this file again; files cannot use each other in a circle')
            return
        try:
            tree = read_tree(path)
        except SpecError as error:
            self._report(entry.position, f'"{name}" cannot be used: {error.diagnostics[0]}')
            return
        content = tree.root.content
        assert isinstance(content, dict), "the root of a tree is a mapping"
        for key, found in content.items():
            if key not in ("blocks", "use"):
                self._report(found.key, f'a file for `use` holds only blocks and use, not "{key}"')
        self.define(content, path.parent, (*files, path))

    def _define(self, name: str, entry: Entry) -> None:
        content = entry.node.content
        if not isinstance(content, dict) or "layers" not in content:
            self._report(entry.node.position, f'the block "{name}" needs layers')
            return
        for key, found in content.items():
            if key not in ("parameters", "layers"):
                self._report(found.key, f'a block has no field "{key}"{did_you_mean(key, ("parameters", "layers"))}')
        layers = content["layers"].node
        given = content.get("parameters")
        parameters = given.node.content if given is not None else {}
        if not isinstance(layers.content, tuple) or not layers.content:
            self._report(layers.position, f'the layers of the block "{name}" should be a list of at least one layer')
            return
        if not isinstance(parameters, dict):
            self._report(entry.node.position, "parameters should be a mapping from names to defaults (null: required)")
            return
        for key, found in parameters.items():
            if key in OWN_KEYS or not key.isidentifier() or key == "in":
                self._report(found.key, f'"{key}" cannot be the name of a parameter')
        nodes = {key: found.node for key, found in parameters.items()}
        self._blocks[name] = Block(name, entry.key, nodes, named(layers.content))

    # -- uses --------------------------------------------------------------------------------------------

    def entry(self, layers: Entry) -> Entry:
        """Expand a list of layers of the spec itself; what is no list is left for validation."""
        if not isinstance(layers.node.content, tuple):
            return layers
        return Entry(layers.key, Node(layers.node.position, tuple(self.layers(layers.node.content, "", ()))))

    def layers(self, layers: tuple[Node, ...], scope: str, nesting: tuple[str, ...]) -> list[Node]:
        """Expand a list of layers; `scope` is the prefix of their names, `nesting` the blocks around them."""
        expanded: list[Node] = []
        for layer in layers:
            try:
                expanded += self._layer(layer, scope, nesting)
            except BlockError as problem:
                self.diagnostics.append(problem.diagnostic)
        return expanded

    def _layer(self, layer: Node, scope: str, nesting: tuple[str, ...]) -> list[Node]:
        self._count += 1
        if self._count > MAX_LAYERS:
            # The end: going on would only repeat it, for every copy of every block.
            message = f"blocks expand to more than {MAX_LAYERS:,} layers; repeat them less often"
            raise SpecError([*self.diagnostics, Diagnostic(layer.position, message)])
        if isinstance(layer.content, dict) and "block" in layer.content:
            return self._use(layer, layer.content, scope, nesting)
        return [self._with_side(layer, scope, nesting)]

    def _with_side(self, layer: Node, scope: str, nesting: tuple[str, ...]) -> Node:
        """Expand the layers of a side; everything else of a plain layer stays."""
        content = layer.content
        side = content.get("side") if isinstance(content, dict) else None
        if not isinstance(content, dict) or side is None or not isinstance(side.node.content, dict):
            return layer
        layers = side.node.content.get("layers")
        if layers is None or not isinstance(layers.node.content, tuple):
            return layer
        inner = Node(layers.node.position, tuple(self.layers(layers.node.content, scope, nesting)))
        changed = side.node.content | {"layers": Entry(layers.key, inner)}
        return Node(layer.position, content | {"side": Entry(side.key, Node(side.node.position, changed))})

    def _use(self, use: Node, content: dict[str, Entry], scope: str, nesting: tuple[str, ...]) -> list[Node]:
        named = content["block"].node
        if not isinstance(named.content, str):
            raise BlockError(named.position, f"block: expected the name of a block, got {shown(plain(named))}")
        block = self._blocks.get(named.content)
        if block is None:
            near = did_you_mean(named.content, self._blocks)
            raise BlockError(named.position, f"unknown block {shown(named.content)}{near}")
        if block.name in nesting or len(nesting) >= MAX_NESTING:
            chain = " uses ".join((*nesting, block.name))
            raise BlockError(named.position, f"blocks are nested in a circle or too deep: {chain}")
        name = content.get("name")
        if name is None or not isinstance(name.node.content, str):
            raise BlockError(use.position, f'this use of the block "{block.name}" needs a name')
        given = self._arguments(block, content, use.position)
        repeat = content["repeat"].node if "repeat" in content else Node(use.position, 1)
        times = repeat.content
        if not isinstance(times, int) or isinstance(times, bool) or times < 1:
            raise BlockError(repeat.position, "repeat: should be an integer from 1 on")
        mark = _checkpoint(content)
        own = name.node.content
        source = content["bottom"].node if "bottom" in content else None
        expanded: list[Node] = []
        for number in range(1, times + 1):
            prefix = _join(scope, f"{own}/{number}" if "repeat" in content else own)
            instance = Instance(block, prefix, given | {"index": Node(use.position, number)}, use.position)
            expanded.append(split_layer(f"{prefix}/in", source if number == 1 else None, use.position))
            inner = tuple(instance.layer(layer) for layer in block.layers)
            layers = self.layers(inner, prefix, (*nesting, block.name))
            expanded += layers if mark is None else [_within_checkpoint(layer, prefix, mark.key) for layer in layers]
            expanded.append(split_layer(prefix, None, use.position))
        if "repeat" in content:
            expanded.append(split_layer(_join(scope, own), None, use.position))
        if "side" in content:
            expanded[-1] = self._with_side(with_field(expanded[-1], "side", content["side"]), scope, nesting)
        include = content.get("include")
        return expanded if include is None else [_included(layer, include) for layer in expanded]

    def _arguments(self, block: Block, content: dict[str, Entry], use: Position) -> dict[str, Node]:
        """Return the value of every parameter of a block at one use."""
        for key, entry in content.items():
            if key not in OWN_KEYS and key not in block.parameters:
                known = {*block.parameters, *OWN_KEYS}
                message = f'the block "{block.name}" has no parameter "{key}"{did_you_mean(key, known)}'
                raise BlockError(entry.key, message)
        values = {key: content[key].node if key in content else default for key, default in block.parameters.items()}
        missing = [key for key, node in values.items() if node.content is None]
        if missing:
            raise BlockError(use, f'the block "{block.name}" needs {", ".join(missing)}')
        return values

    def _report(self, position: Position, message: str) -> None:
        self.diagnostics.append(Diagnostic(position, message))


def _included(layer: Node, include: Entry) -> Node:
    """Return a layer that takes part when the use of its block does.

    Raises:
        BlockError: the layer has an include of its own, for another phase.
    """
    own = layer.content.get("include") if isinstance(layer.content, dict) else None
    if own is not None and plain(own.node) != plain(include.node):
        raise BlockError(
            own.node.position, "the use of the block has another include, so that this layer never takes part"
        )
    return with_field(layer, "include", include)


def _checkpoint(use: Mapping[str, Entry]) -> Entry | None:
    """Return what says that the copies of a block are computed again in the backward pass, None if nothing does.

    Raises:
        BlockError: it is neither true nor false.
    """
    mark = use.get("checkpoint")
    if mark is None:
        return None
    if not isinstance(mark.node.content, bool):
        message = f"checkpoint: of a block is true or false, not {shown(plain(mark.node))}"
        raise BlockError(mark.node.position, message)
    return mark if mark.node.content else None


def _within_checkpoint(layer: Node, name: str, key: Position) -> Node:
    """Return a layer that is computed again with others of a checkpoint, around those that it has already."""
    inner = layer.content.get("checkpoint") if isinstance(layer.content, dict) else None
    own = () if inner is None else inner.node.content if isinstance(inner.node.content, tuple) else (inner.node,)
    return with_field(layer, "checkpoint", Entry(key, Node(key, (Node(key, name), *own))))


def _join(scope: str, name: str) -> str:
    return f"{scope}/{name}" if scope else name


def split_layer(name: str, bottom: Node | None, position: Position) -> Node:
    """Return a layer that passes its bottom on under another name."""
    fields = {"name": Node(position, name), "type": Node(position, "Split")}
    if bottom is not None:
        fields["bottom"] = bottom
    return Node(position, {key: Entry(position, value) for key, value in fields.items()})


def _items(entry: Entry | None, report: Callable[[Position, str], None], message: str) -> tuple[Node, ...]:
    if entry is None:
        return ()
    if not isinstance(entry.node.content, tuple):
        report(entry.node.position, message)
        return ()
    return entry.node.content
