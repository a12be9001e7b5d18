"""Rules of recurrent layers, by their formulas: torch's fused kernels have no second derivative."""

# ruff: noqa: A002 - arguments carry torch's names: torch may pass them by keyword

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from sharpbench.taylor.jet import Jet
from sharpbench.taylor.rules import arithmetic, linear
from sharpbench.taylor.rules.linear import cat, stack
from sharpbench.taylor.rules.selections import lifted
from sharpbench.taylor.table import Rule, rule

State = tuple[Any, ...]
"""Hidden state, and an LSTM's cell state."""

Step = Callable[[Any, Any, State], State]
"""From what the input gives to the gates, the hidden state's share and the state to the next one."""


def _lstm_step(from_input: Any, from_hidden: Any, state: State) -> State:
    gates = from_input + from_hidden
    i, f, g, o = gates.chunk(4, -1)
    cell = f.sigmoid() * state[1] + i.sigmoid() * g.tanh()
    return o.sigmoid() * cell.tanh(), cell


def _gru_step(from_input: Any, from_hidden: Any, state: State) -> State:
    r_x, z_x, n_x = from_input.chunk(3, -1)
    r_h, z_h, n_h = from_hidden.chunk(3, -1)
    z = (z_x + z_h).sigmoid()
    n = (n_x + (r_x + r_h).sigmoid() * n_h).tanh()
    return (n + z * (state[0] - n),)


def _tanh_step(from_input: Any, from_hidden: Any, state: State) -> State:
    return ((from_input + from_hidden).tanh(),)


def _relu_step(from_input: Any, from_hidden: Any, state: State) -> State:
    return ((from_input + from_hidden).relu(),)


def _layer(
    step: Step, steps: Sequence[Any], state: State, weights: Sequence[Any], backwards: bool
) -> tuple[list[Any], State]:
    """One direction of one layer: outputs by time, and the last state.

    Each step may have fewer rows than the one before (packed sequences): rows are kept by length, the
    longest first.
    """
    w_x, w_h, b_x, b_h, projection = weights
    outputs: list[Any] = [None] * len(steps)
    full = state
    order = range(len(steps) - 1, -1, -1) if backwards else range(len(steps))
    for t in order:
        rows = steps[t].shape[0]
        current = tuple(_rows(s, 0, rows) for s in full)
        moved = step(
            linear.linear(steps[t], w_x, b_x), linear.linear(current[0], w_h, b_h), current
        )
        if projection is not None:
            moved = (linear.linear(moved[0], projection), *moved[1:])
        full = tuple(
            new if rows == old.shape[0] else _joined(new, _rows(old, rows, old.shape[0] - rows))
            for new, old in zip(moved, full, strict=True)
        )
        outputs[t] = moved[0]
    return outputs, full


def _rows(x: Any, start: int, count: int) -> Any:
    return x if start == 0 and count == x.shape[0] else x.narrow(0, start, count)


def _joined(*parts: Any) -> Any:
    return cat(list(parts), 0)


def _like(values: Sequence[Any]) -> Jet:
    return next(v for v in values if isinstance(v, Jet))


def _network(
    step: Step,
    steps: list[Any],
    states: Sequence[Any],
    params: Sequence[Tensor],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
) -> tuple[list[Any], tuple[Any, ...]]:
    like = _like([*steps, *states])
    directions = 2 if bidirectional else 1
    chunk = len(params) // (num_layers * directions)
    lasts: list[State] = []
    for layer in range(num_layers):
        found = []
        for direction in range(directions):
            place = layer * directions + direction
            given = list(params[place * chunk : (place + 1) * chunk])
            projection = given.pop() if len(given) == (5 if has_biases else 3) else None
            weights = [*given, projection] if has_biases else [*given, None, None, projection]
            start = tuple(lifted(s[place], like) for s in states)
            outputs, last = _layer(step, steps, start, weights, direction == 1)
            found.append(outputs)
            lasts.append(last)
        steps = found[0]
        if bidirectional:
            steps = [cat([a, b], -1) for a, b in zip(*found, strict=True)]
        if dropout and train and layer < num_layers - 1:
            steps = [arithmetic.dropout(x, dropout, True) for x in steps]
    return steps, tuple(stack([last[i] for last in lasts], 0) for i in range(len(states)))


