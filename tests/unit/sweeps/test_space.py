"""Spaces with conditions, against a brute-force reference."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ehrseq.config.space import Choice, Dimension, Interval, examples, expand, matters, order_space, read_space, text_of
from ehrseq.errors import ConfigError


@st.composite
def spaces(draw: st.DrawFn) -> list[Dimension]:
    """Up to five dimensions, each of which may depend on some before it."""
    made: list[Dimension] = []
    for number in range(draw(st.integers(1, 5))):
        values = tuple(f"v{index}" for index in range(draw(st.integers(1, 3))))
        when = {}
        for earlier in made:
            if draw(st.booleans()) and draw(st.booleans()):
                options = earlier.ends
                when[earlier.key] = tuple(sorted(draw(st.sets(st.sampled_from(options), min_size=1))))
        made.append(Choice(f"k{number}", values, when))
    return made


@given(spaces(), st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=60)
def test_expansion_is_what_brute_force_finds(dimensions: list[Dimension], random: object) -> None:
    shuffled = list(dimensions)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    ordered = order_space(shuffled, {})
    found = list(expand(ordered, {}))
    # Every full product, with what does not matter struck out, once each.
    reference = set()
    for values in itertools.product(*(item.ends for item in dimensions)):
        full = dict(zip((item.key for item in dimensions), values, strict=True))
        kept: dict[str, str] = {}
        for item in dimensions:
            if matters(item, kept):
                kept[item.key] = full[item.key]
        reference.add(frozenset(kept.items()))
    assert len(found) == len(reference)
    assert {frozenset(chosen.items()) for chosen in found} == reference
    # Examples are few, are of the space, and leave no reachable value out.
    shown = list(examples(ordered, {}))
    assert len(shown) <= 1 + sum(len(item.ends) for item in dimensions)
    assert {frozenset(chosen.items()) for chosen in shown} <= reference


def test_order_is_that_of_hydra() -> None:
    found = list(expand([Choice("a", ("1", "2")), Choice("b", ("x", "y"))], {}))
    assert [tuple(chosen.values()) for chosen in found] == [("1", "x"), ("1", "y"), ("2", "x"), ("2", "y")]


def test_a_file_says_choices_ranges_and_conditions() -> None:
    space = read_space(
        {
            "model": ["lstm", "gru"],
            "size": {"low": 16, "high": 64, "step": 16},
            "rate": {"low": 1e-4, "high": 1e-2, "log": True},
            "kernels": {"choices": [[3, 5], None, True, "a b"], "when": {"model": "lstm"}},
        }
    )
    model, size, rate, kernels = space
    assert model == Choice("model", ("lstm", "gru"))
    assert isinstance(size, Interval)
    assert size.listed() == ("16", "32", "48", "64")
    assert rate == Interval("rate", 1e-4, 1e-2, None, log=True, whole=False)
    assert kernels == Choice("kernels", ("[3, 5]", "null", "true", "'a b'"), {"model": ("lstm",)})
    assert Interval("x", 0.1, 0.5, 0.1).listed() == ("0.1", "0.2", "0.3", "0.4", "0.5")
    assert text_of(1e-4) == "0.0001"


@pytest.mark.parametrize(
    ("search", "told"),
    [
        ({"x": {"low": 2, "high": 1}}, "sweep.search.x: low (2) is above high (1)"),
        ({"x": {"low": 0, "high": 1, "log": True}}, "a logarithmic range begins above 0"),
        ({"x": {"low": 0, "heigh": 1}}, "sweep.search.x.high"),
        ({"x": 3}, "sweep.search.x=3: give a list"),
        ({"x": []}, "sweep.search.x.choices"),
        ({"x": {"low": 1, "high": 2, "step": -1}}, "step (-1) must be above 0"),
        ({"x": {"choices": [1], "when": {"y": 2}}}, "'y' is neither searched nor given"),
        ({"x": {"choices": [1], "when": {"y": 2}}, "y": {"choices": [2], "when": {"x": 1}}}, "go in a circle"),
    ],
)
def test_a_wrong_space_is_refused_by_name(search: dict[str, object], told: str) -> None:
    with pytest.raises(ConfigError) as error:
        order_space(read_space(search), {})
    assert told in str(error.value)


def test_what_is_given_decides_conditions() -> None:
    space = order_space(read_space({"x": {"choices": [1, 2], "when": {"model": ["gru"]}}}), {"model": "lstm"})
    assert list(expand(space, {"model": "lstm"})) == [{}]
    assert list(expand(space, {"model": "gru"})) == [{"x": "1"}, {"x": "2"}]
