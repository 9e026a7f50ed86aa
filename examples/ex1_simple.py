# SPDX-License-Identifier: MIT
"""Example 1: call a function on every VM, one after the other."""


def add_ten(x):
    return x + 10


vms = connect()
inject(vms, add_ten)
print([vm.add_ten(10) for vm in vms])
