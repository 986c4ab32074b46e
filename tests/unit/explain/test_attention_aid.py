"""Training aids: what they pull attention towards."""

from pathlib import Path

import torch

from ehrseq.config.load import load_settings
from ehrseq.data import GridBatch, represent
from ehrseq.nn import step_mask
from ehrseq.training.attention_aid import AttentionAid, step_importance
from ehrseq.workflows import prepare
from ehrseq.workflows.build import build_model


def test_attention_follows_entropy_and_gradient(tmp_path: Path) -> None:
    settings = load_settings(["source.n_subjects=200", f"paths.data={tmp_path}", "model/pooling=context"])
    store = prepare.run(settings).open()
    batch = represent(store, settings.representation).cut(store.samples("train")[:32])
    real = step_mask(batch.lengths, batch.steps)
    found = {}
    for name, aid in (("entropy", AttentionAid(entropy=1.0)), ("gradient", AttentionAid(gradient=1.0))):
        torch.manual_seed(0)
        model = build_model(settings.model, settings.task.target, settings.loss, len(store.codes), len(store.statics))
        optimizer = torch.optim.Adam(model.pooling.parameters(), lr=0.02)
        model.eval()
        losses = []
        for _ in range(15):
            ready = aid.prepare(batch)
            prediction = model(ready)
            loss = aid.loss(model, ready, prediction)
            losses.append(float(loss))
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        found[name] = losses
        assert prediction.attention is not None
        assert (prediction.attention[~real] == 0).all()
        if name == "gradient":
            assert isinstance(ready, GridBatch)
            wanted = step_importance(model, ready, model(ready))
            assert torch.allclose(wanted.sum(1), torch.ones(len(batch)), atol=1e-5)
            assert (wanted[~real] == 0).all()
    assert found["entropy"][0] > 0.9  # nearly even, where learning begins
    assert found["entropy"][-1] < found["entropy"][0] - 0.05
    assert found["gradient"][-1] < found["gradient"][0]
