"""Stage 4, from a finished program to a cheaper or a distributed one: each pass takes a program and returns one."""
