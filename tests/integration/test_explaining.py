"""Networks that are trained for the verdict, through the workflows."""

from pathlib import Path

from ehrseq.config.load import load_settings
from ehrseq.config.schema import Settings
from ehrseq.files import read_json
from ehrseq.workflows import experiment, explain, prepare
from ehrseq.workflows.controls import CONTROLS
from ehrseq.workflows.runs import open_run

NAMES = ["even_attention", "guided_attention", "guided_even", "guided_learned", "guided_rival", "rival_1"]
CONTROLLED = [
    *("explain.controls.shuffled_labels=true", "explain.controls.seeds=1", "explain.controls.even_attention=true"),
    *("explain.controls.guided=true", "explain.controls.rivals=[1.0]"),
]


def tiny(folder: Path, *words: str) -> Settings:
    base = [f"paths.data={folder / 'data'}", f"paths.runs={folder / 'runs'}", "tracking=none", "source.n_subjects=300"]
    base += ["model.encoder.hidden_size=8", "model.summary=null"]
    base += ["trainer.max_epochs=1", "trainer.accelerator=cpu", "trainer.progress=false", "evaluate.figures=false"]
    base += ["evaluate.replicates=50", "explain.samples=16", "explain.judged=8", "explain.timelines=0"]
    return load_settings([*base, "explain.explainers=[integrated_gradients,attention]", "explain.steps=4", *words])


def test_networks_are_trained_for_the_verdict_once(tmp_path: Path) -> None:
    settings = tiny(tmp_path, *CONTROLLED)
    done = experiment.run(settings)
    trained = sorted(path.name for path in (done.folder / CONTROLS).iterdir())
    assert trained == sorted([*NAMES, "seed_1001", "shuffled_labels"])
    assert not list(done.folder.glob("checkpoints*"))
    verdict = read_json(done.folder / "explain" / "verdict.json")
    names = {name.removeprefix("explain/") for name in verdict["metrics"]}
    for explainer in ("integrated_gradients", "attention"):
        assert {
            f"{explainer}/{figure}"
            for figure in ("seeds", "seeds_importance", "shuffled_labels", "over_shuffled_labels")
        } <= names
    figures = ["even_trained", "seeds_divergence", "seeds_moved", "rival_1_divergence", "rival_1_moved"]
    figures += ["guide_over_even", "guide_over_learned", "guide_over_rival"]
    assert {f"attention/{figure}" for figure in figures} <= names
    assert "Tests of attention passed (Wiegreffe and Pinter 2019): " in verdict["sentence"]
    # Another verdict of the same run takes the networks that are there.
    before = {path: path.stat().st_mtime_ns for path in (done.folder / CONTROLS).rglob("*.safetensors")}
    prepared = prepare.run(settings)
    again = settings.model_copy(update={"explain": settings.explain.model_copy(update={"seed": 1})})
    explain.run(again, prepared, open_run(done.folder))
    assert before == {path: path.stat().st_mtime_ns for path in (done.folder / CONTROLS).rglob("*.safetensors")}


def test_members_are_the_other_seeds(tmp_path: Path) -> None:
    done = experiment.run(tiny(tmp_path, "members=2"))
    assert not (done.folder / CONTROLS).exists()
    verdict = read_json(done.folder / "explain" / "verdict.json")
    wanted = {f"explain/attention/{figure}" for figure in ("seeds", "seeds_importance", "seeds_divergence")}
    assert wanted <= set(verdict["metrics"])
    assert "Tests of attention passed (Wiegreffe and Pinter 2019): 1 of 1." in verdict["sentence"]
