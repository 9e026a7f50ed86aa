# SPDX-License-Identifier: MIT
"""chaos/live: real programs on real VMs, under faults, and a verdict from outside.

    main       the order of things, the exit status
    options    what may be asked for
    plan       what goes wrong when and to whom, from the seed alone
    workloads  what is computed: pure functions that the program and the checker share
    element    what runs on the VMs: notes each attempt, steps into traps
    program    the program under test, a job
    machine    machines, their supervisors, the initiator: processes and nothing else
    faults     what can go wrong with processes; other rooms bring more kinds
    run        carries a plan out, and writes events.jsonl
    evidence   reads what a run has left in its folder
    checker    the verdict: it knows the input and the right answers, and reads only the folder
    times      how long things took, and may take
    own        a user's own program instead of the workloads
    rounds     trickle chaos: such a program, round after round
    shim       what the preloaded library does to disks and clocks: disk and clock tell it
    stranger   another user of the machine, at its unix sockets
    history    reads a folder for the report: figures counts, timeline draws, report writes
    leftovers  processes, sockets, shared memory; memory and descriptors over time
"""
