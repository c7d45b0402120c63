"""Types and columns that several groups of tables share."""

import polars as pl

from headflow.tables.schema import Column

TEXT, INT, REAL, BOOL, BYTES = pl.String, pl.Int64, pl.Float64, pl.Boolean, pl.Binary
ID = Column(TEXT, "example, e.g. explain-00012-object")
LAYER = Column(INT, "decoder layer, 0 = nearest the input")
HEAD = Column(INT, "query head in its layer")
TRACED_HEADS = Column(TEXT, "'all' heads are cut, or the 'top' ones alone: the first of the mean head attribution")
TEMPLATE_OF = Column(TEXT, "template of the examples, as in the text slots; null = all examples")
