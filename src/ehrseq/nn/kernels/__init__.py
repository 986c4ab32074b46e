"""LSTM, GRU, GRU-D and dropout on a CPU, in C: see `recurrence.c`.

It is compiled when the package is installed, for AVX2 and AVX-512, where there is a C compiler. Without one, and for
all that is not float32 on a CPU with a multiple of 16 units, torch reads the steps; its numbers are the same to
rounding, and what it drops to the bit. Under `trainer.precision=bf16-mixed` torch reads an LSTM, in bfloat16; GRU and
GRU-D stay here, in float32, since torch takes up to five times as long for a GRU in bfloat16.
"""

import ctypes
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

_UNITS = 16  # the number of units is a multiple of this
_VERSION = 4  # of what its functions take, as in recurrence.c
_WORTH_A_THREAD = 1 << 15  # numbers of which some are dropped
_WORTH_A_PRODUCT = 1 << 20  # products of two numbers that make a thread of a layer pay


class _Library(NamedTuple):
    """What was compiled for this processor.

    Attributes:
        code: Its functions.
        lanes: Floats in a vector.
        room: Numbers a unit that a thread of a recurrent net needs room for.
        chunk: Rows that a thread of a layer needs room for.
    """

    code: ctypes.CDLL
    lanes: int
    room: int
    chunk: int


@cache
def _library() -> _Library | None:
    """None where nothing was, or something older than this file."""
    path = Path(__file__).with_name(f"recurrence_{torch.backends.cpu.get_cpu_capability().lower()}.so")
    if not path.is_file():
        return None
    try:
        library = ctypes.CDLL(str(path))
        version, lanes, room, chunk = (
            ctypes.c_int.in_dll(library, name).value
            for name in ("version", "lanes", "room_of_a_thread", "chunk_of_rows")
        )
    except (OSError, ValueError):  # without the OpenMP it was compiled with, or without a version
        return None
    if version != _VERSION:
        return None
    number, numbers = ctypes.c_long, ctypes.c_void_p
    library.run.argtypes = [numbers, *[number] * 6, numbers, numbers, ctypes.POINTER(numbers)]
    library.drop.argtypes = [number, number, ctypes.c_int, ctypes.c_float, numbers, numbers, numbers]
    rows: list[Any] = [number, number, number, ctypes.POINTER(numbers), ctypes.POINTER(number), number, number]
    library.project.argtypes = [*rows, numbers, numbers, numbers]
    library.project_backward.argtypes = [*rows, numbers, numbers, numbers, numbers]
    library.pack.argtypes = [number, number, number, number, numbers, numbers]
    for function in (library.run, library.drop, library.pack, library.project, library.project_backward):
        function.restype = None
    return _Library(library, lanes, room, chunk)


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


def project(parts: Sequence[Tensor], weight: Tensor, bias: Tensor) -> Tensor | None:
    """relu(W x + b), x being the parts side by side, which nobody joins; None where there is no compiled code for that.

    Args:
        parts: (..., D') each, D all together; none of them wants a gradient.
        weight: W, (N, D).
        bias: b, (N,).
    """
    tensors = (*parts, weight, bias)
    if (
        weight.shape[0] % _UNITS
        or torch.is_autocast_enabled("cpu")
        or torch.compiler.is_compiling()
        or any(tensor.dtype != torch.float32 or tensor.device.type != "cpu" for tensor in tensors)
        or (torch.is_grad_enabled() and any(part.requires_grad for part in parts))
        or min(parts[0].shape) == 0
        or _library() is None
    ):
        return None
    projected: Tensor = _Project.apply(weight, bias, *parts)  # type: ignore[no-untyped-call]
    return projected


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
    states: Tensor = _LSTM.apply(  # type: ignore[no-untyped-call]
        x, read, recurrent, bias + recurrent_bias, _will_go_back(x, read, recurrent, bias, recurrent_bias)
    )
    return states


