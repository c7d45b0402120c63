"""From tables to an article: reading a run, sentences made from its numbers, blocks of the page, and the page itself."""
