/* SPDX-License-Identifier: MIT */
/* farm_impl.h - what the files of src/farm share.
 *
 *   find.c   discovery, supervisors, the table of slots     (farm thread)
 *   join.c   VMs that dial in                                (farm thread)
 *   lease.c  sessions with VMs; which list gets which VM     (farm thread)
 *   list.c   connect and lists as the program sees them      (any thread + farm thread)
 *   call.c   requests and waiting for their answers          (any thread + farm thread)
 *   inject.c what was injected, replayed to new incarnations (farm thread)
 *   work.c   the program's side of a stage                   (one calling thread)
 *   kept.c   elements whose bytes are in the store           (both)
 *   drive.c  the only caller of sched_step: events in, actions out  (farm thread)
 *   held.c   what machines hold for a job from when no initiator was there (farm thread)
 *   states.c checkpoints inside elements                     (farm thread)
 *   notice.c what a person should see                        (any thread)
 *
 * Threads: fields marked [f] belong to the farm thread, [m] are under farm->mutex, [c] are
 * constant after creation. Program threads reach the farm thread by net_loop_post. */
#ifndef FARM_FARM_IMPL_H
#define FARM_FARM_IMPL_H

#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>

#include "base/blob.h"
#include "auth/keywatch.h"
#include "base/list.h"
#include "ckpt/ckpt.h"
#include "farm/control.h"
#include "farm/edit.h"
#include "farm/job.h"
#include "farm/kept.h"
#include "net/loop.h"
#include "net/session.h"
#include "sched/sched.h"
#include "trickle/discovery.h"
#include "trickle/farm.h"
#include "trickle/work.h"
#include "wire/msg.h"

#define FARM_MODULES_MAX 4
/* After a VM's connection ends: wait so long for the death report. It comes within milliseconds
 * where the machine is not overloaded; without it a death is not counted against its element. */
#define FARM_DEATH_WAIT_MS 500
#define FARM_QUIET_MS 50      /* LAN discovery ends after so long without a new answer */
#define FARM_REPEAT_MS 80    /* while nobody has answered it asks again after this */
#define FARM_ASK_MAX_MS 250   /* and after this in any case */
#define FARM_ASK_AGAIN_MS 5000 /* how often to look for supervisors that were lost */
#define FARM_ASK_SOON_MS 500  /* and how often when one has just been lost, ... */
#define FARM_ASKS_SOON 3      /* ... so many times: at another address after two missed questions */
#define FARM_KEYS_MS 2000     /* how often the key file is looked at */
/* Supervisors that dial in try again at least so often, so who begins to listen waits so long. */
#define FARM_JOIN_MS 5000
#define FARM_HELLO_MS 60000   /* a VM that is starting answers when its interpreter is up */

/* A thread that waits: posted when something it waits for has changed. On the waiter's stack. */
struct waiter {
    sem_t sem;
};
int waiter_init(struct waiter *w);
void waiter_fini(struct waiter *w);
/* 0: posted; TRK_AGAIN: the timeout passed or a signal came. timeout_ms < 0: no timeout. */
int waiter_wait(struct waiter *w, int timeout_ms);
void waiter_post(struct waiter *w);

/* One discovery module at work. */
struct finder {
    struct trk_farm *farm;                     /* [c] */
    const struct trk_discovery_module *module; /* [c] */
    void *state;                               /* [f] of the module, while is_open */
    bool is_open;                              /* [f] */
    uv_poll_t *poll;                           /* [f] on the module's descriptor, or NULL */
    uint64_t asked_at_ms, answered_at_ms;      /* [f] the last question, the last answer */
    bool has_answer;                           /* [f] since the farm's last question */
};

enum supervisor_state { SUP_CONNECTING, SUP_ANSWERED, SUP_GONE };

/* A supervisor that was found: a watch session, and its VMs. */
struct supervisor {
    struct list node; /* farm->supervisors */
    struct trk_farm *farm;
    enum supervisor_state state;
    uint8_t id[16]; /* known from WELCOME on */
    bool has_id;
    bool has_joined;     /* it has dialed in, as its VMs do: nobody is connected to */
    bool is_named;       /* the list of hosts has it, not only somebody's answer */
    bool has_complained; /* the program was told why it cannot be used */
    struct net_session *session; /* one reference while CONNECTING or ANSWERED */
    char address[TRK_VM_TEXT_MAX];
};

