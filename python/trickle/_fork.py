# SPDX-License-Identifier: MIT
"""fork, join and joinany: calls that are begun now and waited for later.

No threads: a fork sends its request, the VM runs requests in the order they came, and join waits
for the answer.
"""
from __future__ import annotations

from . import _trickle
from ._bundle import is_code
from ._codec import failure
from ._modules import is_local
from ._proxy import MOVES_MAX, VM, Proxy, RemoteFunction, RemoteMethod, send_call
from ._special import NAMESPACE_ID
from ._vmlist import VMList, vms_of
from .errors import Elsewhere, TrickleError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any


class same:
    """same(x): an argument of fork that is given as it is to every VM of a list.

        fork(vms, total, same([1, 2, 3]))

    Without it a sole list argument is mapped: one element for each VM.
    """

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __repr__(self) -> str:
        return f"same({self.value!r})"


class Handle:
    """A call that fork() has begun. join(handle) waits for it; handle.vm is where it runs."""

    __slots__ = ("vm", "_call", "_again", "_value", "_error", "_is_read", "_is_given",
                 "__weakref__")

    def __init__(self, vm: VM, call: Any, again: tuple) -> None:
        self.vm = vm
        self._call = call
        self._again: tuple | None = again  # what was asked, in case it has to be asked once more
        self._value: Any = None
        self._error: BaseException | None = None
        self._is_read = False
        self._is_given = False  # join or joinany has returned it

    @property
    def is_done(self) -> bool:
        """True when join() would not wait."""
        return self._is_read or self._call.is_done

    def _read(self) -> None:
        """Waits for the answer and keeps it, so that every join gives the same one."""
        if self._is_read:
            return
        for _ in range(MOVES_MAX):
            call = self._call
            try:
                status = call.wait()
                if status == 0:
                    self._value = _trickle.decode(call, self.vm._t_loads)
                else:
                    self._error = failure(status, call)
                    if type(self._error) is Elsewhere:
                        self._ask_again()
                        continue
            except TrickleError as error:
                self._error = error
            break
        self._is_read = True
        self._call = self._again = None

    def _ask_again(self) -> None:
        """What is called was moving to another VM: waits until it is there."""
        assert self._again is not None
        func, args, kwargs = self._again
        with self.vm._t_moving:
            pass
        proxy = func._t_proxy if isinstance(func, RemoteMethod) else func
        vm = proxy._t_vm if isinstance(proxy, Proxy) else self.vm
        again = _begin(vm, func, args, kwargs)
        self.vm, self._call, self._error = vm, again._call, None
        again._is_read = True  # its call is ours

    def _result(self) -> Any:
        self._read()
        self._is_given = True
        if self._error is not None:
            raise self._error.with_traceback(None)
        return self._value

    def __del__(self) -> None:
        # The answer may hold a reference, which keeps an object alive on the VM: a later fork
        # reads it.
        try:
            if not self._is_read:
                self.vm._t_unread.append(self._call)
        except BaseException:
            pass

    def __repr__(self) -> str:
        return f"<Handle of a call on {self.vm!r}, {'done' if self.is_done else 'running'}>"

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TrickleError("a handle belongs to this program and cannot be sent or pickled")


def fork(vm: VM | Sequence[VM], func: Any, /, *args: Any, **kwargs: Any) -> Any:
    """Begins a call on a VM, or one on each VM of a list, and does not wait for it.

        h     = fork(vm, func, arg, ...)          one call
        hlist = fork(vms, func, arg, ...)         on each VM, with the same arguments
        hlist = fork(vms, func, [a, b, ...])      a sole list (or range) is mapped: one element
                                                  for each VM; same(x) keeps it whole
        hlist = fork(vms, [f, g, ...], ...)       one function for each VM

    func is an injected function, a class, a built-in, a method of a remote object, or a name.
    join() waits for the result.
    """
    if isinstance(vm, VM):
        return _begin(vm, func, tuple(map(_plain, args)), kwargs)
    handles = vms_of(vm)
    if not handles:
        raise ValueError("the list of VMs is empty")
    count = len(handles)
    functions = [func] * count
    if isinstance(func, (list, tuple)):
        functions = _mapped(func, count, "functions")
    rows: list[tuple] = [tuple(map(_plain, args))] * count
    if len(args) == 1 and isinstance(args[0], (list, range)):
        rows = [(item,) for item in _mapped(args[0], count, "elements of the argument list")]
    targets = [_target(own, function) for own, function in zip(handles, functions)]
    return [_send(own, function, *target, row, kwargs)
            for own, function, target, row in zip(handles, functions, targets, rows)]


