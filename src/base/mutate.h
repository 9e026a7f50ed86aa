/* SPDX-License-Identifier: MIT */
/* mutate.h - deliberate bugs, to prove that the simulator finds such.
 *
 * A build with -DTRK_MUTATION=k has bug number k; every other build has none: the choice is made
 * by a constant, the other side is not in the object. chaos/sim/mutants.py builds each of them
 * and demands that it is found. */
#ifndef BASE_MUTATE_H
#define BASE_MUTATE_H

#ifndef TRK_MUTATION
#define TRK_MUTATION 0
#endif

/* X(number, name, what is wrong) */
#define MUTATIONS(X)                                                                          \
    X(1, ACK_EARLY, "results are acknowledged when they come, not when they are recorded")    \
    X(2, NO_ATTEMPT_CHECK, "a result counts whatever attempt it claims")                      \
    X(3, RECALL_UNANSWERED, "a VM gives elements back and does not say so")                   \
    X(4, RECORD_TWICE, "a result that is not wanted any more is recorded too")                \
    X(5, FORGET_ONE, "one element of a lost VM's batch is not put back")                      \
    X(6, DROP_LATE, "a late result of an element that waits is dropped")                      \
    X(7, RECALL_RUNNING, "a VM gives back the element that it runs")                          \
    X(8, CANCEL_LEAK, "a cancelled stage's elements stay counted as live")                    \
    X(9, HELD_FREED, "a VM lets go of a result when it sends it")                             \
    X(10, ACK_ONE_MORE, "a VM lets go of one result more than was acknowledged")              \
    X(11, CANCEL_RUNS_ON, "a cancelled stage's elements in a VM's queue still run")           \
    X(12, BLAME_FIRST, "the first element of a batch is blamed, not the one that ran")        \
    X(13, ONE_DEATH_MORE, "an element may kill one VM more than allowed")                     \
    X(14, PAYLOAD_SLIP, "after a recall from the front elements get their neighbour's bytes") \
    X(15, ACK_OTHER_LEASE, "an acknowledgement goes to whoever holds the VM's place now")     \
    X(16, DELIVER_EARLY, "a result is delivered when it comes, not when it is recorded")      \
    X(17, GROUP_TAIL, "of the results recorded together the last one is not announced")       \
    X(18, STAGE_ONCE, "a VM that came back is not told of the stage again")                   \
    X(19, DRAIN_LOSES, "a draining VM closes before its last results are sent")               \
    X(20, FAILURE_UNCOUNTED, "failures of the user's code are not counted")                   \
    X(21, FAILED_SYNC_OK, "a sync that failed counts as done")                                \
    X(22, FAILED_SYNC_FORGETS, "what was in a failed sync is not put again")                  \
    X(23, CRASH_KEEPS_UNSYNCED, "results that no sync was begun for are seen after a crash")  \
    X(24, TORN_VISIBLE, "a part of an unfinished transaction is seen after a crash")          \
    X(25, EPOCH_SAME, "a resumed job has the epoch of the run before")                        \
    X(26, EPOCH_UNSYNCED, "a resumed job begins before its epoch is durable")                 \
    X(27, FENCE_FORGOTTEN, "a VM's next process lets an earlier run of the job in")           \
    X(28, HELD_UNCHECKED, "a held result is taken whatever element and code it is of")        \
    X(29, HELD_DELETED, "a supervisor deletes a held result when it hands it over")           \
    X(30, RECORDED_RUNS, "what an earlier run of the job recorded is assigned again")         \
    X(31, MOVED_UNCOUNTED, "an element given back in the middle has its attempt again")       \
    X(32, HANDED_TWICE, "a held result is taken although its element has one")                \
    X(33, DROPPED_ACKED, "what is not needed is let go before what is needed is durable")

enum mutation {
    MUTATION_NONE,
#define MUTATION_ENUM(number, name, text) MUTATION_##name = number,
    MUTATIONS(MUTATION_ENUM)
#undef MUTATION_ENUM
};

#define MUTATE(name, wrong, right) (TRK_MUTATION == MUTATION_##name ? (wrong) : (right))

#endif
