# SPDX-License-Identifier: MIT
"""Example 3: each VM has its own copy of injected data, and it can be changed from here."""

names = ["Alex", "Sami", "Greg", "Peter"]

vms = connect()
inject(vms, names)
for i, vm in enumerate(vms):
    vm.names[i] = "*NONE*"
    print(vm.names)
print("here:", names)
