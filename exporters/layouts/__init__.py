"""Where the weights of a graph lie. One file and one line here for each layout."""
