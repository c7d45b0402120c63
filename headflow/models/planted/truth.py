"""The truth about a circuit as a table."""

import polars as pl

from headflow.models.planted.circuits import Circuit
from headflow.tables.planted import TRUTHS


def truth_table(circuit: Circuit) -> pl.DataFrame:
    """Exact values of every head, category by category where they differ: a TRUTHS table."""
    rows = []
    for category in circuit.categories:
        banzhaf, shapley, single = circuit.banzhaf(category), circuit.shapley(category), circuit.single_effects(category)
        carrying = circuit.carrying(category)
        for layer in range(circuit.layers):
            for head in range(circuit.heads):
                place = (layer, head)
                part = "carrier" if carrying[place] else "relay" if place in circuit.relays else "decoy" if place in circuit.decoys else "idle"
                values = {"banzhaf": banzhaf[place], "shapley": shapley[place], "single_head_effect": single[place]}
                rows.append({"circuit": circuit.name, "category": category, "layer": layer, "head": head, "part": part, **values})
    return pl.DataFrame(rows, schema={name: column.dtype for name, column in TRUTHS.columns.items()})
