# SPDX-License-Identifier: MIT
"""The special methods that proxies forward, in an order both sides know.

A VM describes the type of an object by the special methods it has: bit i of a number stands for
NAMES[i]. New names go to the end.
"""

UNARY = ("__neg__", "__pos__", "__abs__", "__invert__", "__int__", "__float__", "__complex__",
         "__index__", "__trunc__", "__floor__", "__ceil__", "__len__", "__length_hint__",
         "__hash__", "__bytes__", "__fspath__")
BINARY = ("__add__", "__sub__", "__mul__", "__matmul__", "__truediv__", "__floordiv__",
          "__mod__", "__divmod__", "__lshift__", "__rshift__", "__and__", "__xor__", "__or__")
COMPARE = ("__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__")
INPLACE = ("__iadd__", "__isub__", "__imul__", "__imatmul__", "__itruediv__", "__ifloordiv__",
           "__imod__", "__ipow__", "__ilshift__", "__irshift__", "__iand__", "__ixor__",
           "__ior__")
OTHER = ("__call__", "__getitem__", "__setitem__", "__delitem__", "__contains__", "__iter__",
         "__next__", "__reversed__", "__enter__", "__exit__", "__bool__", "__pow__", "__round__")
NAMES = UNARY + BINARY + COMPARE + INPLACE + OTHER

NAMESPACE_ID = 1  # the object id under which a VM's name space itself is known
