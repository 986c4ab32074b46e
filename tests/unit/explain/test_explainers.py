"""Explainers: what they give sums to what it should, and belongs to the very events."""

from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ehrseq.config.load import load_settings
from ehrseq.data import Grid, Representation, SequenceBatch, represent
from ehrseq.explain.agreement import evenness, spearman
from ehrseq.explain.base import score_of
from ehrseq.explain.deep_lift import DeepLift, read_by_rules
from ehrseq.explain.faithfulness import order
from ehrseq.explain.gradients import GradientXInput, IntegratedGradients, TemporalIntegratedGradients
from ehrseq.explain.grids import GridHistories
from ehrseq.explain.histories import Histories
from ehrseq.explain.masks import ExtremalMask
from ehrseq.explain.occlusion import CodeOcclusion, EventOcclusion, Shapley, TimeOcclusion, WindowOcclusion
from ehrseq.explain.registry import cut_histories, make_explainers
from ehrseq.explain.weights import Attention, AttentionByEvent, AttentionXGradient, Contributions, Gates
from ehrseq.nn import EventAttentionEncoder, RecurrentEncoder, SequenceModel, step_mask
from ehrseq.nn.pieces import pieces
from ehrseq.store import Store
from ehrseq.workflows import prepare
from ehrseq.workflows.build import build_model

GRID = ("representation.max_steps=20",)  # shorter than most histories: what is older counts as last seen
EVENTS = ("representation=events", "representation.max_steps=60")
TIMEPOINTS = ("representation=timepoints", "representation.max_steps=50")
ALL = pytest.mark.parametrize("words", [GRID, EVENTS, TIMEPOINTS], ids=["grid", "events", "timepoints"])


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    data = tmp_path_factory.mktemp("data")
    return prepare.run(load_settings(["source.n_subjects=300", f"paths.data={data}"])).open()


Made = tuple[SequenceModel, Representation, Histories]


@pytest.fixture(scope="module")
def make(store: Store) -> Callable[..., Made]:
    def made(*words: str, count: int = 12) -> Made:
        settings = load_settings(words)
        torch.manual_seed(0)
        model = build_model(settings.model, settings.task.target, settings.loss, len(store.codes), len(store.statics))
        representation = represent(store, settings.representation)
        return model.eval(), representation, cut_histories(representation, store.samples("held_out")[:count])

    return made


def score(model: SequenceModel, histories: Histories) -> Tensor:
    with torch.no_grad():
        return score_of(model, histories.batch)


def in_double(found: Any) -> Any:
    """All floating point tensors of a data class, and of those in it, in float64."""
    if isinstance(found, Tensor):
        return found.double() if found.is_floating_point() else found
    if not is_dataclass(found) or isinstance(found, type):
        return found
    return replace(found, **{item.name: in_double(getattr(found, item.name)) for item in fields(found)})


@ALL
def test_filled_histories_are_those_of_the_store(make: Callable[..., Made], words: tuple[str, ...]) -> None:
    _, representation, histories = make(*words)
    cut = representation.cut(histories.batch.samples.numpy())
    for found in (histories.batch, histories.fill(histories.present)):
        for item in fields(cut):
            assert torch.equal(getattr(found, item.name), getattr(cut, item.name)), item.name


@ALL
def test_parts_are_the_very_events(make: Callable[..., Made], store: Store, words: tuple[str, ...]) -> None:
    _, representation, histories = make(*words)
    links, arrays = histories.links, store.arrays
    samples = histories.batch.samples.numpy()
    code = histories.code.expand(len(histories), -1).numpy()[links.row, links.part]
    assert [representation.names[number] for number in code] == [store.codes[n] for n in arrays.code[links.event]]
    age = (arrays.sample_time[samples[links.row]] - arrays.time[links.event]) / 3.6e9
    hours = histories.hours.numpy()[links.row, links.part]
    assert (hours <= age + 1e-3).all()  # of several events in a cell, the latest
    assert (
        (arrays.sample_begin[samples[links.row]] <= links.event) & (links.event < arrays.sample_end[samples[links.row]])
    ).all()
    there = np.zeros(tuple(histories.present.shape), bool)
    there[links.row, links.part] = True
    assert np.array_equal(there[:, : histories.timed], histories.present.numpy()[:, : histories.timed])
    if isinstance(representation, Grid):
        every = (arrays.sample_end - arrays.sample_begin)[samples]
        assert np.bincount(links.row, minlength=len(samples)).tolist() == every.tolist()
        inside = hours < histories.batch.lengths.numpy()[links.row]
        step = histories.step.expand(len(histories), -1).numpy()[links.row, links.part]
        assert np.array_equal(step >= 0, inside)


