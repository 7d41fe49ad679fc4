"""How the linears of a graph compute. One file and one line here for each arithmetic."""
