"""How an evaluation is told: Markdown, one page that holds everything, plots."""
