"""Extended LSTM: exponential gates, and memories that are normalised or matrices (Beck et al. 2024, "xLSTM")."""

import torch
from torch import Tensor, nn

from ehrseq.errors import ConfigError
from ehrseq.nn.checks import check_count, check_probability
from ehrseq.nn.dropout import Dropout
from ehrseq.nn.encoders.base import Encoder
from ehrseq.nn.masking import clear_padding

# New nets remember: the heads' forget gates start with biases between these, as in the authors' code.
FORGET_BIASES = (3.0, 6.0)

# Steps that the matrix memory computes at once.
CHUNK = 64


class SLSTMBlock(nn.Module):
    """Scalar memories that are normalised and mixed within heads, then a gated feed-forward net; residual.

    z = tanh(z~);  o = sigmoid(o~);  m_t = max(log f + m_{t-1}, i~);  i' = exp(i~ - m_t);
    f' = exp(log f + m_{t-1} - m_t);  c_t = f' c_{t-1} + i' z;  n_t = f' n_{t-1} + i';  h_t = o c_t / n_t,
    with f = sigmoid(f~), each of i~, f~, z~, o~ = W x_t + R h_{t-1} + b, and R mixing the units of a head only.

    The block is y = x + norm(h(norm(x))), then y + W_3 (gelu(W_1 norm(y)) * W_2 norm(y)); the paper's convolution is
    left out.

    Args:
        size: H.
        num_heads: Number of heads.
        dropout: Dropout probability of what each residual part adds.
    """

    def __init__(self, size: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads, self.head_size = num_heads, size // num_heads
        self.norm = nn.LayerNorm(size)
        self.gates = nn.Linear(size, 4 * size)
        self.mixing = nn.Parameter(torch.empty(num_heads, self.head_size, 4 * self.head_size))
        self.head_norm = HeadNorm(size, num_heads)
        self.feed_norm = nn.LayerNorm(size)
        self.up = nn.Linear(size, 2 * _feed_size(size))
        self.down = nn.Linear(_feed_size(size), size)
        self.dropout = Dropout(dropout)
        self.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        """Read and add: (B, T, H) to (B, T, H)."""
        x = x + self.dropout(self.head_norm(self.memory(self.norm(x))))
        gate, content = self.up(self.feed_norm(x)).chunk(2, dim=-1)
        added: Tensor = self.dropout(self.down(nn.functional.gelu(gate) * content))
        return x + added

    def memory(self, x: Tensor) -> Tensor:
        """The recurrence step by step: (B, T, H) to (B, T, H)."""
        batch, steps, size = x.shape
        pressures = self.gates(x).unflatten(-1, (self.num_heads, -1)).permute(1, 2, 0, 3).contiguous()
        h = c = n = pressures.new_zeros(self.num_heads, batch, self.head_size)
        m = torch.full_like(h, -torch.inf)
        states = []
        for pressure in pressures.unbind(0):
            enter, forget, content, out = torch.baddbmm(pressure, h, self.mixing).chunk(4, dim=-1)
            remain = nn.functional.logsigmoid(forget) + m
            # h does not depend on m, which cancels out in c / n: no gradient goes through it.
            m = torch.maximum(remain, enter).detach()
            enter, kept = torch.exp(enter - m), torch.exp(remain - m)
            c = kept * c + enter * torch.tanh(content)
            n = kept * n + enter
            h = torch.sigmoid(out) * c / n
            states.append(h)
        return torch.stack(states).permute(2, 0, 1, 3).reshape(batch, steps, size)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw the gates' weights anew: Glorot uniform from the input, orthogonal from the state before."""
        for gate in self.gates.weight.view(self.num_heads * 4, self.head_size, -1):
            nn.init.xavier_uniform_(gate)
        for head in self.mixing:
            for gate in head.chunk(4, dim=-1):
                gate.copy_(nn.init.orthogonal_(torch.empty_like(gate)))
        biases = self.gates.bias.view(self.num_heads, 4, self.head_size)
        biases.zero_()
        biases[:, 1] = torch.linspace(*FORGET_BIASES, self.num_heads).unsqueeze(1)


class MLSTMBlock(nn.Module):
    """A matrix memory a head, in a residual block that projects up before and down after.

    C_t = f C_{t-1} + i v k^T;  n_t = f n_{t-1} + i k;  h_t = C_t q / max(|n_t . q|, 1), with i = exp(i~),
    f = sigmoid(f~), and queries q, keys k (divided by sqrt(d)) and values v of the step.

    The block is x + W_3 (norm(h(u)) * silu(w)) with u, w = W norm(x), each twice the size of x; the paper's convolution
    and its learnable skip are left out.

    Args:
        size: H.
        num_heads: Number of heads.
        dropout: Dropout probability of what the block adds.
    """

    def __init__(self, size: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        inner = 2 * size
        self.norm = nn.LayerNorm(size)
        self.up = nn.Linear(size, 2 * inner)
        self.project = nn.Linear(inner, 3 * inner)
        self.gates = nn.Linear(inner, 2 * num_heads)
        self.head_norm = HeadNorm(inner, num_heads)
        self.down = nn.Linear(inner, size)
        self.dropout = Dropout(dropout)
        self.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        """Read and add: (B, T, H) to (B, T, H)."""
        content, gate = self.up(self.norm(x)).chunk(2, dim=-1)
        h = self.head_norm(self.memory(content))
        added: Tensor = self.dropout(self.down(h * nn.functional.silu(gate)))
        return x + added

    def memory(self, x: Tensor) -> Tensor:
        """The recurrence: (B, T, 2H) to (B, T, 2H)."""
        parts = self.project(x).unflatten(-1, (3, self.num_heads, -1))
        query, key, value = parts.permute(2, 0, 3, 1, 4).unbind(0)  # (B, heads, T, d) each
        enter, forget = self.gates(x).transpose(1, 2).chunk(2, dim=1)  # (B, heads, T) each
        h = matrix_memory(query, key * key.shape[-1] ** -0.5, value, enter, forget)
        return h.transpose(1, 2).flatten(2)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Let the gates see nothing of their input at first, and remember."""
        nn.init.zeros_(self.gates.weight)
        nn.init.normal_(self.gates.bias[: self.num_heads], std=0.1)
        self.gates.bias[self.num_heads :] = torch.linspace(*FORGET_BIASES, self.num_heads)


def matrix_memory(
    query: Tensor, key: Tensor, value: Tensor, enter: Tensor, forget: Tensor, chunk: int = CHUNK
) -> Tensor:
    """Read the mLSTM's memory at every step, see `MLSTMBlock` for the recurrence.

    Its gates do not read the state before, so the steps of a chunk are computed at once, as attention with decay. From
    the memory C, n, m before the chunk, scaled by exp(-m), and with s <= t of the chunk:
    D_ts = log f_{s+1} + ... + log f_t + i~_s;  b_t = log f_1 + ... + log f_t + m;  m_t = max(b_t, max_s D_ts);
    S_ts = (q_t . k_s) exp(D_ts - m_t);  e_t = exp(b_t - m_t);
    h_t = (sum_s S_ts v_s + e_t C q_t) / max(|sum_s S_ts + e_t n . q_t|, exp(-m_t)).
    Time and memory grow with T times the chunk; the result does not depend on the chunk.

    Args:
        query: (B, heads, T, d).
        key: (B, heads, T, d).
        value: (B, heads, T, d).
        enter: i~, (B, heads, T).
        forget: f~, (B, heads, T).
        chunk: Steps of a chunk.

    Returns:
        h, (B, heads, T, d).
    """
    wide = torch.promote_types(value.dtype, torch.float32)
    log_forget = nn.functional.logsigmoid(forget.to(wide))
    matrix = value.new_zeros(*key.shape[:2], key.shape[3], value.shape[3])  # C transposed
    normaliser = key.new_zeros(*key.shape[:2], key.shape[3], 1)
    m = log_forget.new_full((*key.shape[:2], 1, 1), -torch.inf)
    reads = []
    parts = (torch.split(x, chunk, dim=2) for x in (query, key, value, enter.to(wide), log_forget))
    for q, k, v, entering, log_f in zip(*parts, strict=True):
        since = log_f.cumsum(-1).unsqueeze(-1)  # (B, heads, L, 1)
        later = torch.ones(2 * log_f.shape[-1:], dtype=torch.bool, device=q.device).triu(1)
        logs = (since + (entering.unsqueeze(-1) - since).mT).masked_fill(later, -torch.inf)
        before = since + m
        # h does not depend on m, which cancels out: no gradient goes through it.
        m = torch.maximum(before, logs.amax(-1, keepdim=True)).detach()
        decay, kept = torch.exp(logs - m), torch.exp(before - m)
        weights = (q @ k.mT) * decay
        total = weights.sum(-1, keepdim=True) + kept * (q @ normaliser)
        reads.append((weights @ v + kept * (q @ matrix)) / torch.maximum(total.abs(), torch.exp(-m)))
        # The last step's decays are those of the memory that is handed on.
        m, kept, weighted = m[..., -1:, :], kept[..., -1:, :], k.mT * decay[..., -1:, :]
        matrix = kept * matrix + weighted @ v
        normaliser = kept * normaliser + weighted.sum(-1, keepdim=True)
    return torch.cat(reads, dim=2)


class HeadNorm(nn.Module):
    """Layer norm of each head by itself, then a scale and a shift a unit.

    Args:
        size: Units of all heads.
        num_heads: Number of heads.
    """

    def __init__(self, size: int, num_heads: int) -> None:
        super().__init__()
        self.head_size = size // num_heads
        self.weight = nn.Parameter(torch.ones(size))
        self.bias = nn.Parameter(torch.zeros(size))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise: (B, T, size) to (B, T, size)."""
        heads = x.view(*x.shape[:-1], -1, self.head_size)
        return nn.functional.layer_norm(heads, (self.head_size,)).flatten(-2) * self.weight + self.bias


BLOCKS: dict[str, type[SLSTMBlock] | type[MLSTMBlock]] = {"s": SLSTMBlock, "m": MLSTMBlock}


class XLSTMEncoder(Encoder):
    """Extended LSTM: a linear map to H, blocks of two kinds in a row, a layer norm (Beck et al. 2024).

    Args:
        input_size: D, the size of an embedded step.
        hidden_size: H, the size of a hidden state.
        blocks: A letter a block, first to last: "m" an `MLSTMBlock`, "s" an `SLSTMBlock`.
        num_heads: Number of heads of each block; divides `hidden_size`.
        dropout: Dropout probability of what each block adds.
        input_dropout: Dropout probability of the embedded steps.

    Raises:
        ConfigError: If an argument is out of range.
    """

    causal = True

    def __init__(
        self,
        input_size: int,
        hidden_size: int = 64,
        blocks: str = "ms",
        num_heads: int = 4,
        dropout: float = 0.0,
        input_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.input_size = check_count("input_size", input_size)
        self.output_size = check_count("hidden_size", hidden_size)
        if hidden_size % check_count("num_heads", num_heads):
            raise ConfigError(f"num_heads is {num_heads!r}; allowed are divisors of hidden_size, {hidden_size}")
        if not isinstance(blocks, str) or not blocks or set(blocks) - set(BLOCKS):
            raise ConfigError(f"blocks is {blocks!r}; allowed are words of the letters {' and '.join(BLOCKS)}")
        check_probability("dropout", dropout)
        self.input_dropout = Dropout(check_probability("input_dropout", input_dropout))
        self.linear = nn.Linear(input_size, hidden_size)
        self.blocks = nn.Sequential(*(BLOCKS[letter](hidden_size, num_heads, dropout) for letter in blocks))
        self.norm = nn.LayerNorm(hidden_size)

    def forward(self, x: Tensor, lengths: Tensor, **_: Tensor) -> Tensor:
        """Read each history: (B, T, D) and (B,) to (B, T, H), see `Encoder.forward`."""
        hidden: Tensor = self.norm(self.blocks(self.linear(self.input_dropout(x))))
        return clear_padding(hidden, lengths)


def _feed_size(size: int) -> int:
    """4/3 of a size, rounded up, as in the paper."""
    return -(-4 * size // 3)
