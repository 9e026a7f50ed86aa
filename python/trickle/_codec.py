# SPDX-License-Identifier: MIT
"""Values, references and exceptions as bytes, for both sides.

Everything travels as a protocol 5 pickle. Three functions of this module stand in such pickles
by name: resident(id) is an object that lives on the VM that unpickles it, reference(id, kind) is
an object that lives on the VM that pickled it, named(name) is a name in the VM's name space.
Which VM is meant is known from `here`, so that plain pickle.dumps and pickle.loads do the work
and plain data costs nothing extra.

Only C modules are imported: this is on the way of every start.
"""
from __future__ import annotations

import sys
from _pickle import dumps, loads
from _thread import _local

from .errors import RemoteError, TrickleError

TYPE_CHECKING = False  # as typing.TYPE_CHECKING, without importing typing
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

PROTOCOL = 5


class _Here(_local):
    """The VM that this thread is talking with while it pickles or unpickles."""

    vm: Any = None


here = _Here()
residents: Any = None  # on a VM: its table of exported objects (set by _server)


def reference(object_id: int, kind: str) -> Any:
    """In replies: a proxy for an object of the VM."""
    vm = here.vm
    if vm is None:
        raise TrickleError("a reference to a remote object arrived outside of a call")
    return vm._t_proxy(object_id, kind)


def resident(object_id: int) -> Any:
    """In requests: the object itself, on the VM where it lives."""
    return residents.get(object_id)


def named(name: str) -> Any:
    """In requests: what has this name in the VM's name space."""
    return residents.lookup(name)


