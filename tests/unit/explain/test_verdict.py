"""The verdict tells what explains from what does not; persons and cohorts add up."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from ehrseq.config.load import load_settings
from ehrseq.data import Representation, represent
from ehrseq.explain.base import score_of
from ehrseq.explain.cohort import Cohort, explained
from ehrseq.explain.controls import Controls
from ehrseq.explain.faithfulness import TOP
from ehrseq.explain.figures import draw_timeline
from ehrseq.explain.judge import RANDOM, SHUFFLED, UNTRAINED, Judge
from ehrseq.explain.page import write_page
from ehrseq.explain.person import Glossary, explain_person, in_words
from ehrseq.explain.planted import TRUTH, PlantedEvents
from ehrseq.explain.registry import make_explainers
from ehrseq.explain.verdict import reach_verdict
from ehrseq.nn import LSTMEncoder, SequenceModel
from ehrseq.store import Store
from ehrseq.workflows import prepare
from ehrseq.workflows.build import build_model
from ehrseq.workflows.prepare import Prepared

CPU = torch.device("cpu")
NAME = "integrated_gradients"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    data = tmp_path_factory.mktemp("data")
    return prepare.run(load_settings(["source.n_subjects=400", f"paths.data={data}"]))


@pytest.fixture(scope="module")
def store(prepared: Prepared) -> Store:
    return prepared.open()


@pytest.fixture(scope="module")
def model(store: Store) -> SequenceModel:
    """A network that knows one thing: sepsis. Nothing else moves its output but a little."""
    settings = load_settings(["model.summary=null", "model/pooling=max", "model.embedding.projection=null"])
    torch.manual_seed(0)
    made = build_model(settings.model, settings.task.target, settings.loss, len(store.codes), len(store.statics))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(0.3)
        assert isinstance(made.encoder, LSTMEncoder)
        net = made.encoder.forward_nets[0]
        assert isinstance(net, torch.nn.LSTM)
        sepsis, features, hidden = store.codes.index("DX//sepsis"), len(store.codes), 64
        weight = net.weight_ih_l0
        assert isinstance(weight, torch.Tensor)
        weight[[0, 2 * hidden, 3 * hidden], sepsis + 6 * features] += 3.0  # input gate, candidate, output
        assert made.head.linear is not None
        made.head.linear.weight[:, 0] += 4.0
    return made.eval()


@pytest.fixture(scope="module")
def representation(store: Store) -> Representation:
    return represent(store, load_settings([]).representation)


def test_the_verdict_tells_good_from_bad(
    prepared: Prepared, store: Store, model: SequenceModel, representation: Representation
) -> None:
    """Twenty trials with a trained network: benchmarks/explanations.py."""
    truth = PlantedEvents(prepared.dataset / TRUTH, store)
    everything = store.samples("train")
    with torch.no_grad():
        mean = float(score_of(model, representation.cut(everything)).mean())
    for trial in range(4):
        samples = np.sort(np.random.default_rng(trial).choice(everything, 24, replace=False))
        judge = Judge(model, lambda net: make_explainers([NAME], net, 8, 6.0), mean, truth, trial)
        figures = judge.run(representation, samples, CPU, lambda: None)
        options = {"replicates": 300, "seed": trial, "level": 0.95}
        verdict = reach_verdict(figures, [NAME], store.subjects_of(samples), **options)  # type: ignore[arg-type]
        for control in ("random", "untrained"):
            low = verdict.metrics[f"{NAME}/over_{control}"].ci_low
            assert low is not None
            assert low > 0, (trial, control)
        assert verdict.believed == (NAME,)
        assert verdict.sentence.startswith("Explain with integrated gradients")
        if trial == 0:
            for fraction in TOP:
                key = f"comprehensiveness_{fraction * 100:.0f}"
                assert figures[f"{NAME}/{key}"].mean() > figures[f"{RANDOM}/{key}"].mean()
            # Random order as the only explainer: nothing is believed, and the sentence says so.
            same = {name.replace(f"{RANDOM}/", "chance/"): value for name, value in figures.items()}
            for name in list(figures):
                if name.startswith((f"{RANDOM}/", f"{UNTRAINED}/")):
                    same[name] = figures[name]
            same["chance/untrained"] = np.zeros(24)
            nothing = reach_verdict(same, ["chance"], store.subjects_of(samples), **options)  # type: ignore[arg-type]
            assert nothing.believed == ()
            assert "explain with none" in nothing.sentence
            unsure = {**options, "replicates": 0}
            unjudged = reach_verdict(figures, [NAME], store.subjects_of(samples), **unsure)  # type: ignore[arg-type]
            assert unjudged.sentence.startswith("No verdict: without bootstrap samples (evaluate.replicates=0)")
            assert unjudged.believed == ()


def test_networks_of_the_verdict_are_heard(store: Store, model: SequenceModel, representation: Representation) -> None:
    """Other seeds must agree; what was trained on permuted labels must not, or nothing is believed."""
    samples = store.samples("train")[:16]
    torch.manual_seed(3)
    options = load_settings(["model.summary=null", "model/pooling=max", "model.embedding.projection=null"])
    nothing = build_model(options.model, options.task.target, options.loss, len(store.codes), len(store.statics))
    found = {}
    for name, shuffled in (("good", nothing.eval()), ("bad", model)):
        networks = Controls(seeds=(model, nothing), shuffled_labels=shuffled)
        judge = Judge(model, lambda net: make_explainers([NAME], net, 4, 6.0), 0.0, None, 0, networks)
        figures = judge.run(representation, samples, CPU, lambda: None)
        chosen = {"replicates": 300, "seed": 0, "level": 0.95}
        found[name] = reach_verdict(figures, [NAME], store.subjects_of(samples), **chosen)  # type: ignore[arg-type]
    alike = {name: found[name].metrics[f"{NAME}/{SHUFFLED}"].value for name in found}
    assert alike["bad"] == pytest.approx(1.0)
    assert alike["good"] is not None
    assert alike["good"] < 0.5
    seeds = found["good"].metrics[f"{NAME}/seeds"].value
    assert seeds == pytest.approx((1 + alike["good"]) / 2)
    assert 0.3 < judge.importance_across_seeds()[f"{NAME}/seeds_importance"] <= 1.0  # the mean of 1 and that of nothing
    assert found["good"].believed == (NAME,)
    assert found["bad"].believed == ()
    low = found["good"].metrics[f"{NAME}/over_{SHUFFLED}"].ci_low
    assert low is not None
    assert low > 0
    assert "explain with none" in found["bad"].sentence


def test_cohort_adds_up(store: Store, model: SequenceModel, representation: Representation) -> None:
    samples = store.samples("train")[:60]
    explainers = make_explainers(["gradient_x_input"], model, 4, 6.0)
    cohort = Cohort(
        (*representation.names, *dict.fromkeys(n.removesuffix(" (value)") for n in store.statics)),
        len(representation.names),
    )
    total = torch.zeros(())
    for histories, found in explained(explainers, representation, samples, CPU):
        cohort.add(histories, found, "gradient_x_input")
        total = total + found["gradient_x_input"].parts.abs().sum()
    options = {"replicates": 200, "seed": 0, "level": 0.95}
    table = cohort.importance(store.subjects_of(samples), **options)  # type: ignore[arg-type]
    codes = table.filter(pl.col("kind") == "code")
    assert codes["histories"].min() >= 11  # type: ignore[operator]
    sums = np.concatenate([chunk[0] for chunk in cohort.by_code["gradient_x_input"]])
    assert sums.sum() == pytest.approx(float(total), rel=1e-4)
    assert codes.sort("rank")["name"][0] == "DX//sepsis"
    assert (codes["ci_low"] <= codes["importance"]).all()
    curve = cohort.dependence(["VITAL//heart_rate//bpm"], 0.95)
    assert curve["histories"].min() >= 11  # type: ignore[operator]
    assert curve["value"].is_sorted()
    groups = cohort.subgroups("gradient_x_input", store.subjects_of(samples), **options)  # type: ignore[arg-type]
    row = groups.filter(pl.col("subgroup") == "SEX//F", pl.col("code") == "DX//sepsis").row(0, named=True)
    women = np.concatenate(cohort.has)[:, cohort.codes.index("SEX//F")]
    assert row["inside"] == pytest.approx(sums[women, cohort.codes.index("DX//sepsis")].mean())


@pytest.mark.parametrize("words", [(), ("representation=events", "model/pooling=attention")], ids=["grid", "events"])
def test_a_person_is_told(prepared: Prepared, store: Store, tmp_path: Path, words: tuple[str, ...]) -> None:
    settings = load_settings(words)
    torch.manual_seed(1)
    made = build_model(settings.model, settings.task.target, settings.loss, len(store.codes), len(store.statics)).eval()
    representation = represent(store, settings.representation)
    preprocessor = prepared.preprocessor()
    explainer = make_explainers(["integrated_gradients"], made, 8, 6.0)[0]
    sample = int(store.samples("held_out")[0])
    person = explain_person(explainer, representation, preprocessor, sample, CPU)
    batch = representation.cut(np.array([sample]))
    with torch.no_grad():
        risk = float(made.objective.risk(made(batch).output)[0])
    assert person.risk == pytest.approx(risk, abs=1e-6)
    assert person.path["risk"][-1] == pytest.approx(risk, abs=1e-6)
    codes = pl.read_parquet(prepared.dataset / "metadata" / "codes.parquet")
    glossary = Glossary.of(preprocessor, codes)
    told = in_words(person, glossary)
    assert len(told) == 10
    assert all("without it the risk would be" in line for line in told)
    known = pl.scan_parquet(prepared.dataset / "data" / "*.parquet").filter(
        pl.col("subject_id") == int(store.subjects_of(np.array([sample]))[0])
    )
    rates = known.filter(pl.col("code") == "VITAL//heart_rate//bpm").collect()["numeric_value"].sort()
    shown = person.events.filter(pl.col("code") == "VITAL//heart_rate//bpm")["value"].sort()
    assert set(np.round(shown.to_numpy(), 2)) <= set(np.round(rates.to_numpy().astype(float), 2))
    write_page(person, glossary, "A <title>", "integrated gradients", "Believe it.", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert page.count("data-i=") - 1 >= person.events.filter(pl.col("hours").is_not_null()).height - 1
    assert "A &lt;title&gt;" in page
    draw_timeline(person, glossary, "title", "integrated gradients", tmp_path / "person.png")
    assert (tmp_path / "person.png").read_bytes().startswith(b"\x89PNG")
