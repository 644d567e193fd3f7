"""A spec as a table: layers, shapes and parameters."""

from dataclasses import asdict, dataclass
from math import prod

from netc.emit import Artifact
from netc.layers.base import sample
from netc.network import Network


@dataclass(frozen=True)
class Row:
    """One layer; `output` is the shape of one sample."""

    name: str
    type: str
    output: str
    parameters: int


@dataclass(frozen=True)
class Summary:
    """All layers of a network in order."""

    name: str
    rows: list[Row]
    parameters: int
    warnings: list[str]

    def as_dict(self) -> dict[str, object]:
        """Return plain data for JSON."""
        return asdict(self)

    def print(self) -> None:
        """Print the table."""
        from rich.console import Console
        from rich.table import Table

        table = Table(box=None, pad_edge=False)
        for title in ("layer", "type", "output"):
            table.add_column(title)
        table.add_column("parameters", justify="right")
        for row in self.rows:
            table.add_row(row.name, row.type, row.output, f"{row.parameters:,}" if row.parameters else "")
        Console().print(table)
        print(f"{self.name}: {len(self.rows)} layers, {self.parameters:,} parameters")


def summarize(artifact: Artifact) -> Summary:
    """Return the table of a compiled spec."""
    network: Network = artifact.network
    parameters = {t.name: prod(t.shape) for t in artifact.state if t.role == "parameter"}
    rows = [
        Row(
            placed.layer.name,
            placed.layer.type,
            sample(network.tops[placed.layer.name]) if placed.layer.name in network.tops else "scalar",
            sum(n for name, n in parameters.items() if name.rsplit(".", 1)[0] == placed.layer.name),
        )
        for placed in network.placed
    ]
    return Summary(artifact.spec.name, rows, sum(parameters.values()), [str(w) for w in artifact.warnings])
