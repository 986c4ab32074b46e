from typing import Any

import pytest
import torch

from ehrseq.errors import ConfigError
from ehrseq.nn import Head


def test_without_hidden_layer_the_head_is_linear() -> None:
    torch.manual_seed(0)
    head, pooled = Head(3, outputs=4), torch.randn(5, 3)
    weight, bias = head.parameters()
    output = head(pooled, torch.randn(5, 2))
    assert output.shape == (5, 4)
    assert torch.allclose(output, pooled @ weight.T + bias, atol=1e-6)


def test_with_hidden_layer_and_statics_the_head_follows_its_formula() -> None:
    torch.manual_seed(0)
    head, pooled, statics = Head(3, num_statics=2, hidden_size=4), torch.randn(5, 3), torch.randn(5, 2)
    w1, b1, w2, b2 = head.parameters()
    layer = (torch.cat([pooled, statics], 1) @ w1.T + b1).clamp(min=0)
    assert torch.allclose(head(pooled, statics), layer @ w2.T + b2, atol=1e-6)
    assert not torch.allclose(head(pooled, statics + 1), head(pooled, statics))


def test_dropout_acts_in_training_only() -> None:
    torch.manual_seed(0)
    head, pooled, none = Head(50, hidden_size=50, dropout=0.5), torch.randn(5, 50), torch.zeros(5, 0)
    assert not torch.allclose(head(pooled, none), head(pooled, none))
    head.eval()
    assert torch.equal(head(pooled, none), head(pooled, none))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"input_size": 0}, "input_size is 0; allowed are whole numbers from 1 up"),
        ({"num_statics": -1}, "num_statics is -1; allowed are whole numbers from 0 up"),
        ({"hidden_size": 0}, "hidden_size is 0; allowed are whole numbers from 1 up"),
        ({"dropout": "0.5"}, "dropout is '0.5'; allowed are numbers from 0 up to, but not including, 1"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Head(**({"input_size": 3} | arguments))
    assert str(caught.value) == message
