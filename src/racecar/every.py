"""``Racecar(…, every=k)``: which training calls run the reverse pass, counted on a ring of k turns."""

from __future__ import annotations

from racecar.errors import ArgumentError


class Turn:
    """One place in a ring of k training calls; the first of them runs the reverse pass.

    Counting is going on to ``following``. ``torch.compile`` specialises on
    ``due`` alone, so it compiles a program per answer, two in all; it would compile one per value of an integer.

    Attributes:
        due: whether this call runs the reverse pass.
        position: calls since the one that was due.
        following: the next call's turn.
    """

    due: bool
    position: int
    following: Turn

    def __init__(self, position: int) -> None:
        self.due, self.position, self.following = position == 0, position, self

    def __deepcopy__(self, memo: object) -> Turn:
        return self  # nothing ever changes in a ring: copies share it

    def __reduce__(self) -> tuple[object, tuple[int, int]]:
        return _unpickled, (len(self), self.position)

    def __len__(self) -> int:
        turn, count = self.following, 1
        while turn is not self:
            turn, count = turn.following, count + 1
        return count

    def at(self, calls: int) -> Turn:
        """The turn after so many calls from the start.

        Raises:
            ArgumentError: not a whole number from 0 on.
        """
        if not isinstance(calls, int) or isinstance(calls, bool) or calls < 0:
            raise ArgumentError(f"calls must be a whole number of training calls, 0 or more, not {calls!r}")
        turn = self
        for _ in range((calls - self.position) % len(self)):
            turn = turn.following
        return turn


def ring(every: int) -> Turn:
    """The first turn of a ring of ``every`` turns, at least one."""
    turns = [Turn(position) for position in range(every)]
    for turn, following in zip(turns, [*turns[1:], turns[0]], strict=True):
        turn.following = following
    return turns[0]


def _unpickled(every: int, position: int) -> Turn:
    return ring(every).at(position)
