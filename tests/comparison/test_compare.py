from __future__ import annotations

import copy
import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import nn

import optuna_esgd as esgd
from optuna_esgd.cli import main
from optuna_esgd.comparison.compare import compare
from optuna_esgd.comparison.figure import draw
from optuna_esgd.comparison.ledger import Comparison
from optuna_esgd.comparison.named import NamedBenchmark
from optuna_esgd.comparison.report import read_json, tables, write_json
from optuna_esgd.comparison.runs import Run
from optuna_esgd.comparison.summaries import summarise
from optuna_esgd.errors import ConfigurationError
from optuna_esgd.trainer.seeding import seeded
from tests.comparison.benchmarks import build


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    return compare(build, arms=["pbt", "single"], seeds=[0, 1], name="lines")


def test_every_arm_has_one_run_per_seed_at_both_budgets(comparison: Comparison) -> None:
    for runs in (comparison.equal_gradients, comparison.equal_cost):
        assert list(runs) == ["esgd", "pbt", "single"]
        assert all([run.seed for run in same] == [0, 1] for same in runs.values())
    gradients = {r.n_gradients for same in comparison.equal_gradients.values() for r in same}
    assert gradients == {3 * 4 * 3}


def test_at_equal_cost_nobody_spends_more_and_cheap_arms_train_longer(
    comparison: Comparison,
) -> None:
    assert comparison.equal_cost["esgd"] == comparison.equal_gradients["esgd"]
    for reference, single in zip(
        comparison.equal_cost["esgd"], comparison.equal_cost["single"], strict=True
    ):
        assert single.n_epochs > reference.n_epochs
        assert 0.8 * reference.cost < single.cost <= reference.cost


NAMED = NamedBenchmark(f"{Path(__file__).parent / 'benchmarks.py'}:build")


def timeless(comparison: Comparison) -> Comparison:
    """The same runs, as if all had taken no time."""
    return comparison._replace(
        **{
            budget: {
                arm: [replace(run, seconds=0.0) for run in same]
                for arm, same in getattr(comparison, budget).items()
            }
            for budget in ("equal_gradients", "equal_cost")
        }
    )


def test_an_interrupted_comparison_goes_on(comparison: Comparison, tmp_path: Path) -> None:
    path, n_progressed, told = tmp_path / "c.json", 0, []

    def interrupt(so_far: Comparison) -> None:
        nonlocal n_progressed
        n_progressed += 1
        write_json(so_far, path)
        if n_progressed == 6:  # the first seed, and the reference of the second
            raise KeyboardInterrupt

    arguments = {"arms": ["pbt", "single"], "seeds": [0, 1], "name": "lines"}
    with pytest.raises(KeyboardInterrupt):
        compare(build, **arguments, on_progress=interrupt)
    before = read_json(path, "lines")
    assert [run.seed for run in before.equal_gradients["esgd"]] == [0, 1]
    assert [run.seed for run in before.equal_cost["single"]] == [0]
    whole = compare(build, **arguments, before=before, on_run=told.append)
    assert {(run.arm, run.seed) for run in told} == {("pbt", 1), ("single", 1)}
    assert timeless(whole) == timeless(comparison)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_run_is_kept_where_the_other_of_its_arm_does_not_end(
    comparison: Comparison, error: type[BaseException]
) -> None:
    n_scored, told, progress = 0, [], []

    def build_failing(seed: int) -> esgd.Benchmark:
        benchmark = build(seed)

        def test(model: nn.Module) -> Mapping[str, float]:
            nonlocal n_scored
            n_scored += 1
            if n_scored == 3:  # after the reference, and the arm at equal gradients
                raise error("the third")
            return benchmark.test(model)

        return replace(benchmark, test=test)

    arguments = {"arms": ["single"], "seeds": [0], "name": "lines"}
    with pytest.raises(error, match="the third"):
        compare(build_failing, **arguments, on_run=told.append, on_progress=progress.append)
    assert [run.arm for run in told] == ["esgd", "single"]
    before = progress[-1]
    assert before.equal_gradients == {"esgd": told[:1], "single": told[1:]}
    assert before.equal_cost == {"esgd": told[:1]}
    whole = compare(build, **arguments, before=before, on_run=told.append)
    assert [run.arm for run in told] == ["esgd", "single", "single"]
    expected = timeless(comparison)
    for budget in ("equal_gradients", "equal_cost"):
        for arm, runs in getattr(timeless(whole), budget).items():
            assert runs == getattr(expected, budget)[arm][:1]


def test_the_run_at_equal_cost_is_the_same_where_it_has_as_many_epochs() -> None:
    told: list[Run] = []
    made = compare(build, arms=["unaveraged"], seeds=[0], on_run=told.append)
    assert [run.arm for run in told] == ["esgd", "unaveraged"]
    assert made.equal_cost == made.equal_gradients


