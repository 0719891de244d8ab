"""From torch.export's program to a forward graph: which of its inputs are weights, which the user's."""

from __future__ import annotations

from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import fx
from torch.export.graph_signature import ConstantArgument, InputKind

from racecar.errors import ExportError
from racecar.forward.beside.carried import Carried
from racecar.forward.graph import ForwardGraph, Shapes, symbolic


def lift(program: torch.export.ExportedProgram, carried: Carried | None = None) -> ForwardGraph:
    """Copy an exported program's graph and sort its inputs into weights, literal constants and the user's inputs.

    Args:
        program: whose output is that of the model; under :func:`racecar.forward.beside.carried.carry` with what it
            keeps.
        carried: from there.

    Raises:
        ExportError: an operation takes something else, such as a custom object.
    """
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    output = graph.graph_copy(program.graph_module.graph, copies)
    placeholders = [n for n in graph.nodes if n.op == "placeholder"]
    weights, weight_nodes, constants, constant_nodes, inputs = [], [], [], [], []
    for node, spec in zip(placeholders, program.graph_signature.input_specs, strict=True):
        if spec.kind in (InputKind.PARAMETER, InputKind.BUFFER):
            weights.append(str(spec.target))
            weight_nodes.append(node)
        elif spec.kind is InputKind.USER_INPUT:
            inputs.append(node)
        elif spec.kind is InputKind.CONSTANT_TENSOR:
            constants.append(program.constants[str(spec.target)])
            constant_nodes.append(node)
        else:
            raise ExportError(
                f"the model passes a {spec.kind.name.lower()} ({spec.target}) to its operations, which racecar "
                "cannot mirror"
            )
    graph.output(output)
    outputs = list(pytree.tree_leaves(output, is_leaf=lambda v: v is None))
    for i, spec in enumerate(program.graph_signature.output_specs):
        if isinstance(spec.arg, ConstantArgument):
            outputs[i] = spec.arg.value
    out_spec: Any = program.call_spec.out_spec
    if carried is not None:
        out_spec, carried.spec = out_spec.children()
    return ForwardGraph(
        graph,
        weights,
        constants,
        weight_nodes + constant_nodes,
        inputs,
        program.call_spec.in_spec,
        out_spec,
        outputs,
        Shapes([symbolic(node) for node in inputs]),
        carried or Carried(),
    )
