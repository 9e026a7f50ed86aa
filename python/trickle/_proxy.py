# SPDX-License-Identifier: MIT
"""Handles of VMs, and proxies that stand here for objects on them.

    vm.foo            a RemoteFunction when `foo` is known to be callable (injected, or built in):
                      no round trip. Anything else is read at once: immutable values arrive by
                      value, all else as a Proxy
    vm.foo(1)         one request
    proxy.push('A')   one request: a proxy knows the methods of its object's type
    proxy + x, len(proxy), x in proxy, proxy[i] = x ...      one request each
    for x in proxy    a request per chunk of items

A Proxy's class is made per remote type and has just the special methods that type has, so that
callable(), hash(), iteration and operators fail here in the way they would locally. Names that
belong to these classes begin with _t_; every other attribute is remote.

The object on the VM is released when the last proxy of it goes: __del__ posts a request nobody
waits for.

Objects may move to another VM (_migrate), and their proxies then point there: _t_vm is the only
thing that changes. A request that comes to a VM whose objects are just moving, or have moved, is
answered with Elsewhere; it is made again where the proxy points to then.
"""
from __future__ import annotations

import builtins
from _thread import allocate_lock
from _weakref import ref

from . import _codec, _trickle
from ._codec import dumps_for, failure, loads_from
from ._special import BINARY, COMPARE, INPLACE, NAMES, NAMESPACE_ID, UNARY
from .errors import Elsewhere, TrickleError, VMLost

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from ._migrate import Migration

OP_CALL = _trickle.OP_CALL
OP_GETATTR = _trickle.OP_GETATTR
OP_SETATTR = _trickle.OP_SETATTR
OP_DELETE = _trickle.OP_DELETE
OP_FETCH = _trickle.OP_FETCH
_encode, _decode = _trickle.encode, _trickle.decode
_set = object.__setattr__


def _is_probe(name: str) -> bool:
    """Names by which notebooks and copiers ask what an object can do; never remote."""
    return name.startswith(("_t_", "_repr_", "_ipython_", "__array", "__deepcopy", "__getstate",
                            "__getinitargs", "__getnewargs", "__setstate"))


class VM:
    """A handle of one VM: one process that runs code for this program.

    Attributes of a handle are the names on the VM: what was injected, and Python's builtins.

        vm.foo(10)          calls foo on the VM and waits
        vm.names[2] = 'x'   changes the list there
        vm.limit = 5        sets a global there
    """

    def __init__(self, raw: _trickle.VM) -> None:
        self.__dict__.update(_t_raw=raw, _t_request=raw.request, _t_names={}, _t_kinds={},
                             _t_dumps=dumps_for(self), _t_loads=loads_from(self), _t_info=None,
                             _t_unread=[], _t_live={}, _t_own=set(), _t_moved={},
                             _t_moving=allocate_lock(), _t_leaving=False, _t_emptying=False)

    def __getattr__(self, name: str) -> Any:
        if name in self._t_names or (
                name not in self._t_kinds and callable(getattr(builtins, name, None))):
            function = RemoteFunction(self, name)
            self.__dict__[name] = function
            return function
        if _is_probe(name):
            raise AttributeError(name)
        return _settled(self, lambda: _wait(self, self._t_request(OP_GETATTR, 0, name, b"")))

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "migrate":
            raise AttributeError("migrate is a method of handles: give this data another name")
        _settled(self, lambda: _send_attribute(self, 0, name, value))
        _remember_data(self, name)
        self._t_own.add(name)

    def __delattr__(self, name: str) -> None:
        _settled(self, lambda: call(self, NAMESPACE_ID, "__delattr__", (name,), None))
        _remember_data(self, name)
        self._t_kinds.pop(name, None)
        self._t_own.discard(name)

    def __dir__(self) -> list[str]:
        return _settled(self, lambda: call(self, 0, "dir", (), None))

    def migrate(self, to: VM) -> Migration:
        """Moves what lives on this VM to another one of this program, between two calls: remote
        objects and data, with all they share. Proxies go on working, there.

        All is moved, or nothing where anything cannot be: because it cannot be pickled, or a name
        stands for something else there; the error names each. Functions and classes that were
        injected are installed there too; they and the data that they use stay here as well, so
        that work goes on here. What is kept in class attributes does not move.

        Returns what was moved: `names`, a list, and the number of remote `objects`. A function of
        your own of this name hides this method; VM.migrate(vm, to) is the same.
        """
        from ._migrate import migrate
        return migrate(self, to)

    def __repr__(self) -> str:
        info = vm_info(self)
        lost = ", lost" if self._t_raw.is_lost else ""
        return f"<VM {info['index']} on {info['host']}, pid {info['pid']}{lost}>"

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TrickleError("a handle of a VM belongs to this program and cannot be sent or pickled")

    def _t_proxy(self, object_id: int, kind: str) -> Proxy:
        cls = _classes.get(kind)
        if cls is None:
            cls = _classes[kind] = _make_class(kind)
        vm = self
        while object_id in vm._t_moved:  # while the answer was on its way here
            vm = vm._t_moved[object_id]
        proxy = object.__new__(cls)
        _set(proxy, "_t_id", object_id)
        _set(proxy, "_t_vm", vm)
        vm._t_live[id(proxy)] = ref(proxy)
        if vm._t_leaving:
            from ._migrate import empty
            empty(vm)
        return proxy


