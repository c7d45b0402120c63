"""The command ``headflow``: one module a subcommand."""
