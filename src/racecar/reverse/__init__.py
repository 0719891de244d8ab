"""Stage 3, from a forward graph to its palindrome: layers chosen, the graph walked back, estimates mapped and compared."""
