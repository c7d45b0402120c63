"""Set all models of the params side by side on one page, with figures and an executed notebook."""

import shutil
from pathlib import Path

from headflow.files import write_atomically, write_json
from headflow.params import COMPARISON, Params
from stages import paths
from stages.door import enter

TEMPLATES = Path(__file__).resolve().parents[1] / "reports" / "templates"


def inputs(params: Params) -> dict[str, dict[str, str]]:
    """Where the inputs of every model lie, by the names that the notebook knows them by. Only the params say which models there are."""
    found = {}
    for key in params.models:
        places = {"model": paths.model_dir(key) / "model.json", "features": paths.features_dir(key) / "features.parquet"}
        places |= {name: paths.attributions_dir(key) / f"{name}.parquet" for name in ("fits", "attributions")}
        found[key] = {name: place.as_posix() for name, place in places.items()}
    return found


def main(params: Params) -> None:
    """Write index.html, comparison.ipynb and figures/ below the comparison's folder, and the metrics."""
    from headflow.analysis import comparison  # here, so that a mistake in the params is told before seconds of imports
    from headflow.reporting import comparison as comparing
    from headflow.reporting import page

    models = comparing.load(inputs(params))  # a missing or damaged input is told here in one line, not as a notebook's traceback
    settings = params.model_dump(mode="json", include={"models", "features", "fit", "report"})
    folder = paths.report_dir(COMPARISON)
    executed = page.execute(TEMPLATES / "comparison.ipynb", folder / "comparison.ipynb", {"inputs": inputs(params), "params": settings})
    shutil.rmtree(folder / "figures", ignore_errors=True)  # a figure that is drawn no more must not linger
    for name, png in page.figures(executed).items():
        write_atomically(folder / "figures" / f"{name}.png", lambda path, png=png: path.write_bytes(png))
    page.render(executed, TEMPLATES / "report.html.j2", folder / "index.html", title=f"{params.report.title} Models side by side")
    write_json(paths.metrics("compare_models"), comparison.metrics([model.subject for model in models], params.fit.confidence))


if __name__ == "__main__":
    enter(main, per_model=False)
