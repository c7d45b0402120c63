"""A few lines about the last run, and where its reports are. No stage: `make` calls it after `dvc repro`."""

from headflow.files import read_json
from headflow.params import Params
from stages import paths
from stages.door import enter


def summarise(params: Params) -> None:
    """Print the summary of every model."""
    for key in params.models:
        features = read_json(paths.metrics("extract_features", key))
        runs = read_json(paths.metrics("run_ablations", key))
        fit = read_json(paths.metrics("fit_attributions", key))
        print(f"\nheadflow: {key}")
        left_out = f" ({features['left_out']} left out: the stock model answers them wrongly)" if features["left_out"] else ""
        print(f"  examples explained   {features['explained']} of {features['examples']}{left_out}")
        print(f"  masked forwards      {runs['masked_forwards']:,} ({runs['masks']} masks an example)")
        print(f"  held-out fit         Pearson r {fit['mean_held_out_r']:.3f} (mean over examples)")
        print(f"  report               {(paths.report_dir(key) / 'index.html').resolve()}")


if __name__ == "__main__":
    enter(summarise, per_model=False)
