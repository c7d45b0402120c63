"""Which objects does each description name: of those that the stock model names, and of those that are in the picture?"""

import polars as pl

from headflow.files import write_json
from headflow.judging.agreement import agreement
from headflow.judging.judges import make_judge
from headflow.judging.match import choose_vocabulary
from headflow.judging.summary import mean_f1
from headflow.judging.table import Described, judgement_rows, pairs_of
from headflow.params import Params
from headflow.tables.descriptions import DESCRIPTIONS, KNOCKED_OUT
from headflow.tables.examples import EXAMPLES
from headflow.tables.judgements import AGREEMENT, JUDGEMENTS
from headflow.tables.knockouts import KNOCKOUT_PLAN
from stages import paths
from stages.door import enter


def main(params: Params, key: str) -> None:
    """Write the judgements of every description of model ``key``, the agreement of judges, and metrics."""
    settings = params.judging
    knocked_out = KNOCKED_OUT.read(paths.knockouts_dir(key) / "descriptions.parquet")
    plan = KNOCKOUT_PLAN.read(paths.knockouts_dir(key) / "plan.parquet")
    described = Described(DESCRIPTIONS.read(paths.descriptions_dir(key) / "descriptions.parquet"), knocked_out, EXAMPLES.read(paths.EXAMPLES))
    vocabulary = choose_vocabulary(settings.words, params.examples.source, described.true_names)
    asked, frames, about = pairs_of(described), [], {}
    for name in [settings.judge, *([settings.second] if settings.second else [])]:
        judge = make_judge(name, settings, vocabulary)
        try:
            judged = judge.judge_all([question.pair for question in asked], title=f"judge descriptions, {key}")
        finally:
            judge.close()
        frames.append(judgement_rows(asked, judged, name))
        about[name] = judge.about
    judgements = pl.concat(frames)
    agreed = agreement(judgements, vocabulary, draws=settings.draws, confidence=settings.confidence, seed=settings.seed)

    folder = paths.judgements_dir(key)
    JUDGEMENTS.write(judgements, folder / "judgements.parquet")
    AGREEMENT.write(agreed, folder / "agreement.parquet")
    write_json(
        paths.metrics("judge_descriptions", key),
        {
            "judges": about,
            "vocabulary": vocabulary.source,
            "pictures": described.pictures,
            "descriptions": described.pictures + len(knocked_out),
            "f1": {name: mean_f1(judgements, plan, name, settings.confidence) for name in about},
            "agreement": {
                against: {row["measure"]: {end: row[end] for end in ("value", "low", "high", "count")} for row in part.iter_rows(named=True)}
                for (against,), part in agreed.group_by("against", maintain_order=True)
            },
        },
    )


if __name__ == "__main__":
    enter(main)