/* CALLED: its VM was asked to dial in. */
enum lease_state { LEASE_FREE, LEASE_CALLED, LEASE_TRYING, LEASE_HELD };

/* A place for a VM: (supervisor id, index). Lives as long as the farm; its VM comes and goes. */
struct slot {
    struct list node;            /* farm->slots */
    uint32_t number;             /* its number in the scheduler */
    struct supervisor *sup;      /* [f] who told of it; NULL when that one has gone */
    uint8_t ours[16];            /* [f] incarnation of the VM that was leased last */
    struct trk_vm_info info;     /* [f] as the supervisor last said */
    enum lease_state lease;      /* [f] */
    uint8_t token[16];           /* [f] CALLED: what the VM has to come with */
    uint64_t call_until_ms;      /* [f] CALLED: until then */
    struct trk_vm *vm;           /* [m] TRYING, HELD: one reference */
    bool is_joined;              /* [f] the scheduler knows it */
    uint32_t refusals;           /* [f] in a row */
    uint64_t retry_at_ms;        /* [f] not tried again before */
    uint64_t lease_number;       /* [f] counts the leases held: tells incarnations apart */
    uint64_t seq_seen, seq_safe, seq_acked; /* [f] RESULT messages of the current lease: come,
                                               recorded, acknowledged */
    struct unsafe *unsafe;       /* [f] a ring: messages whose results are not durable yet */
    uint32_t unsafe_head, unsafe_count, unsafe_cap;
    struct list ack_node;        /* [f] farm->acks while an ACK is due */
    uint64_t ack_at_ms;          /* [f] at the latest */
    size_t ack_bytes;            /* [f] the VM holds, recorded and not acknowledged */
    struct busy busy;            /* [f] what it runs, for people */
};

/* A RESULT message of a durable work: recorded when the store is so far. */
struct unsafe {
    uint64_t seq, ticket;
};

struct trk_vm {
    atomic_uint refs;
    struct trk_farm *farm;       /* [c] one reference */
    struct slot *slot;           /* [c] */
    struct trk_vm_info info;     /* [c] from WELCOME on */
    struct net_session *session; /* [c] one reference */
    atomic_bool is_lost;
    atomic_bool is_welcome;      /* WELCOME came: info is set */
    bool is_given_back;          /* [f] BYE was sent: its end is expected */
    bool is_leaving;             /* [f] it said BYE: gets nothing new, ends soon */
    bool is_revoked;             /* [f] its session has ended with the session's key */
    bool is_suspect;             /* [f] silent for suspect_after: gets nothing new */
    bool is_silent;              /* [f] silent for dead_after: lost, though its session stands */
    bool is_down;                /* [f] its connection has ended, its death report is waited for */
    bool has_death;              /* [f] death holds the report */
    bool is_used;                /* [m] something was asked of it */
    uint64_t down_at_ms;         /* [f] */
    struct wire_death death;     /* [f] without output, which is */
    char *last_output;           /* [f] owned; what it printed last, or NULL */
    size_t last_output_size;
    char reason[256];            /* [m] */
    struct list calls;           /* [m] outstanding, oldest first */
    uint32_t next_stream;        /* [m] */
};

struct trk_call {
    struct list node;      /* [m] vm->calls */
    atomic_uint refs;      /* the program's, and the table's while outstanding */
    struct trk_vm *vm;     /* [c] one reference */
    uint32_t stream;       /* [c] */
    atomic_bool is_done;
    int error;             /* [m] done without an answer */
    uint64_t done_seq;     /* [m] order of finishing */
    struct blob *body;     /* [m] REPLY, when done with one */
    struct trk_reply reply; /* points into body */
    struct waiter *waiter; /* [m] who waits for it, or NULL */
};

enum vmlist_state { VMLIST_FINDING, VMLIST_READY, VMLIST_FAILED, VMLIST_CLOSED };

struct vmlist_entry {
    struct slot *slot;
    struct trk_vm *vm; /* one reference; what the program sees until the next refresh */
};

struct trk_vmlist {
    struct list node;         /* [m] farm->vmlists */
    atomic_uint refs;         /* the program's, the farm's while not closed, stages' */
    struct trk_farm *farm;    /* [c] one reference */
    uint32_t max;             /* [c] 0: all */
    bool need_all;            /* [c] */
    uint64_t deadline_ms;     /* [f] loop time */
    uint32_t wait_ms;         /* [c] */
    bool has_said;            /* [f] what it waits for */
    enum vmlist_state state;  /* [m] */
    char text[512];           /* [m] why it failed */
    struct slot **slots;      /* [m] written by the farm thread: the slots that serve it */
    size_t slots_count, slots_cap;
    struct vmlist_entry *entries; /* [m] as the program sees it */
    size_t entries_count, entries_cap;
    struct waiter *waiter;    /* [m] */
};

