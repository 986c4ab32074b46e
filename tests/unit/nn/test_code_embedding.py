"""Embeddings of events and timepoints against a plain loop."""

import torch

from ehrseq.nn import EventEmbedding, TimepointEmbedding
from ehrseq.nn.embedding import scale_hours

B, T, S, D, CODES = 3, 4, 2, 5, 7


def test_events_equal_the_plain_loop() -> None:
    torch.manual_seed(0)
    embedding = EventEmbedding(CODES, S, D).double().eval()
    codes = torch.randint(0, CODES, (B, T), dtype=torch.int32)
    values, has_value = torch.randn(B, T).double(), torch.rand(B, T) < 0.5
    hours = torch.rand(B, T).double().sort(dim=1, descending=True).values * 50
    statics = torch.randn(B, S).double()
    got = embedding(codes, values, has_value, hours, statics)
    for row in range(B):
        for step in range(T):
            event = embedding.code.weight[int(codes[row, step])].clone()
            if has_value[row, step]:
                event += values[row, step] * embedding.slope.weight[int(codes[row, step])]
            gap = hours[row, step - 1] - hours[row, step] if step else torch.zeros(())
            known = torch.cat([scale_hours(torch.stack([gap.double(), hours[row, step]])), statics[row]])
            expected = torch.tanh(event + embedding.context(known))
            torch.testing.assert_close(got[row, step], expected)


def test_timepoints_are_the_sums_of_their_events() -> None:
    torch.manual_seed(0)
    embedding = TimepointEmbedding(CODES, S, D).double().eval()
    counts = torch.tensor([[2, 1, 0, 3], [1, 0, 0, 0], [0, 0, 0, 0]])
    total = int(counts.sum())
    codes, values = torch.randint(0, CODES, (total,), dtype=torch.int32), torch.randn(total).double()
    has_value = torch.rand(total) < 0.5
    first = (counts.flatten().cumsum(0) - counts.flatten()).reshape(3, 4)
    hours, statics = torch.zeros(3, 4).double(), torch.randn(3, S).double()
    got = embedding(codes, values, has_value, first, hours, statics)
    for row in range(3):
        for step in range(4):
            event = torch.zeros(D).double()
            for index in range(int(first[row, step]), int(first[row, step] + counts[row, step])):
                event += embedding.code.weight[int(codes[index])]
                event += values[index] * has_value[index] * embedding.slope.weight[int(codes[index])]
            event /= max(int(counts[row, step]), 1) ** 0.5
            known = torch.cat([torch.zeros(2).double(), statics[row]])
            torch.testing.assert_close(got[row, step], torch.tanh(event + embedding.context(known)))
