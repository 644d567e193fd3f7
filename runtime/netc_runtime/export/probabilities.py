"""Probabilities instead of the scores that a loss would still apply softmax or a sigmoid to."""

import onnx

from netc_runtime.errors import DriverError, ExitCode
from netc_runtime.jsonfields import canonical, objects, parse_object
from netc_runtime.model import INTERFACE_KEY

SUFFIX = ".probabilities"
"""What follows the name of an output when its scores have become probabilities."""
_OPERATORS = {"logits": "Softmax", "sigmoid": "Sigmoid"}


def add_probabilities(model: onnx.ModelProto) -> None:
    """Replace each output with an activation by NAME.probabilities, in its metadata too.

    Raises DriverError (2) if there is no such output.
    """
    entries = {entry.key: entry for entry in model.metadata_props}
    interface = parse_object(entries[INTERFACE_KEY].value)
    described = [entry for entry in objects(interface, "outputs") if entry.get("activation") in _OPERATORS]
    if not described:
        raise DriverError(
            "--softmax has nothing to do: no output of this model goes into a loss that applies softmax or a sigmoid; "
            "leave it out",
            ExitCode.USAGE,
        )
    values = {value.name: value for value in model.graph.output}
    for entry in described:
        name = entry["name"]
        operator, new = _OPERATORS[entry.pop("activation")], f"{name}{SUFFIX}"
        node = onnx.helper.make_node(operator, [name], [new], name=f"{name}/export/{operator}")
        if operator == "Softmax":
            node.attribute.append(onnx.helper.make_attribute("axis", 1))
        model.graph.node.append(node)
        values[name].name = entry["name"] = new
    entries[INTERFACE_KEY].value = canonical(interface)
