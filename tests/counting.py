"""Work counted in operations of torch: a clock that every machine reads alike."""

from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode


class CountOperations(TorchDispatchMode):
    """Inside, ``num`` grows by one with every operation on tensors, backward passes included."""

    def __init__(self) -> None:
        super().__init__()
        self.num = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        self.num += 1
        return func(*args, **(kwargs or {}))
