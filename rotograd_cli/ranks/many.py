"""Several processes on torch.distributed."""

import copy
import inspect
import io
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import groupby
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from rotograd_cli.errors import RankError
from rotograd_cli.ranks.base import Ranks
from rotograd_cli.ranks.layers import see_whole_batch
from rotograd_cli.trees import Inputs, call, like_parameters

T = TypeVar("T")

# under their names before torch 2.14 where it is older
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
_KNOWN = inspect.signature(DistributedDataParallel).parameters
_SYNC_BUFFERS = "forward_sync_buffers" if "forward_sync_buffers" in _KNOWN else "broadcast_buffers"


class ManyRanks(Ranks):
    """The processes of torch's default process group, which must exist.

    What is on the host goes through the group's CPU backend, which no device waits for.
    """

    def __init__(self) -> None:
        super().__init__()
        self.rank = dist.get_rank()
        self.size = dist.get_world_size()
        self._num_examples = [1] * self.size  # of a micro-batch, by rank
        self._backbone: list[DistributedDataParallel] = []  # in a list: no module of the model's
        self._host: dist.ProcessGroup | None = None  # None is the default group, which has gloo

    def part(self, rows: Tensor) -> Tensor:
        """See :class:`Ranks`."""
        return rows.tensor_split(self.size)[self.rank]

    def begin_step(self, present: Sequence[Sequence[bool]], num_examples: int) -> list[list[bool]]:
        """See :class:`Ranks`; one operation on the host, which tells signals too."""
        numbers = torch.zeros(self.size, 2, dtype=torch.int64)
        numbers[self.rank] = torch.tensor((num_examples, self.signal))
        flags = torch.tensor(present, dtype=torch.int64)
        total = self.sum(torch.cat((numbers.flatten(), flags.flatten())))
        counts, signals = total[: 2 * self.size].view(self.size, 2).unbind(1)
        self._num_examples, self.signal_of_all = counts.tolist(), int(signals.amax())
        anywhere: list[list[bool]] = (total[2 * self.size :].view(flags.shape) > 0).tolist()
        return anywhere

    def sum(self, tensor: Tensor) -> Tensor:
        """See :class:`Ranks`."""
        total = tensor.detach().clone(memory_format=torch.contiguous_format)
        self._all_reduce(total)
        return total

    def norms(self, norms: Tensor) -> Tensor:
        """See :class:`Ranks`; squares are added in float64, so that none over- or underflows."""
        return self.sum(norms.double().square()).sqrt().to(norms.dtype)

    def num_rows(self, rows: int) -> int:
        """See :class:`Ranks`."""
        return rows * sum(self._num_examples) // self._num_examples[self.rank]

    def draw(self, fill: Callable[[Tensor], Tensor], like: Tensor) -> Tensor:
        """See :class:`Ranks`."""
        whole = fill(like.new_empty(self.num_rows(len(like)), *like.shape[1:]))
        before = sum(self._num_examples[: self.rank])
        start = len(like) * before // self._num_examples[self.rank]
        return whole[start : start + len(like)]

    def shard(self, num: int) -> slice:
        """See :class:`Ranks`; equal parts, the last ones shorter or empty."""
        part = -(-num // self.size)
        return slice(min(self.rank * part, num), min((self.rank + 1) * part, num))

    def all_gather(self, stack: Tensor) -> None:
        """See :class:`Ranks`."""
        padded = self._padded(stack)
        self.traffic.count(padded)
        _all_gather(padded, padded.chunk(self.size)[self.rank].clone())
        stack.copy_(padded[: len(stack)])

    def reduce_scatter(self, stack: Tensor) -> None:
        """See :class:`Ranks`."""
        padded = self._padded(stack)
        self.traffic.count(padded)
        total = torch.empty_like(padded.chunk(self.size)[self.rank])
        _reduce_scatter(total, padded)
        shard = self.shard(len(stack))
        stack.zero_()[shard] = total[: shard.stop - shard.start]

    def _padded(self, stack: Tensor) -> Tensor:
        """With zeros at the end, so that it falls into equal parts; the stack itself if it does."""
        missing = -len(stack) % self.size
        if not missing:
            return stack.contiguous()
        return torch.cat((stack, stack.new_zeros(missing, *stack.shape[1:])))

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """See :class:`Ranks`."""
        gradients = [p.grad for p in parameters if p.grad is not None]
        for _, group in groupby(sorted(gradients, key=_kind), key=_kind):
            group_gradients = list(group)
            flat = torch.cat([gradient.reshape(-1) for gradient in group_gradients])
            self._all_reduce(flat)
            sums = torch.split(flat, [gradient.numel() for gradient in group_gradients])
            for gradient, total in zip(group_gradients, sums, strict=True):
                gradient.copy_(total.view_as(gradient))

    def attach(self, model: nn.Module, example: Inputs) -> None:
        """Let layers see the whole batch, and wrap the backbone.

        The wrapped backbone sums gradients while the backward pass is still under way. It is no
        submodule of the model, so that names in the ``state_dict`` stay as they are.
        """
        backbone = model.backbone
        assert isinstance(backbone, nn.Module)
        is_trained = any(p.requires_grad for p in backbone.parameters())
        self.wrap(model, find_unused=is_trained and has_unused(backbone, example))

    def wrap(self, model: nn.Module, *, find_unused: bool) -> None:
        """Do what :meth:`attach` does without trying the backbone.

        Args:
            model: Has a ``backbone``; on its device.
            find_unused: Whether features may not depend on some parameter of the backbone.
        """
        see_whole_batch(model, self)
        backbone = model.backbone
        assert isinstance(backbone, nn.Module)
        self._backbone.clear()
        parameters = [p for p in backbone.parameters() if p.requires_grad]
        # a method with gradients over the parameters sums these itself, once per step
        if not parameters or getattr(model, "over_parameters", None) is not None:
            return
        device = parameters[0].device
        options: dict[str, Any] = {_SYNC_BUFFERS: False}  # they are the same already
        wrapped = DistributedDataParallel(
            backbone,
            device_ids=[device] if device.type == "cuda" else None,
            find_unused_parameters=find_unused,
            **options,
        )
        wrapped.register_comm_hook(self, _sum_bucket)
        self._backbone.append(wrapped)

    def run(self, backbone: nn.Module, *inputs: Any, **named: Any) -> Any:
        """See :class:`Ranks`."""
        wrapped = self._backbone[0] if self._backbone else backbone
        return wrapped(*inputs, **named)

    def accumulating(self, yes: bool) -> AbstractContextManager[None]:
        """See :class:`Ranks`."""
        if not (yes and self._backbone):
            return nullcontext()
        context: AbstractContextManager[None] = self._backbone[0].no_sync()
        return context

    def broadcast(self, make: Callable[[], T]) -> T:
        """See :class:`Ranks`."""
        box: list[Any] = [None, None]
        if self.is_first:
            try:
                box[0] = make()
            except Exception as raised:  # whatever it is, the others wait for an answer
                box[1] = raised
        dist.broadcast_object_list(box, src=0, group=self._host, device=torch.device("cpu"))
        result: T = box[0]
        if box[1] is not None:
            raise box[1]
        return result

    def broadcast_content(self, make: Callable[[], T]) -> T:
        """See :class:`Ranks`. In torch's own format: pickled tensors do not travel."""
        packed = self.broadcast(lambda: _packed(make()))
        content: T = torch.load(io.BytesIO(packed), weights_only=True)
        return content

    def check_equal(self, model: nn.Module) -> None:
        """See :class:`Ranks`; one operation on two numbers per parameter.

        Raises:
            RankError: If a parameter differs.
        """
        named = dict(model.named_parameters())
        sums = torch.stack([_fingerprint(p) for p in named.values()])
        extremes = torch.stack((sums, -sums))
        self._all_reduce(extremes, dist.ReduceOp.MAX)
        largest, negated = extremes.nan_to_num(0, 0, 0)
        differs = (largest != -negated).any(1).tolist()
        names = [name for name, different in zip(named, differs, strict=True) if different]
        if names:
            raise RankError(
                f"{names[0]} must be the same on all {self.size} ranks, got {len(names)} of "
                f"{len(named)} parameters that differ; draw random numbers in a network with "
                "layers of torch, or train with one process."
            )

    def __deepcopy__(self, memo: dict[int, Any]) -> "ManyRanks":
        return self

    def _all_reduce(self, tensor: Tensor, op: dist.ReduceOp.RedOpType = dist.ReduceOp.SUM) -> None:
        self.traffic.count(tensor)
        dist.all_reduce(tensor, op)


def _sum_bucket(
    ranks: ManyRanks,
    bucket: dist.GradBucket,  # type: ignore[name-defined]
) -> torch.futures.Future[Tensor]:
    """Sum a bucket of gradients, where torch's default hook would average."""
    tensor = bucket.buffer()
    ranks.traffic.count(tensor)
    work = dist.all_reduce(tensor, async_op=True)
    future: torch.futures.Future[Any] = work.get_future()
    return future.then(lambda done: done.value()[0])


def has_unused(backbone: nn.Module, example: Inputs) -> bool:
    """Return whether the features of an example do not depend on some parameter."""
    backbone = copy.deepcopy(backbone).eval()
    parameters = [p for p in backbone.parameters() if p.requires_grad]
    with torch.enable_grad(), torch.random.fork_rng(devices=[]):
        features = call(backbone, like_parameters(example, parameters[0]))
    features = features[0] if isinstance(features, (list, tuple)) else features
    gradients = torch.autograd.grad(features.sum(), parameters, allow_unused=True)
    return any(gradient is None for gradient in gradients)


def _packed(content: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def _fingerprint(parameter: Tensor) -> Tensor:
    """Two sums of a parameter's entries, which differ between parameters but by accident."""
    values = parameter.detach().double().flatten()
    places = torch.arange(1, len(values) + 1, device=values.device, dtype=values.dtype)
    return torch.stack((values.sum(), torch.dot(values, places.rsqrt())))


def _kind(tensor: Tensor) -> str:
    return str(tensor.dtype)
