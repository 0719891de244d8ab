"""Somebody's images: found, described in one line, decoded."""