/* One injection, remembered. Scope: a list, or one slot. */
struct injection {
    struct list node; /* farm->injections, oldest first */
    struct trk_vmlist *list;
    struct slot *slot;
    char *name;
    struct blob *body; /* REQUEST */
};

struct notice {
    struct list node;
    struct trk_notice n;
};

enum block_kind {
    BLOCK_NEW,      /* of a durable work: a work record is to be written */
    BLOCK_KNOWN,    /* its work record is there; it runs, its results are not recorded */
    BLOCK_RECORDED, /* its results are: it does not run, and has no bytes */
};

/* The next element of a durable work, as the program offers it. */
struct offer {
    const void *element;  /* borrowed */
    size_t size;
    struct digest digest; /* of it */
};

/* Elements as they were added: consecutive indices, bytes one after the other. */
struct block {
    struct trk_work *work; /* one reference while it is posted */
    uint64_t first;
    uint32_t count, cap;
    uint32_t left;         /* [f] elements not yet recorded; at 0 the bytes are dropped */
    uint32_t *offsets;     /* count + 1, into bytes */
    struct blob *bytes;    /* for a large element alone: a whole RUN body (is_run) */
    bool is_run;
    enum block_kind kind;  /* of all its elements */
    struct digest *digests; /* of a durable work: count, of each element's bytes */
    uint64_t *delivered;   /* the same: results given when it was made; NULL: none each time */
};

/* Results on their way: a run of one RESULT message. */
struct parcel {
    struct list node;       /* farm->puts or farm->syncing, then work->ready */
    uint64_t ticket;        /* of the store: durable up to it, it is recorded */
    struct trk_work *work;  /* one reference */
    struct blob *body;      /* one reference; the pointers below are into it */
    const uint8_t *statuses, *sizes, *payloads;
    uint64_t first;
    uint32_t count, attempt;
    uint32_t at;            /* results taken */
    size_t bytes;           /* of payloads */
    uint32_t failed;        /* how many of them are not TRK_STATUS_OK */
    bool is_restored;       /* from the store: the scheduler does not know of it */
};

/* One stage. [p]: the one program thread that uses it; [w]: under work->mutex. */
struct trk_work {
    struct list node;          /* [f] farm->works */
    atomic_uint refs;
    struct trk_farm *farm;     /* [c] one reference */
    pthread_mutex_t mutex;
    char *name;                /* [c] */
    struct blob *function;     /* [c] body of STAGE but for the number, see drive.c */
    struct trk_vmlist *list;   /* [c] elastic: one reference; or NULL */
    struct slot **slots;       /* [c] fixed */
    size_t slots_count;        /* [c] */
    bool ordered, speculate, lazy; /* [c] */
    bool keep_elements;        /* [c] durable: their bytes go into the store */
    uint32_t retries, retry_after_ms, timeout_ms; /* [c] */
    uint64_t ahead_elements, ahead_bytes; /* [c] */

    struct block *build;       /* [p] elements added, not handed on yet */
    uint64_t build_since_ns;   /* [p] when its first element came */
    uint64_t added, taken;     /* [p] */
    uint64_t next_index;       /* [p] ordered: the one due */
    uint64_t pulled_at;        /* [p] taken, when the element that is offered was made */
    bool is_offered;           /* [p] it was offered already, and there was no room */
    size_t offered_size;       /* [p] of it */
    uint64_t restored;         /* [p] elements added whose results replay gives */
    uint64_t restored_taken, restored_failed; /* [p] of these: results taken, failures of them */
    struct digest fingerprint; /* [c] durable: of the code */
    struct job_stage *in_job;  /* [p] durable: what it is in the store; NULL: it is not recorded */
    struct replay *replay;     /* [p] the last run of the program; NULL: nothing is left of it */
    struct edit *edit;         /* [p] a changed list; NULL: it has not, or is not needed yet */
    struct kept_gather gather; /* [p] elements that are put again */
    uint64_t put_ticket;       /* [p] of what this thread put for it */
    bool is_closed;            /* [p] */
    bool is_cancelled;         /* [p] */
    struct parcel *current;    /* [p] being taken */
    struct parcel **heap;      /* [p] ordered: parcels that came too early */
    size_t heap_count, heap_cap;
    atomic_size_t held_bytes;  /* elements not recorded and results not taken */