def test_equal_cost_can_follow_later(comparison: Comparison) -> None:
    arguments = {"arms": ["single"], "seeds": [0, 1], "name": "lines"}
    cheap = compare(build, **arguments, budgets=["gradients"])
    assert cheap.equal_cost == {}
    assert "equal total cost" not in text_of(cheap)
    draw(cheap)
    told: list[Run] = []
    both = compare(build, **arguments, before=cheap, on_run=told.append)
    assert both.equal_gradients == cheap.equal_gradients
    assert told == both.equal_cost["single"]
    assert timeless(both).equal_cost["single"] == timeless(comparison).equal_cost["single"]


def test_runs_of_other_arms_and_seeds_are_kept(comparison: Comparison) -> None:
    more = compare(build, arms=[], seeds=[0], name="lines", before=comparison)
    assert more == comparison


@pytest.mark.slow
def test_several_processes_do_the_same(comparison: Comparison) -> None:
    shared = compare(NAMED, arms=["pbt", "single"], seeds=[0, 1], name="lines", n_jobs=2)
    assert timeless(shared) == timeless(comparison)


@pytest.mark.slow
def test_what_other_processes_are_at_is_kept_where_a_run_raises() -> None:
    failing = NamedBenchmark(f"{Path(__file__).parent / 'benchmarks.py'}:build_but_the_first")
    told: list[Run] = []
    progress: list[Comparison] = []
    with pytest.raises(ConfigurationError, match="no first seed"):
        compare(
            failing,
            arms=[],
            seeds=range(4),
            n_jobs=2,
            on_run=told.append,
            on_progress=progress.append,
        )
    assert [run.seed for run in told] == [1]  # and nothing was begun after that
    assert progress[-1].equal_gradients == {"esgd": told}


def with_layer(layer: type[nn.Module]) -> esgd.Benchmark:
    """Layers without weights are part of the model, too."""
    task = copy.copy(build().task)
    task.build_model = lambda: nn.Sequential(nn.Linear(1, 1), layer())  # type: ignore[method-assign]
    return replace(build(), task=task)


def test_files_of_another_comparison_are_refused(comparison: Comparison, tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    write_json(comparison, path, machine={"n_cores": 2})
    assert timeless(read_json(path, "lines")) == timeless(comparison)
    with pytest.raises(ConfigurationError, match="compares on lines, not on curves"):
        read_json(path, "curves")
    document = json.loads(path.read_text("utf-8"))
    assert document["machine"] == {"n_cores": 2}
    described = build().describe()
    read_json(path, "lines", described)  # older files do not say
    write_json(comparison, path, benchmark=described)
    read_json(path, "lines", described)
    other = replace(build(), n_epochs=99, species=["RMSprop"]).describe()
    with pytest.raises(ConfigurationError, match=r"that differs in n_epochs, species\. Use"):
        read_json(path, "lines", other)
    now = {**described, "examples of seed 0": build(0).describe_examples()}
    read_json(path, "lines", now)  # an older file does not say
    write_json(comparison, path, benchmark=now)
    read_json(path, "lines", {**described, "examples of seed 1": build(1).describe_examples()})
    with pytest.raises(ConfigurationError, match="differs in examples of seed 0"):
        read_json(path, "lines", {**now, "examples of seed 0": build(1).describe_examples()})
    write_json(comparison, path, benchmark=with_layer(nn.Tanh).describe())
    with pytest.raises(ConfigurationError, match=r"differs in model\. Use"):
        read_json(path, "lines", with_layer(nn.ReLU).describe())
    document["arms"]["pbt"]["resample_probability"] = 0.5
    path.write_text(json.dumps(document), "utf-8")
    with pytest.raises(ConfigurationError, match="other settings of the arm pbt"):
        read_json(path, "lines")
    path.write_text("[]", "utf-8")
    with pytest.raises(ConfigurationError, match="is no comparison"):
        read_json(path, "lines")


def test_a_summary_of_unfinished_arms_is_of_the_seeds_both_have(comparison: Comparison) -> None:
    runs = dict(comparison.equal_gradients)
    summaries = {one.arm: one for one in summarise({**runs, "pbt": runs["pbt"][1:], "single": []})}
    assert {arm: one.n_seeds for arm, one in summaries.items()} == {"esgd": 2, "pbt": 1}
    assert summaries["pbt"].scores["validation"].p in (0.5, 1.0)


def test_what_is_no_benchmark_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"a seed and return an esgd\.Benchmark"):
        compare(lambda seed: seed, arms=[], seeds=[0])  # type: ignore[arg-type, return-value]


