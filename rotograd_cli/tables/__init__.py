"""Tables of a paper: what they hold, and how they are built from finished runs."""
