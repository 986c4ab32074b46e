"""LSTM, GRU, GRU-D and dropout on a CPU, in C: see `recurrence.c`.

It is compiled when the package is installed, for AVX2 and AVX-512, where there is a C compiler. Without one, and for
all that is not float32 on a CPU with a multiple of 16 units, torch reads the steps; its numbers are the same to
rounding, and what it drops to the bit. Under `trainer.precision=bf16-mixed` torch reads an LSTM, in bfloat16; GRU and
GRU-D stay here, in float32, since torch takes up to five times as long for a GRU in bfloat16.
"""

import ctypes
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

_UNITS = 16  # the number of units is a multiple of this
_VERSION = 3  # of what its functions take, as in recurrence.c
_WORTH_A_THREAD = 1 << 15  # numbers of which some are dropped


class _Library(NamedTuple):
    """What was compiled for this processor: floats in a vector, and the numbers a unit that a thread needs room for."""

    code: ctypes.CDLL
    lanes: int
    room: int


@cache
def _library() -> _Library | None:
    """None where nothing was, or something older than this file."""
    path = Path(__file__).with_name(f"recurrence_{torch.backends.cpu.get_cpu_capability().lower()}.so")
    if not path.is_file():
        return None
    try:
        library = ctypes.CDLL(str(path))
        version, lanes, room = (
            ctypes.c_int.in_dll(library, name).value for name in ("version", "lanes", "room_of_a_thread")
        )
    except (OSError, ValueError):  # without the OpenMP it was compiled with, or without a version
        return None
    if version != _VERSION:
        return None
    number, numbers = ctypes.c_long, ctypes.c_void_p
    library.run.argtypes = [numbers, *[number] * 6, numbers, numbers, ctypes.POINTER(numbers)]
    library.drop.argtypes = [number, number, ctypes.c_int, ctypes.c_float, numbers, numbers, numbers]
    library.run.restype = library.drop.restype = None
    return _Library(library, lanes, room)


def drop(x: Tensor, draws: Tensor, least: int, scale: float) -> Tensor | None:
    """Drop numbers, in one pass; None where there is no compiled code for that.

    Args:
        x: Of any shape.
        draws: As many random bytes, or more.
        least: Numbers whose byte is less become 0.
        scale: What the others are multiplied by.
    """
    if x.dtype != torch.float32 or x.device.type != "cpu" or torch.compiler.is_compiling() or _library() is None:
        return None
    dropped: Tensor = _Drop.apply(x, draws, least, scale)  # type: ignore[no-untyped-call]
    return dropped


def can_read(x: Tensor, weight: Tensor) -> bool:
    """Whether there is compiled code for these steps, which are float32, or bfloat16 where precision is mixed.

    Args:
        x: Embedded steps, (B, T, D).
        weight: U, (G * H, H).
    """
    mixed = torch.is_autocast_enabled("cpu") and x.dtype == torch.bfloat16
    return (
        x.device.type == "cpu"
        and weight.dtype == torch.float32
        and (x.dtype == torch.float32 or mixed)
        and weight.shape[1] % _UNITS == 0
        and min(x.shape) > 0
        and not torch.compiler.is_compiling()
        and _library() is not None
    )


class LSTM(nn.LSTM):
    """The net of torch, of one direction, `batch_first` and without last states."""

    def forward(self, x: Tensor, hx: None = None) -> tuple[Tensor, None]:  # type: ignore[override]
        """Read each history: (B, T, D) to (B, T, H)."""
        if torch.is_autocast_enabled("cpu") or not can_read(x, self.all_weights[0][1]):
            return super().forward(x, hx)[0], None
        return _read_layers(self, x, _read_lstm), None


class GRU(nn.GRU):
    """The net of torch, of one direction, `batch_first` and without last states."""

    def forward(self, x: Tensor, hx: None = None) -> tuple[Tensor, None]:  # type: ignore[override]
        """Read each history: (B, T, D) to (B, T, H)."""
        if not can_read(x, self.all_weights[0][1]):
            return super().forward(x, hx)[0], None
        return _read_layers(self, x, _read_gru), None


