"""The judges that the params ask for."""

from pathlib import Path

from headflow.judging.by_match import MatchJudge
from headflow.judging.judgement import Judge
from headflow.judging.vocabulary import Vocabulary
from headflow.params import Judge as Name
from headflow.params import JudgingParams


def make_judge(name: Name, settings: JudgingParams, vocabulary: Vocabulary) -> Judge:
    """The judge of a name.

    Raises:
        HeadflowError: what it needs is missing: a package, a key, a model.
    """
    if name == "llm":
        from headflow.judging.by_endpoint import EndpointJudge

        return EndpointJudge(settings.llm, Path(settings.cache))
    if name == "local":
        from headflow.judging.by_model import ModelJudge

        return ModelJudge(settings.local, Path(settings.cache))
    return MatchJudge(vocabulary)
