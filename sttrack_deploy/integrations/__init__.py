"""Where people already are: the browser, Triton, annotation tools, other libraries' types. One part a file."""