def _read_gru(x: Tensor, read: Tensor, recurrent: Tensor, bias: Tensor, recurrent_bias: Tensor) -> Tensor:
    # That of n is added before the reset gate has its say.
    size = 2 * recurrent.shape[1]
    keep = _will_go_back(x, read, recurrent, bias, recurrent_bias)
    bias = torch.cat([bias[:size] + recurrent_bias[:size], bias[size:]])
    states: Tensor = _GRU.apply(  # type: ignore[no-untyped-call]
        x.float(), read, recurrent, bias, recurrent_bias[size:], keep
    )
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
    keep = _will_go_back(x, read, recurrent, bias, gamma)
    states: Tensor = _GRUD.apply(  # type: ignore[no-untyped-call]
        x.float(), read, recurrent, bias, gamma.float(), keep
    )
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


class _Project(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, bias: Tensor, *parts: Tensor) -> Tensor:
        library, parts = _library(), tuple(part.contiguous() for part in parts)
        assert library is not None
        out = weight.new_empty(*parts[0].shape[:-1], len(weight))
        numbers = _pack(weight.t()), bias.contiguous(), out
        library.code.project(*_rows(out, weight, parts), *(tensor.data_ptr() for tensor in numbers))
        ctx.save_for_backward(weight, out, *parts)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        library, (weight, out, *parts) = _library(), ctx.saved_tensors
        assert library is not None
        grad, (size, inputs), rows = grad.contiguous(), weight.shape, _rows(out, weight, parts)
        threads = rows[1]
        room = grad.new_empty(threads, library.chunk * size)
        learned = grad.new_zeros(threads, inputs + 1, size)
        numbers = (tensor.data_ptr() for tensor in (out, grad, room, learned))
        library.code.project_backward(*rows, *numbers)
        summed = learned.sum(0) if threads > 1 else learned[0]
        return summed[:inputs].t(), summed[inputs], *(None for _ in parts)