def _read_layers(net: nn.RNNBase, x: Tensor, read: Callable[..., Tensor]) -> Tensor:
    """All layers, one after the other, with dropout between them."""
    for layer, weights in enumerate(net.all_weights):
        x = read(functional.dropout(x, net.dropout, net.training) if layer else x, *weights)
    return x


def _read_lstm(x: Tensor, read: Tensor, recurrent: Tensor, bias: Tensor, recurrent_bias: Tensor) -> Tensor:
    states: Tensor = _LSTM.apply(x, read, recurrent, bias + recurrent_bias)  # type: ignore[no-untyped-call]
    return states


def _read_gru(x: Tensor, read: Tensor, recurrent: Tensor, bias: Tensor, recurrent_bias: Tensor) -> Tensor:
    # That of n is added before the reset gate has its say.
    size = 2 * recurrent.shape[1]
    bias = torch.cat([bias[:size] + recurrent_bias[:size], bias[size:]])
    states: Tensor = _GRU.apply(x.float(), read, recurrent, bias, recurrent_bias[size:])  # type: ignore[no-untyped-call]
    return states


def read_grud(x: Tensor, read: Tensor, recurrent: Tensor, bias: Tensor, gamma: Tensor) -> Tensor:
    """Hidden states of a GRU-D, see `GRUDEncoder`.

    Args:
        x: Embedded steps, (B, T, D).
        read: W, (3H, D).
        recurrent: U, (3H, H).
        bias: b, (3H,).
        gamma: What is left of each state, (B, T, H).

    Returns:
        (B, T, H).
    """
    states: Tensor = _GRUD.apply(x.float(), read, recurrent, bias, gamma.float())  # type: ignore[no-untyped-call]
    return states