def _plain(arg: Any) -> Any:
    return arg.value if type(arg) is same else arg


def _mapped(items: Any, count: int, what: str) -> list:
    if len(items) != count:
        advice = "" if what == "functions" else (
            "; to give the whole list to every VM, write trickle.same(list)")
        raise ValueError(f"the number of {what} is {len(items)}, that of VMs is {count}{advice}")
    return list(items)


def _begin(vm: VM, func: Any, args: tuple, kwargs: dict) -> Handle:
    return _send(vm, func, *_target(vm, func), args, kwargs)


def _target(vm: VM, func: Any) -> tuple[int, str, Any]:
    """What is called there: (object id, name, a function that is sent with the arguments)."""
    if isinstance(func, str):
        return 0, func, None
    if isinstance(func, RemoteFunction):
        return 0, func._t_name, None  # the function of this name on that VM
    if isinstance(func, RemoteMethod):
        _check_vm(vm, func._t_proxy)
        return func._t_proxy._t_id, func._t_name, func._t_proxy
    if isinstance(func, Proxy):
        _check_vm(vm, func)
        return func._t_id, "__call__", func
    if not callable(func):
        raise TypeError(f"a {type(func).__name__} cannot be called: fork takes a function, a "
                        "class or a name")
    name = injected_name(vm._t_names, func)
    if name is not None:
        return 0, name, None
    own = getattr(func, "__name__", None)
    if not is_code(func) or not is_local(getattr(func, "__module__", None) or "__main__"):
        return NAMESPACE_ID, "*apply", func  # it is found by name in a module of the VM's Python
    if own in vm._t_names:
        raise TrickleError(f"{own} is another object than the {own} that was injected: inject it "
                           f"again, inject(vms, {own})")
    raise TrickleError(f"{own} has not been injected into {vm!r}: inject(vms, {own}) first")


def injected_name(names: dict[str, Any], func: Any) -> str | None:
    """The name under which this very function was injected."""
    own = getattr(func, "__name__", None)
    if own is not None and names.get(own) is func:
        return own
    for name, known in names.items():
        if known is func:
            return name
    return None


def _check_vm(vm: VM, proxy: Proxy) -> None:
    if proxy._t_vm is not vm:
        raise TrickleError(f"this object lives on {proxy._t_vm!r}, not on {vm!r}")


def _send(vm: VM, asked: Any, object_id: int, name: str, func: Any, args: tuple,
          kwargs: dict) -> Handle:
    again = (asked, args, kwargs)
    if vm._t_unread:
        _read_orphans(vm)
    if name == "*apply":
        args, kwargs = (func, args, kwargs), {}
    return Handle(vm, send_call(vm, object_id, name, args, kwargs), again)


def _read_orphans(vm: VM) -> None:
    """Reads answers whose handles are gone: references in them are released that way."""
    unread = vm._t_unread
    while unread and unread[0].is_done:
        call = unread.pop(0)
        try:
            if call.wait() == 0:
                _trickle.decode(call, vm._t_loads)
        except Exception:
            pass


def join(handles: Handle | Iterable[Handle]) -> Any:
    """Waits for a forked call and returns its result; for a list of handles, a list of results.

    An exception of the call is raised here. Joining a handle again gives the same answer.
    """
    if isinstance(handles, Handle):
        return handles._result()
    return [_checked(handle)._result() for handle in _handle_list(handles, "join")]


def joinany(handles: Iterable[Handle]) -> tuple[Handle, Any]:
    """Waits until one of these calls has ended: (handle, result).

    Handles that join or joinany gave before come last, so calling it again with the same list
    gives one after the other.
    """
    known = [_checked(handle) for handle in _handle_list(handles, "joinany")]
    if not known:
        raise ValueError("joinany needs at least one handle")
    fresh = [handle for handle in known if not handle._is_given] or known
    for handle in fresh:
        if handle._is_read:
            return handle, handle._result()
    which = None
    while which is None:
        which = _trickle.wait_any([handle._call for handle in fresh])
    return fresh[which], fresh[which]._result()


def _handle_list(handles: Any, what: str) -> list:
    if isinstance(handles, (str, bytes, VM, VMList, dict)) or not hasattr(handles, "__iter__"):
        raise TypeError(f"{what} takes handles that fork returned, not {type(handles).__name__}")
    return list(handles)


def _checked(handle: Any) -> Handle:
    if not isinstance(handle, Handle):
        raise TypeError(f"a handle that fork returned is wanted here, not {type(handle).__name__}")
    return handle