def vm_info(vm: VM) -> dict[str, Any]:
    """What is known of a VM: host, pid, index, version, cores, memory_bytes, state ..."""
    info = vm.__dict__["_t_info"]
    if info is None:
        info = vm.__dict__["_t_info"] = vm._t_raw.info()
    return info


def _remember_data(vm: VM, name: str) -> None:
    """This name now stands for data there: read it each time."""
    attributes = vm.__dict__
    attributes["_t_kinds"][name] = "data"
    attributes["_t_names"].pop(name, None)
    if not name.startswith("_t_"):
        attributes.pop(name, None)


def remember_callable(vm: VM, name: str, obj: Any) -> None:
    """This name now stands for a function or class there, which is obj here."""
    vm._t_names[name] = obj
    vm._t_kinds.pop(name, None)
    if name == "migrate":
        vm.__dict__[name] = RemoteFunction(vm, name)


remember_data = _remember_data


def send_call(vm: VM, object_id: int, name: str, args: tuple, kwargs: dict | None) -> Any:
    """Sends a call and does not wait: a _trickle.Call."""
    if kwargs:
        payload = vm._t_dumps([args, kwargs])
    elif args:
        payload = _encode(args, vm._t_dumps)
    else:
        payload = b""
    return vm._t_request(OP_CALL, object_id, name, payload)


def call(vm: VM, object_id: int, name: str, args: tuple, kwargs: dict | None) -> Any:
    """Calls and waits: the value, or the exception."""
    return _wait(vm, send_call(vm, object_id, name, args, kwargs))


def _wait(vm: VM, request: Any) -> Any:
    status = request.wait()
    if status == 0:
        return _decode(request, vm._t_loads)
    raise failure(status, request)


def _settled(vm: VM, request: Callable[[], Any]) -> Any:
    """What a handle asks for is asked again when the VM's session stood still."""
    try:
        return request()
    except Elsewhere:
        with vm._t_moving:
            pass
        return request()


def _follow(proxy: Proxy, request: Callable[[VM], Any]) -> Any:
    """Asks where the proxy's object lives, also when it is moving."""
    for _ in range(MOVES_MAX):
        vm = proxy._t_vm
        try:
            return request(vm)
        except Elsewhere:
            with vm._t_moving:
                pass
    return request(proxy._t_vm)


def ask(proxy: Proxy, name: str, args: tuple, kwargs: dict | None) -> Any:
    """Calls a method of the object that the proxy stands for."""
    try:
        return call(proxy._t_vm, proxy._t_id, name, args, kwargs)
    except Elsewhere:
        return _follow(proxy, lambda vm: call(vm, proxy._t_id, name, args, kwargs))


def _read(proxy: Proxy, name: str) -> Any:
    return _follow(proxy, lambda vm: _wait(vm, vm._t_request(OP_GETATTR, proxy._t_id, name, b"")))


def _send_attribute(vm: VM, object_id: int, name: str, value: Any) -> None:
    _wait(vm, vm._t_request(OP_SETATTR, object_id, name, _encode(value, vm._t_dumps)))


