"""No source of headflow reads or writes pickle, evaluates text as code, or hands text to a shell."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCANNED = ("headflow", "stages", "bench")

MODULES = {
    "pickle", "cPickle", "_pickle", "dill", "joblib", "cloudpickle", "marshal", "shelve", "pickletools", "jsonpickle", "multiprocessing", "code", "codeop",
}  # fmt: skip
"""Not to be imported; multiprocessing sends what it is given as pickle."""

ALLOWED: dict[str, set[str]] = {
    # Training of the embedded model: scenes travel from a process to its own child and back, through a pipe that has no name.
    "headflow/models/embedded/scene_feed.py": {"multiprocessing"},
}
"""Modules that a file may import all the same."""

ALLOWED_CALLS: dict[str, set[str]] = {
    # The loader is a SafeLoader that refuses keys which stand there twice.
    "headflow/judging/vocabulary.py": {"yaml.load"},
}

CALLS = {
    "torch.load", "torch.save", "torch.jit.load", "torch.package", "np.fromregex", "numpy.load", "np.load", "np.save", "np.savez", "pd.read_pickle",
    "pandas.read_pickle", "yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.unsafe_load_all", "yaml.full_load", "yaml.full_load_all", "os.system",
    "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput", "tempfile.mktemp", "xml.etree.ElementTree.parse", "importlib.reload",
}  # fmt: skip
BUILTINS = {"eval", "exec", "compile", "__import__"}
KEYWORDS = {("shell", True), ("allow_pickle", True), ("weights_only", False), ("trust_remote_code", True), ("autoescape", False), ("verify", False)}


def dotted(node: ast.expr) -> str:
    """``a.b.c`` of a name with attributes; empty for what is called otherwise."""
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id if isinstance(node, ast.Name) else "", *reversed(parts)])


def faults(source: str, where: str = "") -> list[str]:
    """What a file does that none should, with its lines."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            for name in names:
                if name == "multiprocessing.connection":  # its bytes are no pickle; its objects are, see below
                    continue
                if name.split(".")[0] in MODULES - ALLOWED.get(where, set()):
                    found.append(f"line {node.lineno}: imports {name}")
        elif isinstance(node, ast.Call):
            called = dotted(node.func)
            if "multiprocessing.connection" in source and where not in ALLOWED and called.split(".")[-1] in ("send", "recv", "Client", "Listener"):
                found.append(f"line {node.lineno}: {called} sends pickle")
            if called in CALLS - ALLOWED_CALLS.get(where, set()) or (isinstance(node.func, ast.Name) and called in BUILTINS):
                found.append(f"line {node.lineno}: calls {called}")
            for keyword in node.keywords:
                if isinstance(keyword.value, ast.Constant) and (keyword.arg, keyword.value.value) in KEYWORDS:
                    found.append(f"line {node.lineno}: {keyword.arg}={keyword.value.value}")
                if keyword.arg == "n_jobs":  # scikit-learn's worker processes get what they work on as pickle
                    found.append(f"line {node.lineno}: n_jobs")
    return found


@pytest.mark.parametrize("folder", SCANNED)
def test_no_pickle_no_code_from_text_no_shell(folder):
    files = sorted((ROOT / folder).rglob("*.py"))
    assert len(files) > 10
    found = {str(path.relative_to(ROOT)): faults(path.read_text(encoding="utf-8"), str(path.relative_to(ROOT))) for path in files}
    assert {name: some for name, some in found.items() if some} == {}


@pytest.mark.parametrize(
    "source",
    [
        "import pickle", "from joblib import dump", "import multiprocessing.pool", "torch.load(p)", "np.load(p, allow_pickle=True)", "yaml.load(t)", "eval(t)",
        "exec(t)", "run(c, shell=True)", "os.system(c)", "f(weights_only=False)", "from_pretrained(x, trust_remote_code=True)", "KMeans(n_jobs=2)",
        "def f():\n    import dill", "from multiprocessing.connection import Connection\nc.send(x)", "__import__(name)",
    ],
)  # fmt: skip
def test_the_scan_sees_it(source):
    assert len(faults(source)) >= 1


def test_the_loader_of_vocabularies_is_a_safe_one():
    import yaml

    from headflow.judging import vocabulary

    assert issubclass(vocabulary._Loader, yaml.SafeLoader) and "yaml.load(path.read_text(encoding=\"utf-8\"), _Loader)" in Path(vocabulary.__file__).read_text()
    with pytest.raises(yaml.YAMLError):
        yaml.load("!!python/object/apply:os.system [echo]", vocabulary._Loader)


def test_the_scan_lets_the_rest_pass():
    lines = (
        "from multiprocessing.connection import wait", "c.send_bytes(b)", "model.eval()", "re.compile(x)", "yaml.safe_load(t)", "subprocess.run(['git'])",
        "load_file(p)", "f(trust_remote_code=flag)",
    )  # fmt: skip
    assert faults("\n".join(lines)) == []


def test_templates_escape_or_are_trusted():
    """What the page's template puts in without escaping is made of markup by headflow itself, or goes through a filter that makes it safe."""
    import re

    text = (ROOT / "reports/templates/report.html.j2").read_text(encoding="utf-8")
    put = {part.strip() for part in re.findall(r"\{\{(.*?)\}\}", text)}
    assert put == {
        "resources.title | e", "cell.source | markdown2html", "output.data[resources.chart] | script_json", "output.data['text/html']",
        "cell.source | highlight_code", "resources.bundle",
    }  # fmt: skip
