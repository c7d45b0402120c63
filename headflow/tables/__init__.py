"""Every table that headflow writes: its columns, their types, meanings and units; checked on write and on read. One module a group."""
