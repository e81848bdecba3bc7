"""Tables of texts on a terminal, in Markdown and in LaTeX, and streams that end no run."""
