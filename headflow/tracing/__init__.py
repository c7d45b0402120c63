"""Where the picture goes among the tokens of the text, and in what order."""