    struct list ready;         /* [w] parcels for the program */
    int error;                 /* [w] the work cannot go on */
    struct waiter *waiter;     /* [w] */
    uint64_t total;            /* [w] elements in all but the restored; UINT64_MAX: more may come */
    uint64_t elements;         /* [w] all of them, once the end is known */
    uint64_t closed_after;     /* [w] results taken when the end was known */
    bool is_left_open;         /* [w] this run adds no more, but that is not the list's end */
    uint64_t last_total, last_closed_after; /* [c] the same of the last run; UINT64_MAX: it was not
                                               closed */
    struct trk_progress progress; /* [w] */
    struct attempts *attempts; /* [w] NULL: none yet */

    uint32_t stage;            /* [c] once open: its number for scheduler and VMs */
    uint32_t store_stage;      /* [f] its number in the store; 0: it is not recorded there */
    uint64_t last_ticket;      /* [f] of what was put for it */
    uint64_t opened_ns;        /* [f] when it was opened */
    bool is_open;              /* [f] the scheduler knows it */
    bool is_dirty;             /* [f] progress is to be copied */
    struct block *blocks;      /* [f] by first; recorded ones in front are dropped */
    size_t blocks_head, blocks_count, blocks_cap;
    uint64_t *opened;          /* [f] by slot number: the lease that was told of the stage */
    uint32_t opened_cap;       /* [f] */
    uint64_t known;            /* [f] elements added so far, recorded ones too */
    uint64_t asked_from;       /* [f] with this element supervisors are asked what they hold; ~0:
                                  they are not */
    bool is_asking;            /* [f] it does not run yet: what is held may be its results */
    uint32_t asks;             /* [f] supervisors that have not said yet that this is all */
    uint64_t ask_until_ms;     /* [f] it runs then in any case; 0: nobody has been asked yet */
    struct states *states;     /* [f] checkpoints inside its elements; NULL: none */
};

struct attempts; /* what happened to elements, see attempts.c */

/* results.c [f] */
void results_durable(struct trk_farm *farm); /* something may have become durable */
void results_acknowledge_now(struct slot *slot); /* it is given back */
void results_told(struct trk_farm *farm);    /* the store has news */
/* A result that the store has elsewhere becomes one of stage; it is given when it is durable. Takes
 * the parcel, unless that fails. */
TRK_MUST_USE int results_adopt(struct parcel *parcel, uint32_t stage);

/* durable.c [p] but where it says otherwise */
int durable_open(struct trk_work *work, const struct trk_work_options *opt);
void durable_close(struct trk_work *work);
/* About the next element: which kind it is. 0; 1: it has its result, in a parcel; an error. */
TRK_MUST_USE int durable_look(struct trk_work *work, const struct offer *offer,
                              enum block_kind *kind);
TRK_MUST_USE int durable_check_end(struct trk_work *work); /* before it is closed */
TRK_MUST_USE int durable_put_work(struct trk_work *work, const struct block *block); /* [f] */

/* kept.c: elements whose bytes are kept, see kept.h */
TRK_MUST_USE int kept_put_block(struct trk_work *work, const struct block *block); /* [f] */
TRK_MUST_USE int kept_put_one(struct trk_work *work, const void *element, size_t size); /* [p] */
/* [p] The next element is added; where it is known but its bytes are lacking, they are put when
 * those of its whole block are here. */
TRK_MUST_USE int kept_again(struct trk_work *work, const void *element, size_t size);
TRK_MUST_USE int kept_put_gathered(struct trk_work *work); /* [p] as many as there are */
void kept_gather_fini(struct kept_gather *g);

/* held.c [f]: what VMs have kept for this job */
TRK_MUST_USE int held_on_message(struct supervisor *sup, const struct wire_message *msg);
void held_ask(struct supervisor *sup); /* it has just come */
void held_added(struct trk_work *work, uint64_t first, uint64_t count); /* elements */
const struct digest *held_element(const struct trk_work *work, uint64_t index);
/* Sends the note when the store is so far; 0: now. */
TRK_MUST_USE int held_answer(struct trk_farm *farm, struct net_session *session, uint8_t type,
                             const struct wire_note *note, uint64_t ticket);
