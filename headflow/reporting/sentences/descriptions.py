"""What the untouched model says of the pictures, in words: how long, whether it came to an end, and how much of it is true."""

import polars as pl

from headflow.reporting.words import counted, interval, number, percent, spelled


def described(descriptions: pl.DataFrame, levels: pl.DataFrame) -> str:
    """How long the descriptions are and how well they name the true objects.

    Args:
        descriptions: the descriptions table.
        levels: the knockout levels table; the first judge's level of the stock description against the truth is told.
    """
    if descriptions.is_empty():
        return "No picture was described."
    lengths, ended = descriptions["tokens"].list.len(), int(descriptions["ended"].sum())
    mean = f"{lengths.mean():.1f} tokens" + (" on average" if descriptions.height > 1 else "")
    cut_off = descriptions.height - ended
    start = f"{spelled(descriptions.height)} {'picture was' if descriptions.height == 1 else 'pictures were'} described, in {mean}"
    if cut_off:
        share, were = percent(cut_off / descriptions.height), "was" if cut_off == 1 else "were"
        start += f"; {counted(cut_off, 'description')} ({share}) did not come to an end and {were} cut off"
    silent = int((lengths == 0).sum())
    start += f"; of {counted(silent, 'picture')} the model says nothing" if silent else ""
    known = levels.filter(pl.col("level") == "stock", pl.col("against") == "truth", pl.col("mean").is_not_null())
    if known.is_empty():
        return f"{start}. How much of it is true cannot be told: the objects of these pictures are not known."
    row = known.row(0, named=True)
    span = f" ({interval(row['low'], row['high'])})" if row["low"] is not None else ""
    return f"{start}. Held against the true objects their F1 is {number(row['mean'])}{span}, mean over {counted(row['pictures'], 'picture')}."
