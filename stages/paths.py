"""Where the stages keep their files; dvc.yaml names the same places."""

from pathlib import Path

DATA = Path("data")
REPORTS = Path("reports")
EXAMPLES = DATA / "examples.parquet"
IMPORTS = DATA / "imports"
FOUND_PLANTED = DATA / "found_planted.parquet"


def imports(stage: str) -> Path:
    return IMPORTS / f"{stage}.json"


def model_dir(model: str) -> Path:
    return DATA / "models" / model


def features_dir(model: str) -> Path:
    return DATA / "features" / model


def masks(model: str) -> Path:
    return DATA / "masks" / f"{model}.parquet"


def targets(model: str) -> Path:
    return DATA / "targets" / f"{model}.parquet"


def gradients(model: str) -> Path:
    return DATA / "gradients" / f"{model}.parquet"


def attributions_dir(model: str) -> Path:
    return DATA / "attributions" / model


def clusters_dir(model: str) -> Path:
    return DATA / "clusters" / model


def faithfulness_dir(model: str) -> Path:
    return DATA / "faithfulness" / model


def baselines_dir(model: str) -> Path:
    return DATA / "baselines" / model


def planted_scores(model: str) -> Path:
    return DATA / "planted" / f"{model}.parquet"


def interactions_dir(model: str) -> Path:
    return DATA / "interactions" / model


def text_tokens_dir(model: str) -> Path:
    return DATA / "text_tokens" / model


def flow_dir(model: str) -> Path:
    return DATA / "flow" / model


def heads_dir(model: str) -> Path:
    return DATA / "heads" / model


def image_tokens_dir(model: str) -> Path:
    return DATA / "image_tokens" / model


def keeping_dir(model: str) -> Path:
    return DATA / "keeping" / model


def descriptions_dir(model: str) -> Path:
    return DATA / "descriptions" / model


def knockouts_dir(model: str) -> Path:
    return DATA / "knockouts" / model


def judgements_dir(model: str) -> Path:
    return DATA / "judgements" / model


def knockout_scores_dir(model: str) -> Path:
    return DATA / "knockout_scores" / model


def sharing_dir(model: str) -> Path:
    return DATA / "sharing" / model


def localisation_dir(model: str) -> Path:
    return DATA / "localisation" / model


def compression_dir(model: str) -> Path:
    return DATA / "compression" / model


def report_dir(model: str) -> Path:
    return REPORTS / model


def metrics(stage: str, model: str | None = None) -> Path:
    return REPORTS / "metrics" / (f"{stage}_{model}.json" if model else f"{stage}.json")


def plot(name: str, model: str) -> Path:
    return REPORTS / "plots" / name / f"{model}.csv"