void held_pulse(struct trk_farm *farm); /* nobody waits for them for ever */
void held_durable(struct trk_farm *farm, uint64_t durable);
void held_close(struct trk_farm *farm);

/* states.c [f]: checkpoints inside elements */
struct states;
struct value_state;
TRK_MUST_USE int states_open(struct trk_work *work);
void states_free(struct trk_work *work);
TRK_MUST_USE int states_put(struct trk_work *work, const struct value_state *v, uint64_t index,
                            uint64_t *ticket);
void states_durable(struct trk_work *work, uint64_t durable);
void states_recorded(struct trk_work *work, uint64_t first, uint64_t count);
TRK_MUST_USE int states_send(struct trk_work *work, struct slot *slot, uint64_t first,
                             uint64_t count);
TRK_MUST_USE int states_on_message(struct slot *slot, const struct blob *body);

struct listing; /* one trk_vms_list under way, see list.c */

struct trk_farm {
    atomic_uint refs;       /* the program's, and one per object that needs it */
    struct net_loop *loop;  /* [c] until the farm is freed */
    pthread_mutex_t mutex;
    bool is_closed;         /* [m] trk_farm_close was called */
    bool is_stopped;        /* [m] its thread has ended */
    bool is_closing;        /* [f] */
    bool insecure, lan;     /* [c] */
    struct auth_watch keys; /* [f] for TCP and multicast; none: see find.c */
    unsigned hasty_asks;     /* [f] questions that are still to come soon */
    uint64_t keys_looked_at_ms; /* [f] the last time that the key file was */
    bool has_new_keys;      /* [f] which modules that ask by multicast do not have yet */
    uint32_t dead_after_ms, suspect_after_ms; /* [c] */
    uint64_t pulsed_ms;          /* [f] last lease_pulse */
    uint64_t listening_ms;       /* [f] without a pause since then: silence counts from here */
    uv_timer_t pulse;       /* [f] looks at who is silent */
    char runtime_dir[108];  /* [c] */
    struct wire_hello hello; /* [c] but for purpose */
    struct finder finders[FARM_MODULES_MAX]; /* [f] */
    size_t finders_count;
    uint64_t asked_at_ms;    /* [f] last question; 0: never */
    struct list supervisors; /* [f] */
    int listen_fd;           /* [c] until closed; -1: none */
    char listening[128];     /* [c] "HOST:PORT" where VMs dial in; "": nowhere */
    struct net_listener *listener; /* [f] */
    uint64_t listen_until_ms; /* [f] by then VMs have come that want to; 0: nobody listens */
    struct list callers;     /* [f] who has not said what it is */
    uint32_t callers_count;  /* [f] */
    uint64_t refused_ms;     /* [f] when a refusal was last told as a warning; 0: never */
    struct list slots;       /* [m] written by the farm thread only */
    uint32_t slots_count;
    struct slot **slot_by_number; /* [f] */
    uint32_t slots_cap;
    struct list vmlists;     /* [m] */
    struct list listings;    /* [f] */
    struct list orders;      /* [f] */
    uint32_t next_order;     /* [f] */
    struct list injections;  /* [f] */
    struct sched *sched;     /* [f] */
    struct ckpt *ckpt;       /* [f] recorder of works without a job */
    struct list puts;        /* [f] parcels given to ckpt, in order */
    struct trk_job *job;     /* [c] one reference, or NULL */
    struct list answers;     /* [f] notes that wait for the store, see held.c */
    struct list syncing;     /* [f] parcels given to the job's store, in the order of tickets */
    uint64_t last_ticket;    /* [f] of all that was put */
    bool is_paused;          /* [f] the store cannot write */
    bool is_held;            /* [f] that, or its queue is full: VMs get nothing new */
    struct list works;       /* [f] */
    struct list acks;        /* [f] slots */
    uint32_t next_stage;     /* [f] */
    uint64_t done_seq;       /* [m] */
    struct list notices;     /* [m] */
    size_t notices_bytes;    /* [m] */
    uint64_t notices_lost;   /* [m] bytes of output dropped because nobody took them */
    struct waiter *notice_waiter; /* [m] */
    struct control *control; /* [f] answers questions about the job; NULL: nobody can ask */
    uv_timer_t tick;         /* [f] the next thing due */
    uv_prepare_t prepare;    /* [f] end of a turn: commit, acknowledge */
    bool is_dirty;           /* [f] lists and connects are to be looked at this turn */
    uint64_t wake_at_ns;     /* [f] from the scheduler; 0: none */
    struct waiter *close_waiter; /* [m] */
    char *hosts, *multicast; /* [c] owned */
};