def test_a_summary_has_means_errors_and_p(comparison: Comparison) -> None:
    esgd, pbt, _ = summarise(comparison.equal_gradients)
    runs = comparison.equal_gradients["pbt"]
    score = pbt.scores["test squared"]
    assert list(pbt.scores) == ["validation", "test squared", "test absolute"]
    assert score.mean == pytest.approx(sum(run.test["squared"] for run in runs) / 2)
    assert score.standard_error == pytest.approx(
        abs(runs[0].test["squared"] - runs[1].test["squared"]) / 2
    )
    assert score.p in (0.25, 0.5, 0.75, 1.0)
    assert esgd.scores["validation"].p is None


def test_large_counts_fit_a_terminal(comparison: Comparison) -> None:
    large = {
        arm: [replace(run, n_gradients=9_999_999, cost=99_999_999) for run in same]
        for arm, same in comparison.equal_gradients.items()
    }
    assert "…" not in text_of(comparison._replace(equal_gradients=large))


def text_of(comparison: Comparison) -> str:
    console = Console(width=80, force_terminal=False)
    with console.capture() as captured:
        for table in tables(comparison):
            console.print(table)
    return captured.get()


def test_tables_fit_a_terminal(comparison: Comparison) -> None:
    text = text_of(comparison)
    assert "lines: equal gradient evaluations" in text
    assert "lines: equal total cost" in text
    assert text.count("p = ") == 2 * 2 * 3
    assert "evaluations" in text
    assert "…" not in text


def diverged(run: Run) -> Run:
    return replace(run, validation=math.inf, test={"squared": math.nan, "absolute": math.inf})


def test_json_is_json_whatever_diverged(comparison: Comparison, tmp_path: Path) -> None:
    broken = {
        arm: [diverged(run) for run in same] if arm == "pbt" else same
        for arm, same in comparison.equal_gradients.items()
    }
    made = comparison._replace(equal_gradients=broken)
    write_json(made, tmp_path / "runs.json")
    read = json.loads((tmp_path / "runs.json").read_text("utf-8"))
    assert [run["arm"] for run in read["equal_cost"]["runs"]] == [
        *("esgd", "esgd", "pbt", "pbt", "single", "single")
    ]
    summary = read["equal_gradients"]["summaries"][1]
    assert summary["scores"]["validation"] == {"mean": None, "standard_error": None, "p": None}
    assert "inf" in text_of(made)
    draw(made)


def test_the_figure_shows_every_seed_of_every_arm(comparison: Comparison) -> None:
    figure = draw(comparison)
    seeds, means = figure.data[:2]
    assert list(seeds.x) == ["esgd", "esgd", "pbt", "pbt", "single", "single"]
    assert list(seeds.y)[2] == comparison.equal_gradients["pbt"][0].test["squared"]
    assert list(means.x) == ["esgd", "pbt", "single"]
    assert figure.layout.yaxis.title.text == "test squared"


def test_the_command_prints_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    named = f"{Path(__file__).parent / 'benchmarks.py'}:build"
    files = ["--json", str(tmp_path / "c.json"), "--figure", str(tmp_path / "c.html")]
    assert main(["compare", named, "--arms", "single", "--seeds", "1", *files]) == 0
    printed = capsys.readouterr()
    words = " ".join(printed.out.split())  # titles wrap, depending on the length of the path
    assert "equal total cost" in words
    assert "esgd seed 0, 4 epochs each" in printed.err
    assert json.loads((tmp_path / "c.json").read_text("utf-8"))["name"] == named
    assert "plotly" in (tmp_path / "c.html").read_text("utf-8")
    assert main(["compare", named, "--arms", "single", "--seeds", "1", *files]) == 0
    assert "seed 0" not in capsys.readouterr().err  # nothing is done again


