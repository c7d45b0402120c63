"""What the attributions cost, and how well each example is known."""

import polars as pl

from headflow.reporting.words import counted, percent


def effort(table: pl.DataFrame, precision: float | None = None) -> str:
    """Runs and estimated error of the examples of an EFFORT table, and which of them ended above the wanted ``precision``.

    The error is the one that the masks' draw leaves; it does not hold what no sum over heads can say.
    """
    if table.is_empty():
        return "No example was attributed."
    masks, corners = table["masks"], int(table["corners"].max())
    runs = counted(int(masks[0]), "masked run") if masks.n_unique() == 1 else f"{masks.min():,} to {masks.max():,} masked runs"
    gradients = f" and gradients at {counted(corners, 'corner')}" if corners else ""
    mean = round(float(table["forwards"].mean()))
    cost = f"{'' if masks.n_unique() == 1 else 'on average '}as much as {mean:,} masked runs"
    start = f"{'Each' if table.height > 1 else 'The one'} example took {runs}{gradients}" + (f", {cost} in all." if corners or masks.n_unique() > 1 else ".")
    known = table["relative_error"].drop_nulls()
    if known.is_empty():
        return f"{start} What error the draw of masks leaves in its attributions is not known."
    middle, worst = percent(float(known.median())), percent(float(known.max()))
    worst = f" (worst example: {worst})" if table.height > 1 else ""
    text = f"{start} The draw of masks leaves an error of about {middle} in its attributions{worst}."
    if precision is None:
        return text
    above = table.filter(pl.col("relative_error").is_null() | (pl.col("relative_error") > precision)).height
    if not above:
        return f"{text} All stayed within the {percent(precision)} asked for."
    return f"{text} {counted(above, 'example')} of {table.height:,} did not get down to the {percent(precision)} asked for with all fit masks."