/* farm.c */
struct trk_farm *farm_ref(struct trk_farm *farm);
void farm_unref(struct trk_farm *farm);
int farm_usable(struct trk_farm *farm); /* 0, TRK_EFORKED, TRK_ECLOSED (with a sentence) */
void farm_touch(struct trk_farm *farm); /* [f] look at lists and connects at the end of the turn */
void farm_wake_in(struct trk_farm *farm, uint64_t ms); /* [f] a turn no later than that */

/* find.c [f] */
int find_open(struct trk_farm *farm);
void find_ask(struct trk_farm *farm);
void find_pulse(struct trk_farm *farm); /* asks again now and then for who was lost */
bool find_is_complete(struct trk_farm *farm); /* all answers are in */
void find_close(struct trk_farm *farm);
void find_free(struct trk_farm *farm); /* after the loop has ended */
/* Connects to a supervisor or a VM: by TCP with the keys. */
TRK_MUST_USE int find_connect(struct trk_farm *farm, const char *address,
                              const struct net_session_options *opt, struct net_session **out);
void find_look_at_keys(struct trk_farm *farm); /* has the file changed? */
/* A supervisor has dialed in. The session's reference is taken, not on an error. */
TRK_MUST_USE int find_joined(struct trk_farm *farm, struct net_session *session);
struct slot *find_slot_of_vm(struct trk_farm *farm, const uint8_t incarnation[16]);

/* join.c [f] but where it says otherwise */
TRK_MUST_USE int join_listen(struct trk_farm *farm, const char *where); /* before the thread */
void join_open(struct trk_farm *farm);
void join_close(struct trk_farm *farm);
void join_free(struct trk_farm *farm); /* after the thread has ended, or a failed start */
void join_call(struct trk_farm *farm, struct slot *slot); /* its supervisor has joined */
void join_forget(struct slot *slot);    /* CALLED becomes FREE */
void join_pulse(struct trk_farm *farm); /* who was called and does not come */

/* lease.c [f] */
/* The VM that was called has come. The session's reference is taken, not on an error. */
TRK_MUST_USE int lease_joined(struct trk_farm *farm, struct slot *slot,
                              struct net_session *session);
bool slot_is_trying(const struct slot *slot); /* CALLED or TRYING */
void lease_fill(struct trk_farm *farm); /* gives lists what they lack, starts leases */
void lease_release_unused(struct trk_farm *farm); /* gives back what no list wants */
void lease_end(struct slot *slot);
/* It is not to be had now: it is tried again after least_ms, and later with each refusal. */
void lease_refused(struct trk_farm *farm, struct slot *slot, uint64_t least_ms,
                   const char *reason);
void lease_death(struct trk_farm *farm, const struct wire_death *death);
void lease_pulse(struct trk_farm *farm); /* who is silent, who speaks again */
bool slot_is_live(const struct slot *slot); /* held, and not known to be lost */
void lease_check_down(struct trk_farm *farm); /* VMs whose death report did not come */
void lease_describe(const struct trk_vm *vm, char *text, size_t size); /* why it was lost */
bool lease_is_trying(struct trk_farm *farm);
bool slot_is_promising(const struct slot *slot); /* worth waiting for: ours soon */

/* list.c */
struct trk_vmlist *vmlist_ref(struct trk_vmlist *list);
void vmlist_unref(struct trk_vmlist *list);
bool vmlist_has(const struct trk_vmlist *list, const struct slot *slot);
int vmlist_add(struct trk_vmlist *list, struct slot *slot);     /* [f] takes the mutex */
void vmlist_check(struct trk_farm *farm); /* [f] ends connects that are done */
void listing_check(struct trk_farm *farm);                      /* [f] */
void vmlist_close_all(struct trk_farm *farm);                   /* [f] */

/* order.c [f] */
void order_on_reply(struct trk_farm *farm, const struct wire_message *msg);
void order_fail_all(struct trk_farm *farm);

