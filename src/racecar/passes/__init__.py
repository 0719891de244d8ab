"""Stage 4, finished program → a cheaper or a distributed one: every pass takes a program and changes or returns it."""