def _recurrent(step: Step, several: bool) -> Rule:
    """torch.lstm, torch.gru, …: of one tensor of all steps, or of packed sequences."""

    def applied(input: Any, second: Any, *rest: Any) -> Any:
        if isinstance(rest[0], (list, tuple)) and isinstance(rest[1], (list, tuple)):
            return packed(input, second, *rest)
        if not several and isinstance(second, Tensor) and not second.is_floating_point():
            return packed(input, second, *rest)
        if several and not isinstance(second, (list, tuple)):
            return packed(input, second, *rest)
        return padded(input, second, *rest)

    def padded(
        input: Any,
        hx: Any,
        params: Any,
        has_biases: bool,
        num_layers: int,
        dropout: float,
        train: bool,
        bidirectional: bool,
        batch_first: bool,
    ) -> Any:
        steps = list(input.unbind(1 if batch_first else 0))
        states = hx if several else (hx,)
        steps, last = _network(
            step, steps, states, params, has_biases, num_layers, dropout, train, bidirectional
        )
        return stack(steps, 1 if batch_first else 0), *last

    def packed(
        data: Any,
        batch_sizes: Tensor,
        hx: Any,
        params: Any,
        has_biases: bool,
        num_layers: int,
        dropout: float,
        train: bool,
        bidirectional: bool,
    ) -> Any:
        steps = list(data.split(batch_sizes.tolist()))
        states = hx if several else (hx,)
        steps, last = _network(
            step, steps, states, params, has_biases, num_layers, dropout, train, bidirectional
        )
        return cat(steps, 0), *last

    return applied


rule("lstm")(_recurrent(_lstm_step, True))
rule("gru")(_recurrent(_gru_step, False))
rule("rnn_tanh")(_recurrent(_tanh_step, False))
rule("rnn_relu")(_recurrent(_relu_step, False))


def _cell(step: Step, several: bool) -> Rule:
    def applied(
        input: Any, hx: Any, w_ih: Any, w_hh: Any, b_ih: Any = None, b_hh: Any = None
    ) -> Any:
        state = tuple(hx) if several else (hx,)
        like = _like([input, *state])
        state = tuple(lifted(s, like) for s in state)
        moved = step(
            linear.linear(lifted(input, like), w_ih, b_ih),
            linear.linear(state[0], w_hh, b_hh),
            state,
        )
        return moved if several else moved[0]

    return applied


rule("lstm_cell")(_cell(_lstm_step, True))
rule("gru_cell")(_cell(_gru_step, False))
rule("rnn_tanh_cell")(_cell(_tanh_step, False))
rule("rnn_relu_cell")(_cell(_relu_step, False))


@rule("pack_padded_sequence")
def _pack_padded_sequence(input: Jet, lengths: Tensor, batch_first: bool) -> Any:
    found = [torch._VF._pack_padded_sequence(c, lengths, batch_first) for c in input.coefficients]
    return input.like(torch.stack([data for data, _ in found])), found[0][1]


@rule("pad_packed_sequence")
def _pad_packed_sequence(
    data: Jet, batch_sizes: Tensor, batch_first: bool, padding_value: float, total_length: int
) -> Any:
    found = [
        torch._VF._pad_packed_sequence(
            c, batch_sizes, batch_first, 0.0 if n else padding_value, total_length
        )
        for n, c in zip(data.orders, data.coefficients, strict=True)
    ]
    return data.like(torch.stack([padded for padded, _ in found])), found[0][1]
