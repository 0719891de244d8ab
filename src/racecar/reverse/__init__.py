"""Stage 3, forward graph → palindrome: layers chosen, the graph walked back, estimates mapped and compared."""
