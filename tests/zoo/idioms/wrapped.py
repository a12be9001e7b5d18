"""Networks that are compiled, scripted, checkpointed or differentiated by the user's own rules."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from tests.zoo.idioms.base import cross_entropy, idiom


def _plain() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 3))


@idiom(8, 5)
def compiled() -> nn.Module:
    """torch.compile."""
    return torch.compile(_plain(), backend="eager")


@idiom(8, 5)
def scripted() -> nn.Module:
    """torch.jit.script."""
    return torch.jit.script(_plain())


@idiom(8, 5)
def traced() -> nn.Module:
    """torch.jit.trace."""
    return torch.jit.trace(_plain(), torch.zeros(2, 5))


class Checkpointed(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.a, self.b, self.c, self.kind = nn.Linear(5, 4), nn.Linear(4, 4), nn.Linear(4, 3), kind

    def forward(self, x):
        first = lambda z: torch.tanh(self.a(z))  # noqa: E731
        second = lambda z: torch.sin(self.b(z))  # noqa: E731
        if self.kind == "none":
            return self.c(second(first(x)))
        if self.kind == "non_reentrant":
            h = checkpoint(first, x, use_reentrant=False)
            return self.c(checkpoint(second, h, use_reentrant=False))
        if self.kind == "reentrant_inside":
            return self.c(checkpoint(second, first(x), use_reentrant=True))
        return self.c(second(checkpoint(first, x, use_reentrant=True)))


@idiom(8, 5)
def checkpointed() -> nn.Module:
    """checkpoint(use_reentrant=False)."""
    return Checkpointed("non_reentrant")


@idiom(8, 5, twin=lambda: Checkpointed("none"), may_refuse={"": "checkpoint"})
def checkpointed_reentrant() -> nn.Module:
    """checkpoint(use_reentrant=True) around the first block, whose parameters get no gradient."""
    return Checkpointed("reentrant")


@idiom(8, 5, twin=lambda: Checkpointed("none"), may_refuse={"": "checkpoint"})
def checkpointed_reentrant_inside() -> nn.Module:
    """checkpoint(use_reentrant=True) around an inner block: right first derivatives, no second ones."""
    return Checkpointed("reentrant_inside")


class Cube(torch.autograd.Function):
    @staticmethod
    def forward(ctx, h):
        ctx.save_for_backward(h)
        return h**3

    @staticmethod
    def backward(ctx, slope):
        (h,) = ctx.saved_tensors
        return 3 * h**2 * slope


class KeepsIntermediate(torch.autograd.Function):
    """The first derivative is right; the second is not, since exp(h) is kept outside the graph."""

    @staticmethod
    def forward(ctx, h):
        ctx.kept = h.exp()
        return ctx.kept.clone()

    @staticmethod
    def backward(ctx, slope):
        return slope * ctx.kept


class OnceDifferentiable(torch.autograd.Function):
    @staticmethod
    def forward(ctx, h):
        ctx.save_for_backward(h)
        return h.sin()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, slope):
        return slope * ctx.saved_tensors[0].cos()


class Custom(nn.Module):
    def __init__(self, function: type[torch.autograd.Function]) -> None:
        super().__init__()
        self.a, self.b, self.function = nn.Linear(5, 4), nn.Linear(4, 3), function

    def forward(self, x):
        return self.b(self.function.apply(self.a(x)))


# --- losses and outputs as people write them ------------------------------------------------------


SECOND = ("top", "smallest", "trace", "frobenius", "negative", "lambda", "input_curvature")


@idiom(8, 5)
def custom_function() -> nn.Module:
    """An autograd.Function with a backward of differentiable operations."""
    return Custom(Cube)


@idiom(8, 5, may_refuse=dict.fromkeys(SECOND, ""))
def custom_function_keeps_intermediate() -> nn.Module:
    """An autograd.Function that keeps what it computed on ctx."""
    return Custom(KeepsIntermediate)


@idiom(8, 5, may_refuse=dict.fromkeys((*SECOND, "fisher_rao"), "differentia"))
def custom_function_once() -> nn.Module:
    """An autograd.Function marked once_differentiable."""
    return Custom(OnceDifferentiable)


@idiom(
    8, 5, may_refuse=dict.fromkeys((*SECOND, "input", "gradient_change", "jacobian"), "derivative")
)
def equilibrium() -> nn.Module:
    """A deep equilibrium solved under no_grad and differentiated through one step alone."""

    class Equilibrium(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.z, self.b = nn.Linear(5, 3), nn.Linear(3, 3), nn.Linear(3, 3)

        def forward(self, x):
            shift = self.a(x)
            with torch.no_grad():
                z = torch.zeros_like(shift)
                for _ in range(25):
                    z = torch.tanh(shift + 0.5 * self.z(z))
            return self.b(torch.tanh(shift + 0.5 * self.z(z)))

    return Equilibrium()


class Flat(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 5), nn.Linear(5, 1)

    def forward(self, x):
        return self.b(torch.tanh(self.a(x))).squeeze(-1)


def _half_square(outputs, targets):
    return 0.5 * (outputs.reshape(-1) - targets.reshape(-1)) ** 2


@idiom(8, 4, outputs=1, targets="real", labels=lambda y: y[:, 0], reference_loss=_half_square)
def regression_of_flat_outputs() -> nn.Module:
    """Outputs (N,) against targets (N,)."""
    return Flat()


@idiom(8, 4, outputs=1, targets="real", reference_loss=_half_square)
def regression_of_flat_outputs_to_columns() -> nn.Module:
    """Outputs (N,) against targets (N, 1)."""
    return Flat()


@idiom(8, 4, outputs=1, targets="real", labels=lambda y: y[:, 0], reference_loss=_half_square)
def regression_to_flat_targets() -> nn.Module:
    """Outputs (N, 1) against targets (N,)."""
    return nn.Sequential(nn.Linear(4, 5), nn.Softplus(), nn.Linear(5, 1))


@idiom(8, 4, outputs=3, targets="real")
def regression_of_several_outputs() -> nn.Module:
    """Three real outputs."""
    return nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))


class Logits(nn.Module):
    def __init__(self, *, in_dict: bool) -> None:
        super().__init__()
        self.a, self.b, self.in_dict = nn.Linear(4, 4), nn.Linear(4, 3), in_dict

    def forward(self, x):
        logits = self.b(torch.tanh(self.a(x)))
        return {"logits": logits} if self.in_dict else logits


@idiom(8, 4, twin=lambda: Logits(in_dict=False))
def dict_outputs() -> nn.Module:
    """A model that returns a dict."""
    return Logits(in_dict=True)


def _one_logit(outputs, targets):
    return F.binary_cross_entropy_with_logits(
        outputs.reshape(-1), targets.reshape(-1).to(outputs), reduction="none"
    )


@idiom(8, 4, outputs=2, may_refuse={"": ""}, reference_loss=_one_logit)
def one_logit() -> nn.Module:
    """A binary classifier of one logit, class targets and no loss named."""
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 1))


@idiom(
    8,
    4,
    outputs=3,
    targets="real",
    labels=lambda y: (y > 0).double(),
    loss=lambda o, t: F.binary_cross_entropy_with_logits(o, t, reduction="none").sum(1),
)
def multi_label() -> nn.Module:
    """Several labels a sample, with the loss named."""
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))


@idiom(8, 5, loss=nn.CrossEntropyLoss(), reference_loss=cross_entropy, may_refuse={"": "(N"})
def mean_reduced_loss() -> nn.Module:
    """nn.CrossEntropyLoss() as the loss."""
    return _plain()


@idiom(8, 5, loss=nn.CrossEntropyLoss(reduction="none", label_smoothing=0.1))
def label_smoothing() -> nn.Module:
    """Label smoothing, unreduced."""
    return _plain()


def _nll(outputs, targets):
    return F.nll_loss(outputs, targets, reduction="none")


@idiom(8, 5, loss=_nll)
def log_softmax_outputs() -> nn.Module:
    """A network that ends in log-softmax, with the negative log-likelihood."""
    return nn.Sequential(nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 3), nn.LogSoftmax(1))


def _ignored(y):
    y = y.clone()
    y[::3] = -100
    return y


@idiom(9, 5, labels=_ignored)
def ignored_targets() -> nn.Module:
    """Targets of −100, torch's ignore_index: those samples are left out."""
    return _plain()
