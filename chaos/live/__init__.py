# SPDX-License-Identifier: MIT
"""chaos/live: real programs on real VMs, under faults, and a verdict from outside.

    main       options, the order of things, the exit status
    plan       what goes wrong when and to whom, from the seed alone
    workloads  what is computed: pure functions that the program and the checker share
    element    what runs on the VMs: notes each attempt, steps into traps
    program    the program under test, a job
    machine    machines, their supervisors, the initiator: processes and nothing else
    faults     what can go wrong with processes; other rooms bring more kinds
    run        carries a plan out, and writes events.jsonl
    evidence   reads what a run has left in its folder
    checker    the verdict: it knows the input and the right answers, and reads only the folder
    leftovers  processes, sockets, shared memory; memory and descriptors over time
"""
