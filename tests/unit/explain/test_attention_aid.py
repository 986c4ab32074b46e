"""Training aids: what they pull attention towards."""

import numpy as np
import pytest
import torch

from ehrseq.config.load import load_settings
from ehrseq.data import GridBatch, represent
from ehrseq.nn import AttentionPooling, step_mask
from ehrseq.store import Store
from ehrseq.training.attention_aid import AttentionAid, step_importance, with_noise
from ehrseq.workflows import prepare
from ehrseq.workflows.build import build_model


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    data = tmp_path_factory.mktemp("data")
    return prepare.run(load_settings(["source.n_subjects=200", f"paths.data={data}"])).open()


def test_attention_follows_entropy_gradient_and_consistency(store: Store) -> None:
    settings = load_settings(["model/pooling=context"])
    batch = represent(store, settings.representation).cut(store.samples("train")[:32])
    real = step_mask(batch.lengths, batch.steps)
    found = {}
    aids = {name: AttentionAid(**{name: 1.0}) for name in ("entropy", "gradient", "consistency")}
    for name, aid in aids.items():
        torch.manual_seed(0)
        model = build_model(settings.model, settings.task.target, settings.loss, len(store.codes), len(store.statics))
        optimizer = torch.optim.Adam(model.pooling.parameters(), lr=0.02)
        if name == "consistency":
            with torch.no_grad():
                assert isinstance(model.pooling, AttentionPooling)
                model.pooling.score.weight.mul_(20.0)  # else it is even, and the same under every mask
        model.train(name == "consistency")
        losses = []
        for _ in range(15):
            ready = aid.prepare(batch)
            prediction = model(ready)
            loss = aid.loss(model, ready, prediction)
            losses.append(float(loss.detach()))
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
    assert np.mean(found["consistency"][-3:]) < 0.7 * np.mean(found["consistency"][:3])


def test_noise_is_carried_forward_as_values_are(store: Store) -> None:
    batch = represent(store, load_settings([]).representation).cut(store.samples("train")[:8])
    assert isinstance(batch, GridBatch)
    noisy = with_noise(batch)
    assert isinstance(noisy, GridBatch)
    moved = noisy.values - batch.values
    assert (moved[batch.values == 0] == 0).all()
    assert 0.03 < float(moved[(batch.observed > 0) & (batch.values != 0)].std()) < 0.07
    carried = (batch.observed[:, 1:] == 0) & (batch.values[:, 1:] != 0)
    assert torch.allclose(moved[:, 1:][carried], moved[:, :-1][carried], atol=1e-6)
