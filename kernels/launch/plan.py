"""A pass as a list of launches, planned once for inputs of one kind and then repeated with other addresses.

For every launch Triton looks at each argument and finds the compiled kernel by what it saw, which takes longer than most of
these kernels run. Nothing of that changes between two calls with tensors of the same dtypes, shapes, strides and alignment: a
plan keeps the compiled kernels and their arguments, and a call fills in addresses. Temporaries are one allocation.

A recipe, the function that is planned, gets a ``Recording`` and a ``Buffer`` for each tensor of the call. It makes results and
temporaries, and names the launches in their order.
"""

from __future__ import annotations

import functools
import itertools
import math
import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from vitsom_fast.kernels.launch.device import interprets
from vitsom_fast.kernels.launch.repeated import repeated

_ALIGNMENT = 16  # bytes: Triton compiles loads of so many at once where an address is a multiple
_PIECE = 256  # bytes: the temporaries begin at multiples of a line of any cache


# All that a compiled kernel depends on of a tensor: dtype, shape, strides, and its address as far as parts of it are aligned.
Kind = tuple[torch.dtype, tuple[int, ...], tuple[int, ...], int]


class Buffer(NamedTuple):
    """A tensor that is not there yet, or a part of one."""

    owner: int  # which of the call's inputs and results, or the temporaries behind them
    offset: int  # in bytes from the beginning of that
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # in elements
    dtype: torch.dtype
    device: torch.device

    def stride(self) -> tuple[int, ...]:
        """As a tensor's."""
        return self.strides

    def numel(self) -> int:
        """As a tensor's."""
        return math.prod(self.shape)

    def part(self, first: int, shape: tuple[int, ...], dtype: torch.dtype) -> Buffer:
        """What lies in one piece from element ``first`` on, as another shape and dtype of as many bytes an element."""
        return Buffer(self.owner, self.offset + first * self.dtype.itemsize, shape, _contiguous(shape), dtype, self.device)

    def of(self, owner: Tensor) -> Tensor:
        """The tensor, given the one that it is a part of."""
        if self.offset == 0 and owner.dtype == self.dtype and owner.shape == self.shape:
            return owner
        first = self.offset // owner.element_size()
        length = self.numel() * self.dtype.itemsize // owner.element_size()
        return owner.view(-1)[first : first + length].view(self.dtype).view(self.shape)


class Number(NamedTuple):
    """A floating number of the call that may be another in the next."""

    owner: int


class Launch(NamedTuple):
    """One launch: its arguments in the kernel's order are as they are here but at the places that hold buffers or numbers."""

    kernel: Any
    programs: int
    arguments: tuple[Any, ...]
    options: dict[str, Any]
    places: tuple[tuple[int, int, int], ...]  # (argument, owner, offset)


class Recording:
    """What a recipe says that there is to be done."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.inputs = 0
        self.results: list[Buffer] = []
        self.launches: list[Launch] = []
        self._temporaries: list[tuple[int, Buffer]] = []
        self._bytes = 0

    def given(self, kind: Kind | None) -> Buffer | Number:
        """The next input: a tensor of this kind, or a number."""
        self.inputs += 1
        if kind is None:
            return Number(self.inputs - 1)
        dtype, shape, strides, _ = kind
        return Buffer(self.inputs - 1, 0, shape, strides, dtype, self.device)

    def result(self, shape: Sequence[int], dtype: torch.dtype) -> Buffer:
        """A tensor that each call makes anew and returns."""
        shape = tuple(shape)
        owner = self.inputs + len(self.results)
        self.results.append(Buffer(owner, 0, shape, _contiguous(shape), dtype, self.device))
        return self.results[-1]

    def temporary(self, shape: Sequence[int], dtype: torch.dtype) -> Buffer:
        """A tensor for this pass alone."""
        shape = tuple(shape)
        buffer = Buffer(_TEMPORARIES, self._bytes, shape, _contiguous(shape), dtype, self.device)
        self._bytes += -(-buffer.numel() * dtype.itemsize // _PIECE) * _PIECE
        return buffer

    @property
    def bytes(self) -> int:
        """Of all temporaries."""
        return self._bytes

    def launch(self, kernel: Any, programs: int, *arguments: Any, **options: Any) -> None:
        """``kernel[programs,](*arguments, **options)``: constants and compiler's options by name, all others in order."""
        names = kernel.arg_names
        in_order = [*arguments, *(options[name] for name in names[len(arguments) :])]
        places = tuple(
            (place, x.owner, x.offset if isinstance(x, Buffer) else 0)
            for place, x in enumerate(in_order)
            if isinstance(x, Buffer | Number)
        )
        rest = {name: value for name, value in options.items() if name not in names}
        self.launches.append(Launch(kernel, programs, tuple(in_order), rest, places))