class RemoteFunction:
    """A function or class on a VM, by its name there: call it, or give it to fork."""

    __slots__ = ("_t_vm", "_t_name", "__weakref__")

    def __init__(self, vm: VM, name: str) -> None:
        _set(self, "_t_vm", vm)
        _set(self, "_t_name", name)

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        # The path of every synchronous call, so send_call and _wait are written out.
        vm = self._t_vm
        if kwargs:
            payload = vm._t_dumps([args, kwargs])
        else:
            payload = _encode(args, vm._t_dumps)
        request = vm._t_request(OP_CALL, 0, self._t_name, payload)
        status = request.wait()
        if status == 0:
            return _decode(request, vm._t_loads)
        error = failure(status, request)
        if type(error) is Elsewhere:
            return _settled(vm, lambda: call(vm, 0, self._t_name, args, kwargs))
        raise error

    def __getattr__(self, name: str) -> Any:
        if _is_probe(name):
            raise AttributeError(name)
        return getattr(_remote_object(self), name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(_remote_object(self), name, value)

    def __delattr__(self, name: str) -> None:
        delattr(_remote_object(self), name)

    def __repr__(self) -> str:
        return f"<function {self._t_name} of {self._t_vm!r}>"

    def __eq__(self, other: Any) -> Any:
        if not isinstance(other, RemoteFunction):
            return NotImplemented
        return self._t_vm is other._t_vm and self._t_name == other._t_name

    def __hash__(self) -> int:
        return hash((id(self._t_vm), self._t_name))

    def __reduce_ex__(self, protocol: Any) -> Any:
        _check_target(self._t_vm, self._t_name)
        return _codec.named, (self._t_name,)


def _remote_object(function: RemoteFunction) -> Any:
    vm = function._t_vm
    return _settled(vm, lambda: _wait(vm, vm._t_request(OP_GETATTR, 0, function._t_name, b"")))


class RemoteMethod:
    """A method of a remote object: call it, or give it to fork."""

    __slots__ = ("_t_proxy", "_t_name")

    def __init__(self, proxy: Proxy, name: str) -> None:
        _set(self, "_t_proxy", proxy)
        _set(self, "_t_name", name)

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        return ask(self._t_proxy, self._t_name, args, kwargs)

    def __getattr__(self, name: str) -> Any:
        if _is_probe(name):
            raise AttributeError(name)
        return getattr(_read(self._t_proxy, self._t_name), name)

    def __repr__(self) -> str:
        return f"<method {self._t_name} of {self._t_proxy!r}>"

    def __eq__(self, other: Any) -> Any:
        if not isinstance(other, RemoteMethod):
            return NotImplemented
        return self._t_proxy is other._t_proxy and self._t_name == other._t_name

    def __hash__(self) -> int:
        return hash((id(self._t_proxy), self._t_name))

    def __reduce_ex__(self, protocol: Any) -> Any:
        return getattr, (self._t_proxy, self._t_name)


def _check_target(vm: VM, what: str) -> None:
    target = _codec.here.vm
    if target is vm:
        return
    if target is None:
        raise TrickleError(f"{what} lives on {vm!r} and cannot be pickled or given to work that "
                           "runs on any VM; trickle.fetch(proxy) makes a copy that can")
    # It may have moved while the arguments were pickled: then they are pickled again.
    kind = Elsewhere if vm in target._t_moved.values() else TrickleError
    raise kind(f"{what} lives on {vm!r} and cannot be sent to {target!r}; "
               "send a copy: trickle.fetch(proxy)")


class Proxy:
    """Stands for an object that lives on a VM and behaves like it.

    trickle.fetch(proxy) gives a copy of the object.
    """

    __slots__ = ("_t_vm", "_t_id", "__weakref__")
    _t_vm: VM
    _t_id: int
    _t_kind = ""
    _t_methods: frozenset[str] = frozenset()

    def __del__(self, _request_delete: int = OP_DELETE) -> None:
        # Runs anywhere: in any thread, while an exception is handled, at interpreter exit, after
        # the VM was lost or the process forked. Nothing of that may be heard of.
        try:
            self._t_vm._t_live.pop(id(self), None)
            self._t_vm._t_request(_request_delete, self._t_id, "", b"", False)
        except BaseException:
            pass

    def __getattr__(self, name: str) -> Any:
        if name in self._t_methods:
            return RemoteMethod(self, name)
        if _is_probe(name):
            raise AttributeError(name)
        return _read(self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        _follow(self, lambda vm: _send_attribute(vm, self._t_id, name, value))

    def __delattr__(self, name: str) -> None:
        ask(self, "__delattr__", (name,), None)

    def __dir__(self) -> list[str]:
        return ask(self, "__dir__", (), None)

    def __str__(self) -> str:
        return ask(self, "__str__", (), None)

    def __repr__(self) -> str:
        try:
            return ask(self, "__repr__", (), None)
        except VMLost:
            return f"<proxy of a {self._t_kind} on {self._t_vm!r}>"

    def __format__(self, spec: str) -> str:
        return ask(self, "__format__", (spec,), None)

    def __copy__(self) -> Any:
        return ask(self, "*copy", (), None)

    def __deepcopy__(self, memo: Any) -> Any:
        return ask(self, "*deepcopy", (), None)

    def __reduce_ex__(self, protocol: Any) -> Any:
        _check_target(self._t_vm, f"a remote {self._t_kind}")
        return _codec.resident, (self._t_id,)


class RemoteIterator:
    """Iterates over a remote object; items come in chunks, which grow while they stay small."""

    __slots__ = ("_iterator", "_items", "_at", "_is_done", "_count")

    def __init__(self, proxy: Proxy, name: str) -> None:
        self._iterator, self._is_done, self._items = ask(proxy, name, (FIRST_CHUNK,), None)
        self._at = 0
        self._count = FIRST_CHUNK

    def __iter__(self) -> RemoteIterator:
        return self

    def __next__(self) -> Any:
        while self._at >= len(self._items):
            if self._is_done:
                self._iterator = None
                raise StopIteration
            self._next_chunk()
        item = self._items[self._at]
        self._items[self._at] = None
        self._at += 1
        return item

    def _next_chunk(self) -> None:
        def chunk(vm: VM) -> tuple[Any, int]:
            request = send_call(vm, proxy._t_id, "*next", (self._count,), None)
            return _wait(vm, request), memoryview(request).nbytes

        proxy = self._iterator
        (self._is_done, self._items), size = _follow(proxy, chunk)
        self._at = 0
        if size < CHUNK_BYTES:
            self._count = min(self._count * 4, CHUNK_ITEMS_MAX)
        else:
            self._count = max(self._count // 4, 1)


MOVES_MAX = 64  # that one request of a proxy runs after its object
FIRST_CHUNK = 16
CHUNK_ITEMS_MAX = 4096
CHUNK_BYTES = 1 << 16


# --- special methods ------------------------------------------------------------------------


def _forward(name: str) -> Callable[..., Any]:
    def method(self: Proxy, *args: Any) -> Any:
        return ask(self, name, args, None)
    method.__name__ = name
    return method


def _compare(name: str) -> Callable[..., Any]:
    """What cannot be pickled, or lives elsewhere, cannot be compared there: Python then tries
    the other side, and in the end identity."""
    def method(self: Proxy, other: Any) -> Any:
        if isinstance(other, Proxy) and other._t_vm is not self._t_vm:
            return NotImplemented

        def compare(vm: VM) -> Any:
            try:
                request = send_call(vm, self._t_id, name, (other,), None)
            except TypeError:
                return NotImplemented
            return _wait(vm, request)

        return _follow(self, compare)
    method.__name__ = name
    return method


def _inplace(name: str) -> Callable[..., Any]:
    def method(self: Proxy, other: Any) -> Any:
        result = ask(self, name, (other,), None)
        if isinstance(result, Proxy) and result._t_id == self._t_id:
            return self
        return result
    method.__name__ = name
    return method


def _iter(self: Proxy) -> Iterator[Any]:
    return RemoteIterator(self, "*iter")


def _reversed(self: Proxy) -> Iterator[Any]:
    return RemoteIterator(self, "*reversed")


def _iter_iterator(self: Proxy) -> Proxy:
    return self  # what is its own iterator there is one here: items are taken one by one


def _call_object(self: Proxy, /, *args: Any, **kwargs: Any) -> Any:
    return ask(self, "__call__", args, kwargs)


def _exit(self: Proxy, kind: Any, error: Any, traceback: Any) -> Any:
    if error is not None:
        try:
            _encode((error,), self._t_vm._t_dumps)
        except Exception:
            error = TrickleError(_codec.first_line(error))
    return ask(self, "__exit__", (error,), None)


def _special_methods(names: set[str]) -> dict[str, Any]:
    """The methods of a proxy class for a remote type that has these special methods."""
    body: dict[str, Any] = {}
    for name in names:
        if name in BINARY or name == "__pow__":
            # Both ways, whatever the remote type has: the VM runs the whole operator.
            body[name] = _forward(name)
            body["__r" + name[2:]] = _forward("__r" + name[2:])
        elif name in COMPARE:
            body[name] = _compare(name)
        elif name in INPLACE:
            body[name] = _inplace(name)
        elif name in UNARY or name in NAMES:
            body[name] = _forward(name)
    if "__iter__" in body:
        body["__iter__"] = _iter_iterator if "__next__" in body else _iter
    if "__reversed__" in body:
        body["__reversed__"] = _reversed
    if "__call__" in body:
        body["__call__"] = _call_object
    if "__exit__" in body:
        body["__exit__"] = _exit
    body.setdefault("__hash__", None)
    return body


_classes: dict[str, type[Proxy]] = {}


def _make_class(kind: str) -> type[Proxy]:
    """kind: what _server.describe() says of a type."""
    name, mask, methods = kind.split("\n")
    bits = int(mask, 16)
    body = _special_methods({special for i, special in enumerate(NAMES) if bits >> i & 1})
    body.update(__slots__=(), _t_kind=name, _t_methods=frozenset(methods.split(",")),
                __module__=__name__, __doc__=f"Stands for a {name} on a VM.")
    return type(f"Proxy[{name}]", (Proxy,), body)


def fetch(proxy: Any) -> Any:
    """A copy of the object that a proxy stands for; anything else is returned as it is.

    Instances of injected classes are copied as instances of the class here.
    """
    if isinstance(proxy, RemoteFunction):
        proxy = _remote_object(proxy)
    if not isinstance(proxy, Proxy):
        return proxy
    return _follow(proxy, lambda vm: _wait(vm, vm._t_request(OP_FETCH, proxy._t_id, "", b"")))
