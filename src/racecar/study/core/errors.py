"""The one error that every study raises: its message is for the user."""


class StudyError(Exception):
    """Something about a study's folder or arguments is wrong; the message is for the user."""