/* call.c */
void call_on_reply(struct trk_vm *vm, struct wire_message *msg); /* [f] takes the body */
void call_fail_all(struct trk_vm *vm, int error);                /* [f] */
struct trk_vm *vm_new(struct trk_farm *farm, struct slot *slot);
void vm_set_lost(struct trk_vm *vm, const char *reason);         /* any thread */
/* Sends an encoded REQUEST; out may be NULL. */
int call_send(struct trk_vm *vm, struct blob *body, struct trk_call **out);

/* inject.c [f] */
void inject_replay(struct trk_farm *farm, struct slot *slot);
void inject_replay_list(struct trk_farm *farm, struct slot *slot, struct trk_vmlist *list);
void inject_forget_list(struct trk_farm *farm, struct trk_vmlist *list);
void inject_forget_slot(struct trk_farm *farm, const struct slot *slot); /* given back */
void inject_free_all(struct trk_farm *farm);

/* drive.c [f] */
int drive_open(struct trk_farm *farm);
void drive_vm_joined(struct slot *slot);
void drive_vm_lost(struct slot *slot, enum sched_cause cause); /* vm->death is what is known */
void drive_vm_draining(struct slot *slot);
void drive_vm_suspect(struct slot *slot, bool is_suspect);
void drive_list_closed(struct trk_farm *farm); /* ends works that no list has VMs for */
void drive_slot_in_list(struct slot *slot, struct trk_vmlist *list);
/* Is there work that runs on just this VM and maybe others, whatever its list holds by now? */
void drive_serve_all(struct trk_work *work); /* it may run now */
bool drive_needs(struct trk_farm *farm, const struct slot *slot);
void drive_on_message(struct slot *slot, struct wire_message *msg); /* takes the body */
void drive_turn_end(struct trk_farm *farm);
void drive_close(struct trk_farm *farm);
int drive_open_work(struct trk_work *work);
int drive_add(struct trk_work *work, struct block *block); /* takes what is in block */
void drive_close_input(struct trk_work *work);
void drive_cancel(struct trk_work *work, bool interrupt);
void drive_forget_work(struct trk_work *work);
void drive_delivered(struct trk_work *work, uint64_t first, uint64_t count);

/* work.c */
struct trk_work *work_ref(struct trk_work *work);
void work_unref(struct trk_work *work);
void work_put(struct parcel *parcel);              /* [f] recorded: for the program */
void work_fail(struct trk_work *work, int error);  /* [f] */
void parcel_free(struct parcel *parcel);
/* [p] The element that was offered, or else the next one, has to wait for results to be taken. */
bool work_is_full(struct trk_work *work);

/* attempts.c [f] */
void attempts_good(struct trk_work *work, const struct trk_vm *vm, const struct wire_result *r);
/* attempt: place and start are filled in here; output is copied. */
void attempts_bad(struct trk_work *work, const struct trk_vm *vm, uint64_t element,
                  const struct trk_attempt *attempt);
void attempts_free(struct attempts *log);
/* Those of this run of the program, for trk_attempts_free; any thread. */
TRK_MUST_USE int attempts_now(struct trk_work *work, uint64_t index, struct trk_attempt **out,
                              size_t *count);
void attempts_own_output(struct trk_attempt *a); /* a copy of it, terminated */

/* history.c [f] */
void history_put(struct trk_work *work, uint64_t index); /* its runs so far, into the job */
/* All of them, those of earlier runs of the program from stage (0: none); any thread. */
TRK_MUST_USE int history_get(struct trk_work *work, uint32_t stage, uint64_t index,
                             struct trk_attempt **out, size_t *count);

/* block.c [f] */
void block_fini(struct block *block);
/* Before it is posted: one that is handed on early keeps no room for what it might have held. Who
 * adds an element for each result taken has as many blocks as elements. Any thread. */
void block_trim(struct block *block);
struct block *block_find(const struct trk_work *work, uint64_t index); /* that holds it, or NULL */
struct block *block_of(struct trk_work *work, uint64_t index); /* of one that is not recorded */
int blocks_put(struct trk_work *work, const struct block *block);
void blocks_drop(struct trk_work *work, uint64_t first, uint64_t count); /* recorded */
void blocks_free(struct trk_work *work);

/* notice.c */
void notice_put(struct trk_farm *farm, enum trk_notice_kind kind, const struct trk_vm *vm,
                const void *text, size_t size);
void notice_message(struct trk_farm *farm, enum trk_notice_kind kind, const struct trk_vm *vm,
                    const char *format, ...) TRK_PRINTF(4, 5);
void notice_free_all(struct trk_farm *farm);

#endif
