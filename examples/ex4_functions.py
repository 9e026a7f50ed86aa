# SPDX-License-Identifier: MIT
"""Example 4: injected functions and Python's own built-in ones, called through a handle."""


def factorial(n):
    return 1 if n == 0 else n * factorial(n - 1)


vms = connect()
inject(vms, factorial)
for i, vm in enumerate(vms):
    print(list(vm.range(i + 1)), vm.factorial(i))
