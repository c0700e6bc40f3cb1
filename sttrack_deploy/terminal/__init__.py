"""What command-line programs share: errors as exit codes, printing, options, tables."""