def test_the_command_shows_the_arms_that_are_asked_for(
    comparison: Comparison, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    named = f"{Path(__file__).parent / 'benchmarks.py'}:build"
    path, figure = tmp_path / "c.json", tmp_path / "c.html"
    write_json(comparison._replace(name=named), path)
    options = ["--seeds", "2", "--json", str(path), "--figure", str(figure)]
    assert main(["compare", named, "--arms", "single", *options]) == 0
    printed = capsys.readouterr().out
    assert "single" in printed
    assert "pbt" not in printed
    assert '"pbt"' not in figure.read_text("utf-8")
    assert list(read_json(path, named).equal_gradients) == ["esgd", "single", "pbt"]


trainer = build().trainer()


def without_a_seed() -> esgd.Benchmark:
    return build(0)


def with_a_number(seed: int) -> esgd.Benchmark:
    return replace(build(seed), test=lambda _: 0.5)  # type: ignore[arg-type, return-value]


def with_a_tensor(seed: int) -> esgd.Benchmark:
    return replace(build(seed), test=lambda _: {"loss": torch.ones(3)})  # type: ignore[dict-item]


def with_a_text(seed: int) -> esgd.Benchmark:
    return replace(build(seed), test=lambda _: {"loss": "0.5"})  # type: ignore[dict-item]


def with_a_wrong_recipe(seed: int) -> esgd.Benchmark:
    recipe = esgd.Recipe(optimizer=torch.optim.SGD, settings={"learning_rate": 0.1})
    return replace(build(seed), recipe=recipe)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train.py"], "Name a file and the benchmark in it"),
        (["nowhere.py:build"], "There is no file nowhere.py"),
        ([f"{__file__}:nothing"], "does not define 'nothing'"),
        ([f"{__file__}:__name__"], "must define __name__ as a function"),
        ([f"{__file__}:trainer"], "must define trainer as a function that takes a seed"),
        ([f"{__file__}:without_a_seed"], "must take one argument, the seed: too many positional"),
        ([f"{__file__}:with_a_number"], "must return numbers by name"),
        ([f"{__file__}:with_a_tensor"], "must return numbers by name"),
        ([f"{__file__}:with_a_text"], "must return numbers by name"),
        ([f"{__file__}:with_a_wrong_recipe"], "learning_rate"),
        ([f"{__file__}:x", "--figure", "r.png"], "--figure writes a page, FILE.html, got r.png"),
        ([f"{__file__}:x", "--arms", "esgd,sgd"], "Arms must be some of"),
        ([f"{__file__}:x", "--seeds", "0"], "--seeds must be at least 1, got 0"),
        ([f"{__file__}:x", "--jobs", "0"], "--jobs must be at least 1, got 0"),
        ([f"{__file__}:x", "--budgets", "time"], "must be gradients, or gradients,cost"),
        ([f"{__file__}:x", "--budgets", "cost"], "must be gradients, or gradients,cost"),
        ([f"{__file__}:x", "--json", "/nowhere/c.json"], "There is no folder /nowhere"),
        ([f"{__file__}:x", "--json", "/tmp"], "/tmp is a folder; name the file to write in it"),
    ],
)
def test_the_command_refuses_before_it_trains(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", *arguments]) == 2
    assert message in capsys.readouterr().err


def interrupted(seed: int) -> esgd.Benchmark:
    """Ctrl-C comes when an arm wants to know how good a trained network is."""
    new = build(seed).task.build_model

    def test(model: nn.Module) -> dict[str, float]:
        with seeded(0):
            is_new = torch.equal(model.weight, new().weight)
        if not is_new:
            raise KeyboardInterrupt
        return {"loss": 0.5}

    return replace(build(seed), test=test)


def test_ctrl_c_says_what_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name, path = f"{__file__}:interrupted", tmp_path / "c.json"
    arguments = ["compare", name, "--arms", "esgd", "--seeds", "1"]
    for given in ([], ["--json", str(path)]):  # nothing has ended yet, and so there is no file
        assert main([*arguments, *given]) == 130
        assert "What has ended is kept only in a --json" in capsys.readouterr().err
        assert not path.exists()
    path.write_text(json.dumps(_empty(name)), "utf-8")
    assert main([*arguments, "--json", str(path)]) == 130
    assert f"{path} has what has ended" in capsys.readouterr().err


def _empty(name: str) -> dict[str, object]:
    return {"name": name, "arms": {}, "equal_gradients": {"runs": []}, "equal_cost": {"runs": []}}


def test_what_a_model_says_of_itself_may_hold_addresses() -> None:
    class Held(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))
            self.function = lambda: None

        def extra_repr(self) -> str:
            return str(self.function)

    task = copy.copy(build().task)
    task.build_model = Held  # type: ignore[method-assign]
    benchmark = replace(build(), task=task)
    kept = []  # what is held lies elsewhere each time
    for _ in range(2):
        kept.append(task.build_model())
        assert benchmark.describe() == replace(build(), task=task).describe()
    assert str(kept[0]) != str(kept[1])


def test_schedules_come_and_go() -> None:
    plain, annealed = build().describe(), build(schedule="cosine").describe()
    assert plain["schedule"] == "none"
    assert {name for name in plain if plain[name] != annealed[name]} == {"schedule"}


def test_rows_of_fewer_seeds_say_so(comparison: Comparison) -> None:
    runs = dict(comparison.equal_gradients)
    unfinished = Comparison("lines", {**runs, "pbt": runs["pbt"][1:]}, {})
    console = Console(record=True, width=120)
    console.print(tables(unfinished)[0])
    text = console.export_text()
    assert "pbt (1 seed)" in text
    assert "single (" not in text