def _rows(out: Tensor, weight: Tensor, parts: Sequence[Tensor]) -> tuple[Any, ...]:
    """What `project` and its way back in `recurrence.c` take first: rows, threads, and of what the rows consist."""
    rows = out.numel() // len(weight)
    threads = max(min(torch.get_num_threads(), rows * weight.numel() // _WORTH_A_PRODUCT), 1)
    arrays = (ctypes.c_void_p * len(parts))(*(part.data_ptr() for part in parts))
    wide = (ctypes.c_long * len(parts))(*(part.shape[-1] for part in parts))
    return rows, threads, len(parts), arrays, wide, weight.shape[1], len(weight)


class _LSTM(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, read: Tensor, recurrent: Tensor, bias: Tensor, keep: bool) -> Tensor:
        x, ((gates, cells), hidden) = x.contiguous(), _empty(x, recurrent, 4, 1, keep=keep)
        _run("lstm_forward", x, hidden, [x, _pack(read.t()), bias, _pack(recurrent.t()), gates, cells, hidden])
        ctx.save_for_backward(x, read, recurrent, gates, cells, hidden)
        return hidden

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, read, recurrent, gates, cells, hidden = ctx.saved_tensors
        d_x, onward = _onward(x, read, ctx.needs_input_grad[0])
        arrays = [x, gates, _pack(recurrent), cells, hidden, grad.contiguous(), *onward]
        d_read, d_recurrent, d_bias = _learn("lstm_backward", x, hidden, arrays, 4)
        return d_x, d_read, d_recurrent, d_bias[0], None


class _GRU(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, read: Tensor, recurrent: Tensor, bias: Tensor, recurrent_bias: Tensor, keep: bool
    ) -> Tensor:
        x, ((gates, sums), hidden) = x.contiguous(), _empty(x, recurrent, 3, 1, keep=keep)
        arrays = [x, _pack(read.t()), bias, _pack(recurrent.t()), recurrent_bias.contiguous(), gates, sums, hidden]
        _run("gru_forward", x, hidden, arrays)
        ctx.save_for_backward(x, read, recurrent, gates, sums, hidden)
        return hidden

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, read, recurrent, gates, sums, hidden = ctx.saved_tensors
        d_x, onward = _onward(x, read, ctx.needs_input_grad[0])
        arrays = [x, gates, _pack(recurrent), sums, hidden, grad.contiguous(), *onward]
        d_read, d_recurrent, d_biases = _learn("gru_backward", x, hidden, arrays, 3, biases=2)
        return d_x, d_read, d_recurrent, d_biases[0], d_biases[1, : hidden.shape[2]], None


class _GRUD(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, read: Tensor, recurrent: Tensor, bias: Tensor, gamma: Tensor, keep: bool
    ) -> Tensor:
        x, gamma, size = x.contiguous(), gamma.contiguous(), 2 * recurrent.shape[1]
        (gates, faded, passed), hidden = _empty(x, recurrent, 3, 1, 1, keep=keep)
        packed = [_pack(recurrent[:size].t()), _pack(recurrent[size:].t())]
        _run("grud_forward", x, hidden, [x, _pack(read.t()), bias, *packed, gamma, gates, faded, passed, hidden])
        ctx.save_for_backward(x, read, recurrent, gamma, gates, faded, passed, hidden)
        return hidden

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, read, recurrent, gamma, gates, faded, passed, hidden = ctx.saved_tensors
        size = 2 * recurrent.shape[1]
        d_gamma, (d_x, onward) = torch.empty_like(gamma), _onward(x, read, ctx.needs_input_grad[0])
        packed = [_pack(recurrent[:size]), _pack(recurrent[size:])]
        arrays = [x, gates, *packed, gamma, faded, passed, hidden, grad.contiguous(), d_gamma, *onward]
        d_read, d_recurrent, d_bias = _learn("grud_backward", x, hidden, arrays, 3)
        return d_x, d_read, d_recurrent, d_bias[0], d_gamma, None


def _will_go_back(*tensors: Tensor) -> bool:
    """Whether gradients may be asked for, so that the gates have to be kept."""
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def _empty(x: Tensor, recurrent: Tensor, *sizes: int, keep: bool) -> tuple[list[Tensor | None], Tensor]:
    """Room for so many times H numbers a step, (B, T, size * H) each, if they are to be kept; and for the states."""
    rooms = [x.new_empty(*x.shape[:2], size * recurrent.shape[1]) if keep else None for size in sizes]
    return rooms, x.new_empty(*x.shape[:2], recurrent.shape[1])


def _onward(x: Tensor, read: Tensor, needed: bool) -> tuple[Tensor | None, list[Tensor | None]]:
    """Room for the gradient of the inputs, and the arrays that a way back takes for it; none where it is not needed."""
    if not needed:
        return None, [None, None]
    packed, inputs = _pack(read), x.shape[2]
    room = x.new_empty(*x.shape[:2], packed.shape[1])
    return room[..., :inputs], [packed, room]


def _pack(matrix: Tensor) -> Tensor:
    """The columns in groups of as many vectors as fit evenly, at most four; group by group, (N / group, K, group).

    Columns of zeros make the last vector whole.
    """
    library = _library()
    assert library is not None
    rows, columns = matrix.shape
    packed = matrix.new_empty(rows, -(-columns // library.lanes) * library.lanes)
    library.code.pack(rows, columns, *matrix.stride(), matrix.data_ptr(), packed.data_ptr())
    return packed


def _learn(
    name: str, x: Tensor, hidden: Tensor, arrays: list[Tensor | None], gates: int, biases: int = 1
) -> tuple[Tensor, Tensor, Tensor]:
    """Run a way back.

    Returns:
        The gradients of W (G * H, D) and U (G * H, H), and so many of biases (biases, G * H).
    """
    inputs, size = x.shape[2], hidden.shape[2]
    learned = _run(name, x, hidden, arrays, inputs + size + biases, gates)
    return learned[:inputs].t(), learned[inputs : inputs + size].t(), learned[inputs + size :]


def _run(name: str, x: Tensor, hidden: Tensor, arrays: list[Tensor | None], rows: int = 0, gates: int = 0) -> Tensor:
    """Call a function of `recurrence.c` by its name; it says there what the arrays are.

    Returns:
        What it learned: so many rows of numbers for the gates.
    """
    library = _library()
    assert library is not None
    (histories, steps, inputs), size = x.shape, hidden.shape[2]
    threads = min(torch.get_num_threads(), histories)
    room = x.new_empty(threads, library.room * size)
    learned = x.new_zeros(threads, rows, gates * size)
    pointers = (ctypes.c_void_p * len(arrays))(*(None if array is None else array.data_ptr() for array in arrays))
    sizes = (histories, steps, inputs, size, threads, rows * gates * size)
    library.code.run(
        ctypes.cast(library.code[name], ctypes.c_void_p), *sizes, room.data_ptr(), learned.data_ptr(), pointers
    )
    return learned.sum(0) if threads > 1 else learned[0]
