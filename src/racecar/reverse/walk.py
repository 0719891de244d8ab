"""The way of the reverse pass: from the start I_r back to the compared values, operation by operation.

Estimates that come back to one value are averaged; what left a layer's adjoint is mapped to its range.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, replace

from torch import fx

from racecar.errors import IrreversibleError
from racecar.forward.graph import example, is_number
from racecar.forward.sums import LinearSum
from racecar.options import Options
from racecar.reverse.builder import Builder
from racecar.reverse.known import mean_of_known
from racecar.reverse.loss import half_squared_distance
from racecar.reverse.masks import Masks
from racecar.reverse.range_maps import Ranges
from racecar.reverse.reversal import Estimate, Piece, Reversal
from racecar.reverse.sums import Adjoint


@dataclass
class Walked:
    """What the reverse pass has come to.

    Attributes:
        reversed: the operations that were reversed.
        estimates: of the compared values, by forward value.
        distances: of each compared value to its estimate.
        segment_of: the segment of the reverse pass in which a compared value is estimated, counted from the start on.
    """

    reversed: set[fx.Node] = field(default_factory=set)
    estimates: dict[fx.Node, Estimate] = field(default_factory=dict)
    distances: dict[fx.Node, fx.Node] = field(default_factory=dict)
    segment_of: dict[fx.Node, int] = field(default_factory=dict)


class Walk:
    """Walks a graph back and appends the reverse pass.

    Args:
        builder: the graph.
        masks: of what is known.
        layers: operations with weights of their own: their operands are mapped to their range.
        options: reduction of the distances, and whether each layer starts from the forward value.
    """

    def __init__(self, builder: Builder, masks: Masks, layers: Sequence[fx.Node], options: Options) -> None:
        self.builder, self.masks, self.layers, self.options = builder, masks, frozenset(layers), options
        self.reversal = Reversal(builder, masks)
        self.adjoint = Adjoint(builder, masks, self.reversal)
        self.ranges = Ranges(builder, options, next(iter(layers), None), self.reversal)

    def back(
        self,
        starts: Sequence[fx.Node],
        path: Set[fx.Node],
        compared: Set[fx.Node],
        sums: Mapping[fx.Node, LinearSum],
    ) -> Walked:
        """Estimate every value on the path that something comes back to.

        Args:
            starts: the values that are their own estimates.
            path: the operations to reverse.
            compared: values L_m; at each a segment of the reverse pass ends.
            sums: of linear branches, by the operation that ends them: each goes back as one layer.

        Raises:
            IrreversibleError: operations on the path have no rule; all of them are listed.
            RuleError: a rule or a range map failed.
        """
        walked, missing = Walked(), list[str]()
        arrived: dict[fx.Node, list[Piece]] = {start: [Piece(start, Estimate(start))] for start in starts}
        without_range: set[fx.Node] = set()  # values whose estimate left a layer's adjoint
        segment = 0
        for node in reversed(self.builder.nodes):
            if node not in path or node not in arrived:
                continue
            with self.builder.segment(segment):
                outputs = self._outputs(node, arrived[node], node in without_range)
                if node in compared:
                    outputs = self._compared(node, outputs[0], walked)
            if node in compared:
                walked.segment_of[node] = segment
                segment += 1
            if not any(a in path for a in node.all_input_nodes):
                continue  # a compared input whose own producer is not walked
            if node in sums and outputs[0] is not None:
                with self.builder.segment(segment):
                    pieces = self.adjoint.pieces(sums[node], outputs[0])
                inside = sums[node].inside
            elif lacking := self.reversal.lacks_rule(node):
                missing.append(lacking)
                # Stand-ins for what no rule can estimate, so that whatever lies further back is examined as well.
                pieces = [Piece(a, Estimate(a)) for a in node.all_input_nodes if is_number(example(a))]
                inside = ()
            else:
                with self.builder.segment(segment):
                    pieces = self.reversal.pieces(node, outputs)
                inside = (node,)
            walked.reversed.update(inside)
            for piece in pieces:
                if piece.value in path:
                    arrived.setdefault(piece.value, []).append(piece)
                    if not self.layers.isdisjoint(inside):
                        without_range.add(piece.value)
        if missing:
            raise IrreversibleError(
                "the reverse pass meets operations without a reverse rule:\n"
                + "\n".join(reversed(dict.fromkeys(missing)))
                + "\nRegister a rule with racecar.register_reverse(op, reverse), or choose start= before them."
            )
        return walked

    def _compared(self, value: fx.Node, estimate: Estimate | None, walked: Walked) -> list[Estimate | None]:
        """Note a compared value's estimate and distance; what the reverse pass goes on with from there."""
        assert estimate is not None
        mask = () if estimate.known is None else (self.masks.node(estimate.known),)
        walked.estimates[value] = estimate
        # At once: autograd goes the other way, and a gradient of L'_m is then used up at once.
        walked.distances[value] = self.builder.add(
            half_squared_distance, value, estimate.node, self.options.reduction, *mask
        )
        return [Estimate(value) if self.options.layerwise else estimate]

    def _outputs(self, node: fx.Node, arrived: list[Piece], without_range: bool) -> list[Estimate | None]:
        """One estimate per output of an operation: the mean of those that have come back to it, None if none has."""
        several = isinstance(example(node), tuple | list)
        outputs: list[list[Estimate]] = [[] for _ in range(len(example(node)) if several else 1)]
        for piece in arrived:
            outputs[piece.output].append(piece.estimate)
        means = [self._mean(estimates) if estimates else None for estimates in outputs]
        if without_range and (raw := means[0]) is not None:
            return [replace(raw, node=self.ranges.into(node, raw.node))]
        return means

    def _mean(self, estimates: list[Estimate]) -> Estimate:
        if len(estimates) == 1:
            return estimates[0]
        nodes, known = [e.node for e in estimates], [e.known for e in estimates]
        if any(mask is not None for mask in known):
            mean = self.builder.add(mean_of_known, nodes, [self.masks.node(mask) for mask in known])
            return Estimate(mean, self.masks.united(known))
        total = nodes[0]
        for other in nodes[1:]:
            total = self.builder.add(operator.add, total, other)
        return Estimate(self.builder.add(operator.truediv, total, len(estimates)))
