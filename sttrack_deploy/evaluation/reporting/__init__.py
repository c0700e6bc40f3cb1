"""Reports to look at: terminal tables, plots, pictures and the HTML page."""