class _Drop(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, draws: Tensor, least: int, scale: float) -> Tensor:
        ctx.save_for_backward(draws)
        ctx.how = least, scale
        return _drop(x, draws, least, scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return _drop(grad, *ctx.saved_tensors, *ctx.how), None, None, None


def _drop(x: Tensor, draws: Tensor, least: int, scale: float) -> Tensor:
    library, x = _library(), x.contiguous()
    assert library is not None
    out, threads = torch.empty_like(x), min(torch.get_num_threads(), -(-x.numel() // _WORTH_A_THREAD))
    library.code.drop(x.numel(), max(threads, 1), least, scale, x.data_ptr(), draws.data_ptr(), out.data_ptr())
    return out


class _LSTM(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, read: Tensor, recurrent: Tensor, bias: Tensor) -> Tensor:
        x, (gates, cells, hidden) = x.contiguous(), _empty(x, recurrent, 4, 1, 1)
        _run("lstm_forward", x, hidden, [x, _pack(read.t()), bias, _pack(recurrent.t()), gates, cells, hidden])
        ctx.save_for_backward(x, read, recurrent, gates, cells, hidden)
        return hidden

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, read, recurrent, gates, cells, hidden = ctx.saved_tensors
        (d_gates,) = _empty(x, recurrent, 4)
        arrays = [x, gates, _pack(recurrent), cells, hidden, grad.contiguous(), d_gates]
        d_read, d_recurrent = _run("lstm_backward", x, hidden, arrays, 4)
        d_x = d_gates @ read if ctx.needs_input_grad[0] else None
        return d_x, d_read, d_recurrent, d_gates.sum((0, 1))


class _GRU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, read: Tensor, recurrent: Tensor, bias: Tensor, recurrent_bias: Tensor) -> Tensor:
        x, (gates, sums, hidden) = x.contiguous(), _empty(x, recurrent, 3, 1, 1)
        arrays = [x, _pack(read.t()), bias, _pack(recurrent.t()), recurrent_bias.contiguous(), gates, sums, hidden]
        _run("gru_forward", x, hidden, arrays)
        ctx.save_for_backward(x, read, recurrent, gates, sums, hidden)
        return hidden

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, read, recurrent, gates, sums, hidden = ctx.saved_tensors
        d_gates, d_sums = _empty(x, recurrent, 3, 1)
        arrays = [x, gates, _pack(recurrent), sums, hidden, grad.contiguous(), d_gates, d_sums]
        d_read, d_recurrent = _run("gru_backward", x, hidden, arrays, 3)
        d_x = d_gates @ read if ctx.needs_input_grad[0] else None
        return d_x, d_read, d_recurrent, d_gates.sum((0, 1)), d_sums.sum((0, 1))


class _GRUD(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, read: Tensor, recurrent: Tensor, bias: Tensor, gamma: Tensor) -> Tensor:
        x, gamma, size = x.contiguous(), gamma.contiguous(), 2 * recurrent.shape[1]
        gates, faded, passed, hidden = _empty(x, recurrent, 3, 1, 1, 1)
        packed = [_pack(recurrent[:size].t()), _pack(recurrent[size:].t())]
        _run("grud_forward", x, hidden, [x, _pack(read.t()), bias, *packed, gamma, gates, faded, passed, hidden])
        ctx.save_for_backward(x, read, recurrent, gamma, gates, faded, passed, hidden)
        return hidden

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, read, recurrent, gamma, gates, faded, passed, hidden = ctx.saved_tensors
        size = 2 * recurrent.shape[1]
        d_gates, d_gamma = _empty(x, recurrent, 3, 1)
        packed = [_pack(recurrent[:size]), _pack(recurrent[size:])]
        arrays = [x, gates, *packed, gamma, faded, passed, hidden, grad.contiguous(), d_gates, d_gamma]
        d_read, d_recurrent = _run("grud_backward", x, hidden, arrays, 3)
        d_x = d_gates @ read if ctx.needs_input_grad[0] else None
        return d_x, d_read, d_recurrent, d_gates.sum((0, 1)), d_gamma


def _empty(x: Tensor, recurrent: Tensor, *sizes: int) -> list[Tensor]:
    """Room for so many times H numbers a step, (B, T, size * H) each."""
    return [x.new_empty(*x.shape[:2], size * recurrent.shape[1]) for size in sizes]


def _pack(matrix: Tensor) -> Tensor:
    """The columns in groups of as many vectors as fit evenly, at most four; group by group, (N / group, K, group)."""
    library = _library()
    assert library is not None
    columns = matrix.shape[1]
    group = next(size * library.lanes for size in (4, 3, 2, 1) if columns % (size * library.lanes) == 0)
    return matrix.reshape(len(matrix), columns // group, group).transpose(0, 1).contiguous()


def _run(name: str, x: Tensor, hidden: Tensor, arrays: list[Tensor], gates: int = 0) -> tuple[Tensor, Tensor]:
    """Call a function of `recurrence.c` by its name; it says there what the arrays are.

    Returns:
        For a way back the gradients of W (G * H, D) and U (G * H, H); else both empty.
    """
    library = _library()
    assert library is not None
    (histories, steps, inputs), size = x.shape, hidden.shape[2]
    threads = min(torch.get_num_threads(), histories)
    room = x.new_empty(threads, library.room * size)
    weights = x.new_zeros(threads, inputs + size, gates * size)
    pointers = (ctypes.c_void_p * len(arrays))(*(array.data_ptr() for array in arrays))
    sizes = (histories, steps, inputs, size, threads, weights[0].numel())
    library.code.run(
        ctypes.cast(library.code[name], ctypes.c_void_p), *sizes, room.data_ptr(), weights.data_ptr(), pointers
    )
    summed = weights.sum(0) if threads > 1 else weights[0]
    return summed[:inputs].t(), summed[inputs:].t()