_TEMPORARIES = -1  # counted from the end of the owners


class Plan:
    """The launches of one recipe, ready to be repeated."""

    def __init__(self, recording: Recording) -> None:
        self._device = recording.device
        self._results = [(buffer.shape, buffer.dtype) for buffer in recording.results]
        self._bytes = recording.bytes
        self._launches = recording.launches
        self._nothing = torch.empty(0, dtype=torch.uint8, device=recording.device)  # 5 us each on a host of an H200
        self._runners: list[tuple[Callable[..., Any], list[Any], tuple[tuple[int, int, int], ...]]] | None = None

    def __call__(self, *inputs: Tensor | float) -> tuple[Tensor, ...]:
        """The results for these inputs, which are as those that it was planned for."""
        device = self._device
        if device.type == "cuda" and torch.cuda.current_device() != device.index:
            with torch.cuda.device(device):
                return self(*inputs)
        results = tuple(torch.empty(shape, dtype=dtype, device=device) for shape, dtype in self._results)
        temporaries = self._nothing
        if self._bytes:
            temporaries = torch.empty(self._bytes, dtype=torch.uint8, device=device)
        owners = [*inputs, *results, temporaries]
        if self._runners is None:
            self._first_call(owners)
            return results
        addresses = [x.data_ptr() if isinstance(x, Tensor) else x for x in owners]
        stream = current_stream(device)
        for runner, constants, places in self._runners:
            arguments = constants.copy()
            for place, owner, offset in places:
                arguments[place] = addresses[owner] + offset
            runner(*arguments, stream=stream)
        return results

    def _first_call(self, owners: list[Tensor | float]) -> None:
        """Launches tensors, and keeps what launches the compiled kernels: interpreted ones there is nothing to keep of."""
        runners = [
            first_launch(kernel, programs, [_real(x, owners) for x in arguments], options)
            for kernel, programs, arguments, options, _ in self._launches
        ]
        if None not in runners:
            self._runners = [
                (runner, list(launch.arguments), launch.places)
                for runner, launch in zip(runners, self._launches, strict=True)
                if runner is not None
            ]


def first_launch(kernel: Any, programs: int, arguments: list[Any], options: dict[str, Any]) -> Callable[..., Any] | None:
    """By way of Triton's own look at each argument; returns what does the same without, given addresses and a stream."""
    compiled = kernel[programs,](*arguments, **options)
    return None if interprets() else repeated(compiled, programs)


def current_stream(device: torch.device) -> int:
    """As the compiled kernels take it."""
    return _driver().get_current_stream(device.index)


@functools.cache
def _driver() -> Any:
    from triton.runtime import driver  # late, as Triton may be absent

    return driver.active


def _real(argument: Any, owners: list[Tensor | float]) -> Any:
    """A buffer's tensor, a number's value, and everything else as it is."""
    if isinstance(argument, Buffer):
        owner = owners[argument.owner]
        assert isinstance(owner, Tensor)
        return argument.of(owner)
    return owners[argument.owner] if isinstance(argument, Number) else argument


_MOST_PLANS = 512  # some kB each; the oldest make room
_plans: dict[Any, Plan] = {}
_lock = threading.Lock()


def planned(recipe: Callable[..., None], inputs: tuple[Tensor | float, ...], *options: Any) -> Plan:
    """The plan of ``recipe(recording, *buffers, *options)`` for such tensors, on the first one's device, and numbers."""
    first = inputs[0]
    assert isinstance(first, Tensor)
    kinds = tuple(
        [
            (x.dtype, x.shape, x.stride(), x.data_ptr() % _ALIGNMENT) if isinstance(x, Tensor) else None  # 0.5 us each
            for x in inputs
        ]
    )
    key = (recipe, first.device, kinds, options)
    plan = _plans.get(key)
    if plan is None:
        recording = Recording(first.device)
        recipe(recording, *[recording.given(kind) for kind in kinds], *options)
        plan = Plan(recording)
        with _lock:
            while len(_plans) >= _MOST_PLANS:
                del _plans[next(iter(_plans))]
            _plans[key] = plan
    return plan


def forget() -> None:
    """Every plan is made anew: for who changes what recipes depend on beside their arguments."""
    with _lock:
        _plans.clear()


@functools.lru_cache(maxsize=1024)
def _contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The strides of a tensor in one piece."""
    return tuple(itertools.accumulate(reversed(shape[1:]), lambda a, b: a * max(b, 1), initial=1))[::-1] if shape else ()
