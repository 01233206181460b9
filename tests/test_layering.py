"""The law of the house: kernels are leaves, layers look down only, `import fastlmm_vi` pulls in nothing heavy."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
KERNELS = sorted((ROOT / "kernels" / "fastlmm_vi_kernels").glob("*.py"))
PACKAGE = sorted((ROOT / "fastlmm_vi").rglob("*.py"))

# A module may import modules of strictly lower rank only.
RANKS = [
    {"errors", "summary", "threads", "progress", "canvas", "copied", "inference_data"},
    {"result", "tables"},
    {"priors", "lattice", "pareto", "log_density", "comparison"},
    {"marginal", "mixtures", "elpd", "laplace", "convergence", "nutpie_model"},
    {"grid", "importance", "sampler"},
    {"grouped.expression", "grouped.factor", "grouped.chi_bar"},
    {"grouped.functions", "grouped.columns", "grouped.contrasts"},
    {"grouped.term_list"},
    {"grouped.formula", "grouped.coding"},
    {"grouped.variables"},
    {"grouped.design"},
    {"grouped.model_frame"},
    {"grouped.blocks", "grouped.standard", "grouped.trust_region", "grouped.default_priors"},
    {"grouped.one_way"},
    {"grouped.cross_products"},
    {"grouped.elimination", "grouped.nesting"},
    {"grouped.likelihood"},
    {"grouped.solution", "grouped.information"},
    {"grouped.reml"},
    {"grouped.uncertainty", "grouped.parameters", "grouped.files", "grouped.lrt"},
    {
        "grouped.model_priors",
        "grouped.deletions",
        "grouped.hypotheses",
        "grouped.prediction",
        "grouped.summary",
        "grouped.resampling",
        "grouped.profiling",
    },
    {"grouped.prior_rows"},
    {"grouped.density"},
    {"grouped.recovery"},
    {"grouped.marginals", "grouped.kept_blocks", "grouped.posterior"},
    {"grouped.gaussian_factor", "grouped.starts", "grouped.draws"},
    {"grouped.pointwise", "grouped.bayes_prediction", "grouped.exact"},
    {"grouped.export"},
    {"grouped.gaussian_posterior", "grouped.variational_em"},
    {"grouped.scale_factor", "grouped.covariance_factor", "grouped.correlation_factor"},
    {"grouped.factors"},
    {"grouped.coordinate_ascent"},
    {"grouped.variational_posterior"},
    {
        "grouped.variational",
        "grouped.quadrature",
        "grouped.linear_response",
        "grouped.sampled_posterior",
        "grouped.leave_one_out",
    },
    {"grouped.diagnostics", "grouped.sampling"},
    {"grouped.fit"},
    {"grouped.point_fit"},
    {"grouped.result", "grouped.bayes_result", "grouped.mean_field_result"},
    {"grouped.sampled_result"},
    {"grouped.model", "grouped.plots", "grouped.chain_plots", "files"},
    {"datasets", "wide.storage"},
    {"plots", "wide.design", "wide.basis", "wide.blas"},
    {"wide.householder"},
    {"wide.factor", "wide.rotated"},
    {"wide.spectrum", "wide.bordered"},
    {"wide.road", "wide.iteration", "wide.profile", "wide.information", "wide.blocks"},
    {"wide.posterior"},
    {"wide.estimate", "wide.sweeps"},
    {"wide.newton", "wide.em", "wide.mean_field"},
    {"wide.fit", "wide.prior", "wide.evidence", "wide.variances"},
    {"wide.variational", "wide.mixture", "wide.regressor"},
    {"wide.bayes"},
    {"wide.estimator", "wide.bayes_estimator"},
    {
        "compilation",
        "bench.clock",
        "bench.machine",
        "bench.table",
        "bench.outcome",
        "bench.lme4",
        "bench.grouped_models",
        "bench.markers",
        "bench.normal_q",
        "bench.pymc_script",
        "bench.tabulated",
    },
    {"bench.case", "bench.cpu", "bench.variational_models"},
    {"bench.peers", "bench.grouped_contenders", "bench.grouped_trial"},
    {"bench.cases"},
    {"bench.record"},
    {"bench.measure", "bench.change"},
    {"bench.growth", "bench.report", "bench.grouped_measure"},
    {"bench.grouped_record", "bench.grouped_fits", "bench.grouped_units", "bench.grouped_growth", "bench.pymc_session"},
    {"bench.grouped_pieces", "bench.variational_contenders", "bench.variational_first"},
    {"bench.grouped_report", "bench.variational_record"},
    {"bench.grouped_document", "bench.variational_report"},
    {"bench.grouped_command", "bench.variational_command"},
    {"study", "teach", "bench.command"},
    {"cli"},
    {"__main__"},
]
RANK = {name: rank for rank, names in enumerate(RANKS) for name in names}


def imports(path):
    """Modules imported anywhere in a file but for types alone, relative ones resolved."""
    package = [path.parts[-2]] if path.parent.name != "fastlmm_vi" else []
    tree = ast.parse(path.read_text(encoding="utf-8"))
    guards = [node for node in ast.walk(tree) if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    for_types = {inner for guard in guards for inner in ast.walk(guard)}
    for node in ast.walk(tree):
        if node in for_types:
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level == 0:
                yield node.module, None
                continue
            base = ["fastlmm_vi", *package][: len(package) + 2 - node.level]
            if node.module:
                yield ".".join([*base, node.module]), None
            else:
                yield from ((".".join([*base, alias.name]), alias.name) for alias in node.names)


def in_package(path):
    return ".".join(path.relative_to(ROOT / "fastlmm_vi").with_suffix("").parts)


# Compiled code on disk is stamped with the sources of all kernels, so that kernels may call those of other files.
SHARED = {"jit": 0, "dense": 1, "tiles": 2, "blocks": 2, "covariance": 2, "marginal": 3, "marginal_blocks": 4}


@pytest.mark.parametrize("path", KERNELS, ids=lambda p: p.name)
def test_kernels_import_nothing_but_kernels(path):
    compiler = {"numba.core", "numba.core.datamodel", "numba.extending", "llvmlite"}  # words numba lacks, in LLVM's
    allowed = {"numpy", "numba", "math", "typing", *compiler}
    allowed |= (
        {"collections.abc", "contextlib", "functools", "hashlib", "pathlib", "numba.core.ccallback"}
        if path.stem == "jit"
        else set()
    )
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            assert SHARED[node.module] < SHARED.get(path.stem, 5)
        elif isinstance(node, ast.ImportFrom):
            assert node.module in allowed
        elif isinstance(node, ast.Import):
            assert {alias.name for alias in node.names} <= allowed


@pytest.mark.parametrize("path", [p for p in PACKAGE if p.name != "__init__.py"], ids=in_package)
def test_layers_look_down(path):
    own = in_package(path)
    assert own in RANK, f"give {own} a rank"
    for module, _ in imports(path):
        name = module.removeprefix("fastlmm_vi.")
        if module in ("fastlmm_vi", "fastlmm_vi.__version__") or not module.startswith("fastlmm_vi."):
            continue
        while name not in RANK and "." in name:
            name = name.rpartition(".")[0]
        assert RANK[name] < RANK[own], f"{own} imports {name}"


@pytest.mark.parametrize(
    "name",
    [
        "errors",
        "summary",
        "result",
        "threads",
        "progress",
        "comparison",
        "plots",
        "datasets",
        "tables",
        "priors",
        "grid",
        "pareto",
        "elpd",
        "inference_data",
        "log_density",
        "laplace",
        "importance",
        "convergence",
        "nutpie_model",
        "sampler",
    ],
)
def test_no_ground_floor_module_knows_a_wing(name):
    modules = [module for module, _ in imports(ROOT / "fastlmm_vi" / f"{name}.py")]
    assert modules
    assert not any({"wide", "grouped"} & set(module.split(".")) for module in modules)


def test_the_wings_do_not_know_each_other():
    for here, there in (("wide", "grouped"), ("grouped", "wide")):
        paths = sorted((ROOT / "fastlmm_vi" / here).glob("*.py"))
        assert paths
        assert not any(there in module.split(".") for path in paths for module, _ in imports(path))


@pytest.mark.parametrize(
    ("statement", "heavy"),
    [
        ("import fastlmm_vi", {"numpy", "numba", "pandas", "sklearn", "scipy", "matplotlib", "typer", "pooch"}),
        ("from fastlmm_vi import WideLMM", {"matplotlib", "arviz", "formulaic", "dask", "typer", "pooch"}),
    ],
)
def test_import_is_light(statement, heavy):
    code = f"import sys; {statement}; print(sorted({heavy} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_no_module_hides_a_public_name():
    """Importing a module binds its name in the package: it must not be that of a function or class."""
    import fastlmm_vi

    modules = {path.stem for path in (ROOT / "fastlmm_vi").glob("*.py")}
    assert modules & set(fastlmm_vi.__all__) == {"datasets", "priors"}


def test_every_public_name_resolves():
    import fastlmm_vi

    for name in fastlmm_vi.__all__:
        assert getattr(fastlmm_vi, name) is not None
    assert set(fastlmm_vi.__all__) <= set(dir(fastlmm_vi))
    with pytest.raises(AttributeError, match="no_such_name"):
        fastlmm_vi.no_such_name  # noqa: B018