@ALL
def test_without_an_event_is_the_history_that_never_had_it(
    make: Callable[..., Made], store: Store, words: tuple[str, ...]
) -> None:
    """Held against a store from which the events are gone: cut anew by the representation itself."""
    settings = load_settings(words)
    _, _, histories = make(*words, count=4)
    for row, sample in enumerate(histories.batch.samples.tolist()):
        own = np.flatnonzero(histories.links.row == row)
        part = histories.links.part[own[len(own) // 2]]
        gone = histories.links.event[own[histories.links.part[own] == part]]
        arrays = store.arrays
        keep = np.ones(len(arrays.event), bool)
        keep[gone] = False
        moved = np.concatenate([[0], np.cumsum(keep)])
        point = arrays.timepoint.copy()
        begin, end = int(arrays.sample_begin[sample]), int(arrays.sample_end[sample])
        stretch = np.flatnonzero(keep[begin:end]) + begin
        point[stretch] = np.unique(point[stretch], return_inverse=True)[1]
        less = replace(
            arrays,
            event=arrays.event[keep],
            timepoint=point[keep],
            sample_begin=moved[arrays.sample_begin],
            sample_end=moved[arrays.sample_end],
        )
        anew = represent(replace(store, arrays=less), settings.representation).cut(np.array([sample]))
        removed = torch.zeros_like(histories.present)
        removed[row, part] = True
        one = histories.take(torch.tensor([row]))
        found = one.without(removed[[row]])
        length = int(found.lengths[0])
        if settings.representation.name != "grid" and length < anew.steps:
            continue  # the store has an older event, which took the place of the one that went
        assert length == anew.steps
        for name in anew.stepped:
            if name != "first_event":
                assert torch.allclose(getattr(found, name)[0, :length], getattr(anew, name)[0], atol=1e-5), name


@ALL
def test_integrated_gradients_sum_to_the_difference(make: Callable[..., Made], words: tuple[str, ...]) -> None:
    model, _, histories = make(*words)
    whole = score(model, histories)
    for explainer in (IntegratedGradients(model, 32), TemporalIntegratedGradients(model, windows=4, steps=16)):
        found = explainer.attribute(histories)
        assert found.rest is not None
        error = (found.parts.sum(1) + found.rest - whole).abs()
        # What comes and goes in the order of time is more than what is left of it in the end.
        moved = found.parts.abs().sum() if explainer.name.startswith("temporal") else (whole - found.rest).abs().sum()
        assert error.sum() < 0.01 * moved
        assert (found.parts[~histories.present] == 0).all()


@pytest.mark.parametrize("encoder", ["lstm", "gru"])
def test_deep_lift_sums_to_the_difference(make: Callable[..., Made], encoder: str) -> None:
    words = (*GRID, f"model={encoder}", "model.encoder.num_layers=2", "model.encoder.bidirectional=true")
    model, _, histories = make(*words, count=4)
    with torch.no_grad():
        for parameter in model.encoder.parameters():
            parameter.mul_(3.0)  # far from where gates are linear
        hidden = model.encoder(model.embed(histories.batch), histories.batch.lengths)
        assert isinstance(model.encoder, RecurrentEncoder)
        read = read_by_rules(
            model.encoder, model.embed(histories.batch).repeat(2, 1, 1), histories.batch.lengths.repeat(2)
        )
    assert torch.allclose(read[:4], hidden, atol=1e-5)
    found = DeepLift(model, 64).attribute(histories)
    assert found.rest is not None
    whole = score(model, histories)
    error = (found.parts.sum(1) + found.rest - whole).abs()
    assert error.sum() < 0.02 * (whole - found.rest).abs().sum()


def test_integrated_gradients_are_those_of_captum(make: Callable[..., Made]) -> None:
    captum = pytest.importorskip("captum.attr")
    model, _, histories = make(*EVENTS, count=3)
    start, end = (histories.leaves(present) for present in (torch.zeros_like(histories.present), histories.present))
    names = list(end)

    def function(*leaves: Tensor) -> Tensor:
        rows = torch.arange(len(leaves[0])) % len(histories)
        return score_of(model, histories.take(rows).inputs(dict(zip(names, leaves, strict=True))))

    method = captum.IntegratedGradients(function)
    given = tuple(end.values()), tuple(start.values())
    shares = dict(zip(names, method.attribute(*given, n_steps=16, method="gausslegendre"), strict=True))
    ours = IntegratedGradients(model, 16).attribute(histories)
    assert torch.allclose(histories.collect(shares, histories.present), ours.parts, atol=1e-4)


@ALL
def test_occlusion_is_the_difference_that_leaving_out_makes(make: Callable[..., Made], words: tuple[str, ...]) -> None:
    model, _, histories = make(*words, count=3)
    whole = score(model, histories)
    events = EventOcclusion(model).attribute(histories).parts
    codes = CodeOcclusion(model).attribute(histories).parts
    code = histories.code.expand(len(histories), -1)
    for row in range(3):
        part = int(histories.present[row].nonzero()[5])
        same = (code[row] == code[row, part]) & histories.present[row]
        for found, group in ((events, torch.arange(histories.parts) == part), (codes, same)):
            gone = torch.zeros_like(histories.present)
            gone[row] = group
            with torch.no_grad():
                effect = whole[row] - score_of(model, histories.without(gone))[row]
            assert found[row][group & histories.present[row]].sum() == pytest.approx(float(effect), abs=1e-5)


def test_attention_sums_to_one_and_is_nothing_on_padding(make: Callable[..., Made]) -> None:
    for words in (GRID, (*EVENTS, "model/pooling=multihead"), (*TIMEPOINTS, "model=retain")):
        model, _, histories = make(*words)
        steps = Attention(model).attribute(histories).steps
        assert steps is not None
        assert steps.sum(1).numpy() == pytest.approx(1.0, abs=1e-5)
        assert (steps[~step_mask(histories.batch.lengths, histories.batch.steps)] == 0).all()


@ALL
def test_attention_shared_out_is_that_of_the_steps(make: Callable[..., Made], words: tuple[str, ...]) -> None:
    model, _, histories = make(*words)
    found, attention = AttentionByEvent(model).attribute(histories), Attention(model).attribute(histories)
    assert found.steps is not None
    assert attention.steps is not None
    step = histories.step.expand(len(histories), -1)
    whole = torch.zeros_like(found.steps).scatter_add(1, step.clamp(min=0), found.parts)
    held = torch.zeros_like(whole).scatter_add(1, step.clamp(min=0), ((step >= 0) & histories.present).float()) > 0
    assert torch.allclose(whole, attention.steps * held, atol=1e-6)
    assert (found.parts[~histories.present] == 0).all()
    assert (found.parts >= 0).all()


@ALL
def test_spreading_is_the_adjoint_of_collecting(make: Callable[..., Made], words: tuple[str, ...]) -> None:
    _, _, histories = make(*words, count=3)
    leaves = histories.leaves(histories.present)
    torch.manual_seed(0)
    shares = {name: torch.randn_like(leaf) for name, leaf in leaves.items()}
    weights = torch.randn(histories.present.shape)
    collected = (histories.collect(shares, histories.present) * weights).sum()
    laid = histories.spread(weights)
    assert sum((laid[name] * share).sum() for name, share in shares.items()) == pytest.approx(
        float(collected), rel=1e-4
    )


@pytest.mark.parametrize("words", [GRID, EVENTS], ids=["grid", "events"])
def test_a_mask_keeps_what_keeps_the_score(make: Callable[..., Made], words: tuple[str, ...]) -> None:
    """A stand-in of a network whose score is known: the mask finds the very parts that it looks at."""
    model, _, histories = make(*words, count=3)
    looked = torch.zeros_like(histories.present)
    for row in range(3):
        looked[row, histories.present[row, : histories.timed].nonzero()[::9, 0]] = True
    start, end = (histories.leaves(present) for present in (torch.zeros_like(looked), histories.present))
    own = {name: histories.spread(looked.float())[name] for name in end}

    class Known(ExtremalMask):
        def score(self, batch: SequenceBatch) -> Tensor:
            terms = torch.zeros(len(batch))
            for name, share in own.items():
                terms = terms + ((getattr(batch, name) - start[name]) ** 2 * share).flatten(1).sum(1)
            return terms

    found = Known(model, iterations=60, size=0.001).attribute(histories).parts
    moved = histories.collect({name: (end[name] - start[name]).abs() * own[name] for name in end}, histories.present)
    clear = looked & (moved > 0.5)
    assert clear.any()
    assert found[clear].median() > 0.9
    assert found[~looked].max() == 0


@ALL
def test_retain_contributions_sum_to_the_logit(make: Callable[..., Made], words: tuple[str, ...]) -> None:
    model, _, histories = make(*words, "model=retain")
    found = Contributions(model).attribute(histories)
    assert found.steps is not None
    assert found.rest is not None
    assert torch.allclose(found.steps.sum(1) + found.rest, score(model, histories), atol=1e-5)
    assert found.parts.abs().sum() > 0


def test_events_that_are_weighed_one_by_one_sum_to_the_logit(make: Callable[..., Made]) -> None:
    model, _, histories = make(*GRID, "model=event_attention")
    found, weights = Contributions(model).attribute(histories), AttentionByEvent(model).attribute(histories).parts
    assert found.steps is not None
    assert found.rest is not None
    whole = score(model, histories)
    assert torch.allclose(found.steps.sum(1) + found.rest, whole, atol=1e-5)
    assert torch.allclose(found.parts.sum(1) + found.rest, whole, atol=1e-5)
    assert weights.sum(1).numpy() == pytest.approx(1.0, abs=1e-5)
    assert ((weights > 0) == (found.parts != 0)).all()
    older = histories.step.expand(len(histories), -1) < 0
    assert (weights * older).sum() > 0  # what happened before the first step counts as well
    # One event by hand: its weight, times what its value means, as the head reads it.
    encoder, linear = model.encoder, model.head.linear
    assert isinstance(encoder, EventAttentionEncoder)
    assert linear is not None
    assert isinstance(histories, GridHistories)
    step, code = 3, int(histories.batch.observed[0, 3].argmax())
    assert histories.batch.observed[0, step, code] == 1
    value = histories.batch.values[0, step, code].view(1)
    numbers = torch.cat([value, pieces(value), torch.ones(1)])
    part = (step + 1) * len(histories.numeric) + code
    by_hand = weights[0, part] * (linear.weight[0, : encoder.output_size] @ (numbers @ encoder.meaning[code]))
    assert by_hand.item() == pytest.approx(found.parts[0, part].item(), abs=1e-6)


@pytest.mark.parametrize("encoder", ["lstm", "gru"])
def test_gates_tell_what_is_left_of_each_step(make: Callable[..., Made], encoder: str) -> None:
    """With one hidden unit the lengths of the terms, with signs, sum to the last state; here their sizes bound it."""
    model, _, histories = make(*GRID, f"model={encoder}", "model.encoder.hidden_size=1", "model/pooling=last")
    steps = Gates(model).attribute(histories).steps
    assert steps is not None
    with torch.no_grad():
        hidden = model(histories.batch).hidden
    last = hidden[torch.arange(len(hidden)), histories.batch.lengths - 1, 0].abs()
    assert (steps.sum(1) >= last - 1e-5).all()
    assert (steps[~step_mask(histories.batch.lengths, histories.batch.steps)] == 0).all()


@ALL
def test_no_explanation_depends_on_its_company(make: Callable[..., Made], words: tuple[str, ...]) -> None:
    """In float64: a learned mask is divided by the way that the score has to go, which magnifies rounding."""
    model, _, histories = make(*words)
    _, _, alone = make(*words, count=1)
    model.double()
    histories, alone = in_double(histories), in_double(alone)
    makers = (GradientXInput, AttentionXGradient, AttentionByEvent, CodeOcclusion, WindowOcclusion, TimeOcclusion)
    for explainer in [*[kind(model) for kind in makers], ExtremalMask(model, iterations=5)]:
        together, single = explainer.attribute(histories), explainer.attribute(alone)
        weights = [found.parts[0][each.present[0]] for found, each in ((together, histories), (single, alone))]
        assert weights[0].dtype == torch.float64, explainer.name
        assert torch.allclose(weights[0], weights[1], rtol=0, atol=1e-10), explainer.name


def test_shapley_values_sum_to_the_difference(make: Callable[..., Made]) -> None:
    pytest.importorskip("captum")
    model, _, histories = make(*GRID, count=2)
    found = Shapley(model, orders=2).attribute(histories)
    assert found.rest is not None
    assert torch.allclose(found.parts.sum(1) + found.rest, score(model, histories), atol=1e-4)


def test_names_that_are_unknown_or_have_nothing_to_show(make: Callable[..., Made]) -> None:
    from ehrseq.errors import ConfigError

    model, _, _ = make(*GRID, "model/pooling=max")
    assert [made.name for made in make_explainers(["attention", "gates", "occlusion"], model, 8, 6.0)] == [
        "gates",
        "occlusion",
    ]
    with pytest.raises(ConfigError, match="'atention' is unknown; allowed are"):
        make_explainers(["atention"], model, 8, 6.0)
    with pytest.raises(ConfigError, match="nothing that attention could show"):
        make_explainers(["attention"], model, 8, 6.0)


def test_order_and_agreement() -> None:
    present = torch.tensor([[True, True, False, True]])
    place = order(torch.tensor([[0.2, 0.9, 5.0, 0.5]]), present)
    assert place.tolist() == [[2, 0, 3, 1]]
    stats = pytest.importorskip("scipy.stats")
    generator = np.random.default_rng(0)
    one, other = generator.integers(0, 5, 40).astype(float), generator.random(40)
    assert spearman(one, other) == pytest.approx(stats.spearmanr(one, other).statistic)
    assert evenness(np.array([[0.5, 0.5, 0], [1, 0, 0]]), np.array([2, 1])).tolist() == pytest.approx(
        [1, np.nan], nan_ok=True
    )
