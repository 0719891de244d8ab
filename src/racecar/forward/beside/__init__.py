"""What Python does beside the graph, seen or carried along: nothing in here knows the graph."""