def first_line(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception:
        text = ""
    return f"{type(error).__name__}: {text}".split("\n", 1)[0].removesuffix(": ")


def type_name(obj: Any) -> str:
    cls = type(obj)
    return cls.__qualname__ if cls.__module__ in ("builtins", "__main__") else \
        f"{cls.__module__}.{cls.__qualname__}"


LARGE_BYTES = 1 << 16


def dumps_large(obj: Any) -> bytes:
    """The pickle of a long bytes object, or of such an object as only argument, with one copy:
    pickle grows its buffer step by step, which takes several times as long."""
    value = obj[0] if type(obj) is tuple else obj
    size = len(value)
    head = b"\x80\x05B" + size.to_bytes(4, "little") if size < 1 << 32 else (
        b"\x80\x05\x8e" + size.to_bytes(8, "little"))
    return b"".join((head, value, b"." if value is obj else b"\x85."))


def is_large(obj: Any) -> bool:
    """Is obj for dumps_large?"""
    if type(obj) is tuple and len(obj) == 1:
        obj = obj[0]
    return type(obj) is bytes and len(obj) > LARGE_BYTES


def dumps_value(obj: Any) -> bytes:
    """Pickles one element of work or one result by value."""
    if is_large(obj):
        return dumps_large(obj)
    try:
        return dumps(obj, PROTOCOL)
    except TrickleError:
        raise
    except Exception as error:
        raise TypeError(f"a value of type {type_name(obj)} cannot be pickled, so it cannot travel "
                        f"between this program and a VM ({first_line(error)})") from error


def loads_value(data: Any) -> Any:
    """The inverse of dumps_value."""
    try:
        return loads(data)
    except Exception as error:
        raise _cannot_read(error) from error


def _cannot_read(error: Exception) -> TrickleError:
    if residents is not None:
        where, advice = "on this VM", ("inject the classes and functions it is made of first, or "
                                       "install their module on the VM")
    else:
        where, advice = "here", "import the module that defines its type"
    return TrickleError(f"a value that arrived cannot be unpickled {where} "
                        f"({first_line(error)}): {advice}")


def dumps_for(vm: Any) -> Callable[[Any], bytes]:
    """Pickles arguments for one VM: proxies of its objects become the objects."""
    def dumps_arguments(obj: Any) -> bytes:
        if is_large(obj):
            return dumps_large(obj)
        before = here.vm
        here.vm = vm
        try:
            return dumps(obj, PROTOCOL)
        except TrickleError:
            raise
        except Exception as error:
            raise _bad_argument(obj, error) from error
        finally:
            here.vm = before
    return dumps_arguments


def loads_from(vm: Any) -> Callable[[Any], Any]:
    """Unpickles what one VM answered: references become proxies."""
    def loads_reply(data: Any) -> Any:
        before = here.vm
        here.vm = vm
        try:
            return loads(data)
        except TrickleError:
            raise
        except Exception as error:
            raise _cannot_read(error) from error
        finally:
            here.vm = before
    return loads_reply


def _bad_argument(obj: Any, error: Exception) -> TypeError:
    """Says which of the arguments it was."""
    positional, by_name = obj if type(obj) is list and len(obj) == 2 else (obj, {})
    if type(positional) is tuple and type(by_name) is dict:
        for name, value in [*enumerate(positional, 1), *by_name.items()]:
            try:
                dumps(value, PROTOCOL)
            except Exception as own:
                return TypeError(f"argument {name}, of type {type_name(value)}, cannot be pickled "
                                 f"and so not sent to a VM ({first_line(own)})")
    return TypeError(f"a value of type {type_name(obj)} cannot be pickled and so not sent to a VM "
                     f"({first_line(error)})")


# --- exceptions -----------------------------------------------------------------------------
#
# An exception is described in plain data, so that it can be read where its type is unknown:
#   (module, qualname, pickle of it or None, pickle of (args, attributes) or None, text,
#    traceback text, [(module, qualname) of its base classes])


def _text(error: BaseException) -> str:
    if isinstance(error, SystemExit):
        return f"the code called sys.exit({'' if error.code is None else repr(error.code)})"
    try:
        return str(error)
    except Exception:
        return f"<{type(error).__name__} whose text cannot be made>"


def dump_exception(error: BaseException, traceback_text: str) -> bytes:
    """An exception of user code as bytes. Never fails for what user code can do."""
    cls = type(error)
    bases = [(str(base.__module__), base.__qualname__) for base in cls.__mro__[1:]]
    return dumps((str(cls.__module__), cls.__qualname__, _whole(error), _parts(error),
                  _text(error), traceback_text, bases), PROTOCOL)


def _whole(error: BaseException) -> bytes | None:
    """Its own pickle, when that gives back the same thing: a constructor that wants other
    arguments than self.args is the rule rather than the exception."""
    try:
        data = dumps(error, PROTOCOL)
        copy = loads(data)
        if type(copy) is type(error) and str(copy) == str(error):
            return data
    except Exception:
        pass
    return None


def _parts(error: BaseException) -> bytes | None:
    args = []
    for arg in error.args:
        try:
            dumps(arg, PROTOCOL)
            args.append(arg)
        except Exception:
            args.append(_safe_repr(arg))
    attributes = {}
    for name, value in vars(error).items():
        try:
            dumps(value, PROTOCOL)
            attributes[name] = value
        except Exception:
            attributes[name] = _safe_repr(value)
    try:
        return dumps((tuple(args), attributes), PROTOCOL)
    except Exception:
        return None


def _safe_repr(obj: Any) -> str:
    try:
        return repr(obj)
    except Exception:
        return f"<{type(obj).__name__}>"


class RemoteTraceback(Exception):
    """The __cause__ of an exception that came from a VM: the traceback as it was there."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f'\n"""\n{self.text}"""'


def load_exception(payload: Any) -> BaseException:
    """The exception, as near to what was raised on the VM as this program can have it."""
    try:
        module, name, whole, parts, text, traceback_text, bases = loads(payload)
    except Exception as error:
        return TrickleError(f"an exception arrived that cannot be read ({first_line(error)})")
    try:
        args, attributes = loads(parts)
    except Exception:
        args, attributes = (text,), {}
    error = _own_type(module, name, whole, args, attributes)
    if error is None:
        error = _stand_in(module, name, args, attributes, text, bases)
    error.__cause__ = RemoteTraceback(traceback_text)
    return error


def _own_type(module: str, name: str, whole: bytes | None, args: tuple,
              attributes: dict) -> BaseException | None:
    cls = _find_class(module, name)
    if cls is None or not issubclass(cls, Exception):
        return None  # SystemExit, KeyboardInterrupt and the like stop a VM's code, not this one
    if whole is not None:
        try:
            error = loads(whole)
            if type(error) is cls:
                return error
        except Exception:
            pass
    try:
        error = cls.__new__(cls, *args)
        error.args = args
        error.__dict__.update(attributes)
        return error
    except Exception:
        return None


def _find_class(module: str, name: str) -> type[BaseException] | None:
    try:
        found: Any = sys.modules.get(module) or __import__(module, fromlist=[name])
        for part in name.split("."):
            found = getattr(found, part)
    except Exception:
        return None
    return found if isinstance(found, type) and issubclass(found, BaseException) else None


_stand_ins: dict[tuple, type[RemoteError]] = {}


def _stand_in(module: str, name: str, args: tuple, attributes: dict, text: str,
              bases: list[tuple[str, str]]) -> RemoteError:
    known: list[type] = []
    for where, what in bases:
        base = _find_class(where, what) if where in sys.modules else None
        if base is None or base is Exception or not issubclass(base, Exception):
            continue
        if not any(issubclass(k, base) for k in known):
            known.append(base)
    key = (module, name, *known)
    cls = _stand_ins.get(key)
    if cls is None:
        body = {"__module__": module, "__qualname__": name,
                "__doc__": "Raised on a VM; its own type is not known here."}
        short = name.rpartition(".")[2]
        try:
            cls = type(short, (RemoteError, *known), body)
        except TypeError:  # these bases cannot be had together
            cls = type(short, (RemoteError,), body)
        _stand_ins[key] = cls
    try:
        error = cls.__new__(cls)
    except Exception:
        error = RemoteError.__new__(RemoteError)
    error.args = args
    error.__dict__.update(attributes)
    error.remote_text = text
    return error


def failure(status: int, payload: Any) -> BaseException:
    """What a reply that is not STATUS_OK raises here."""
    if status == 1:
        return load_exception(payload)
    return TrickleError(str(payload, "utf-8", "replace"))
