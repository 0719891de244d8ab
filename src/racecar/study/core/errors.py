"""The errors that every study raises: their messages are for the user."""


class StudyError(Exception):
    """Something about a study's folder or arguments is wrong; the message is for the user."""


class DivergedError(StudyError):
    """A training's loss is not a finite number any more."""


class Stopped(KeyboardInterrupt):
    """A signal has stopped the work at a saved state: the same call goes on from there."""
