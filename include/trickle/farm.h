/* SPDX-License-Identifier: MIT */
/* farm.h - the initiator: a farm of VMs, handles of VMs, requests to one VM.
 *
 * A farm owns one thread with one event loop; it finds VMs, holds sessions with them
 * and schedules work. Functions here may be called from any thread unless they say
 * otherwise; those that wait return TRK_AGAIN when their timeout passes or a signal
 * arrives, so that the caller can look at signals and call again.
 * After fork() every function fails with TRK_EFORKED in the child.
 *
 * Model: G. Benson, A. Fedosov, "Python-based Distributed Programming with Trickle",
 * PDPTA 2007, sections 2 and 4. */
#ifndef TRICKLE_FARM_H
#define TRICKLE_FARM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "trickle/error.h"

#ifdef __cplusplus
extern "C" {
#endif

struct trk_farm;   /* one farm thread and all it holds */
struct trk_vmlist; /* what one connect() returned: VMs, elastic up to its max */
struct trk_vm;     /* a handle: one incarnation of one VM; reference counted */
struct trk_job;    /* a durable job, see job.h */
struct trk_call;   /* one request to a VM, outstanding or answered */

/* All strings are borrowed for the duration of trk_farm_new. */
struct trk_farm_options {
    size_t size;             /* sizeof(struct trk_farm_options): versions this struct */
    const char *program;     /* shown to others as the holder of the VMs; NULL: process name */
    const char *runtime_dir; /* NULL: $TRICKLE_RUNTIME, else /tmp/trickle-UID */
    bool lan;                /* ask on the LAN by multicast too (also TRICKLE_LAN=1) */
    /* Plain TCP without the key: on loopback, to addresses that hosts names, and where listen says;
     * a message warns each time (also TRICKLE_INSECURE=1). */
    bool insecure;
    const char *hosts;       /* "host:port,..." of supervisors to ask; NULL: $TRICKLE_HOSTS */
    const char *multicast;   /* "group:port"; NULL: $TRICKLE_MULTICAST, else the default group */
    /* Silence after which a VM counts as lost; 0: $TRICKLE_DEAD_AFTER (seconds), else 10,000. */
    uint32_t dead_after_ms;
    /* Silence after which a VM gets nothing new; 0: $TRICKLE_SUSPECT_AFTER (seconds), else 2,000,
     * and never more than dead_after_ms. */
    uint32_t suspect_after_ms;
    struct trk_job *job;     /* whose results this farm records (job.h), or NULL; it must stay open
                                until the farm is closed */
    /* The farm's key, for TCP and multicast (not read for VMs of this machine alone); NULL:
     * $XDG_CONFIG_HOME/trickle/key, else ~/.config/trickle/key. It is read again when it has
     * changed. */
    const char *key_file;
    /* "ADDR", "ADDR:PORT", "[ADDR]:PORT": let VMs join that connect from where nobody can connect
     * to (trickle vm --join); numeric; without a port, or with 0, a free one. NULL:
     * $TRICKLE_LISTEN; "" or neither: nothing listens. Needs the key, or insecure. */
    const char *listen;
};

/* Starts a farm. On success *out belongs to the caller (trk_farm_close). TRK_EDENIED: lan or listen
 * without a key, or a key file that others can read; TRK_EIO, TRK_EINVAL: cannot listen there. */
TRK_API TRK_MUST_USE int trk_farm_new(struct trk_farm **out, const struct trk_farm_options *opt);

/* Ends all leases, waits at most timeout_ms until the VMs have said goodbye and their last
 * output has arrived, stops the thread, frees the farm. Outstanding calls fail with
 * TRK_ECLOSED; vm, call, vmlist and work objects stay valid until their own free. */
TRK_API void trk_farm_close(struct trk_farm *farm, uint32_t timeout_ms);
/* Where VMs can join, "ADDR:PORT" with the port that it got; NULL: nowhere. Borrowed from the
 * farm. */
TRK_API const char *trk_farm_listening(const struct trk_farm *farm);
/* A second reference, for a thread that takes notices while another closes the farm: from
 * trk_farm_close on only trk_farm_notice may be called with it, until TRK_ECLOSED. */
TRK_API struct trk_farm *trk_farm_ref(struct trk_farm *farm);
TRK_API void trk_farm_unref(struct trk_farm *farm); /* never blocks */

/* A sentence about what went wrong last on this thread in a call on any farm object, to be
 * shown to a person after a negative return. Valid until the thread's next Trickle call. */
TRK_API const char *trk_last_error(void);

/* --- connecting -------------------------------------------------------------------- */

/* Begins to find and lease VMs: at most max of them (0: all there are). With need_all, too
 * few is TRK_ENOVMS and nothing stays leased. VMs this farm already holds for another list
 * come first (a second connect in a notebook gives the same VMs), then new ones.
 *   wait_ms  how long to wait for missing VMs to appear; 0: answer as soon as all present
 *            VMs have answered (VMs that are starting are waited for). */
TRK_API TRK_MUST_USE int trk_connect_start(struct trk_farm *farm, uint32_t max, bool need_all,
                                           uint32_t wait_ms, struct trk_vmlist **out);

/* Waits for a connect to finish. 0: done; TRK_AGAIN; TRK_ENOVMS with trk_last_error() naming
 * what was found and the command that starts VMs. On an error the list must still be freed. */
TRK_API TRK_MUST_USE int trk_connect_wait(struct trk_vmlist *list, int timeout_ms);

/* Brings the list up to date: a lost handle whose VM has a new incarnation is replaced in
 * place, VMs that joined since are appended (up to max). Never waits. Returns the length. */
TRK_API size_t trk_vmlist_refresh(struct trk_vmlist *list);
TRK_API size_t trk_vmlist_length(const struct trk_vmlist *list);
/* A new reference for the caller, or NULL when i is out of range. */
TRK_API struct trk_vm *trk_vmlist_get(struct trk_vmlist *list, size_t i);
/* Gives the VMs of this list back, unless another list of the farm holds them too. */
TRK_API void trk_vmlist_close(struct trk_vmlist *list);
TRK_API void trk_vmlist_free(struct trk_vmlist *list); /* closes first */

/* --- VMs ---------------------------------------------------------------------------- */

enum trk_vm_state {
    TRK_VM_STARTING = 0, /* its process is coming up; connect waits for it */
    TRK_VM_IDLE = 1,     /* ready, nobody's */
    TRK_VM_LEASED = 2,   /* serves one initiator */
    TRK_VM_FAILING = 3,  /* its process dies at once each time; tried again with back-off */
    TRK_VM_STOPPING = 4, /* will not come back */
    TRK_VM_LOST = 5,     /* (handles only) this incarnation is gone */
    TRK_VM_FINISHING = 6, /* its program has gone; it finishes what runs, and is free then */
};

#define TRK_VM_TEXT_MAX 128

/* What is known of a VM. A plain value; strings are cut at their size and terminated. */
struct trk_vm_info {
    uint8_t incarnation[16]; /* random, new for each process of the VM */
    uint8_t supervisor[16];  /* random, new for each supervisor */
    uint32_t index;          /* of the VM in its supervisor; (supervisor, index) is the slot */
    uint32_t state;          /* enum trk_vm_state */
    uint32_t pid;
    uint32_t cores;
    uint64_t memory_bytes; /* of the machine */
    uint64_t dropped;      /* connections and frames dropped as garbage, by VM and supervisor */
    char host[TRK_VM_TEXT_MAX];
    char module[32];              /* RAI module: "python", ... */
    char version[64];             /* of the module's language: "3.11.2" */
    char owner[TRK_VM_TEXT_MAX];  /* "program (pid 1, host)" that holds the lease (FINISHING: held
                                     it), or "" */
    char note[TRK_VM_TEXT_MAX];   /* why it is failing, last cause of death, or "" */
    char address[TRK_VM_TEXT_MAX]; /* "unix:/path" or "tcp:host:port" of the VM's own socket */
};

TRK_API struct trk_vm *trk_vm_ref(struct trk_vm *vm);
TRK_API void trk_vm_unref(struct trk_vm *vm); /* NULL is fine */
TRK_API void trk_vm_get_info(struct trk_vm *vm, struct trk_vm_info *out);
TRK_API bool trk_vm_is_lost(struct trk_vm *vm);
/* Why it was lost, as a sentence ("killed by SIGKILL while running element 17"); "" if it is not.
 * Copied into text. */
TRK_API void trk_vm_lost_reason(struct trk_vm *vm, char *text, size_t size);

/* Lists the VMs that answer, leased or not, without leasing any. Waits until the answers are
 * in, at most timeout_ms. *out is an array for trk_vms_list_free. */
TRK_API TRK_MUST_USE int trk_vms_list(struct trk_farm *farm, int timeout_ms,
                                      struct trk_vm_info **out, size_t *count);
TRK_API void trk_vms_list_free(struct trk_vm_info *infos);

/* Tells the supervisor of the VM with that pid (and host, where not NULL; as trk_vms_list gave it)
 * what to do: verb "drain": it finishes what runs, hands back the rest and leaves; "stop": it ends
 * now. answer: a sentence from the supervisor. Call trk_vms_list first: it finds the supervisors.
 * TRK_EINVAL: no such VM; TRK_EDENIED: refused, trk_last_error() has the sentence. */
TRK_API TRK_MUST_USE int trk_vms_order(struct trk_farm *farm, const char *verb, const char *host,
                                       uint32_t pid, int timeout_ms, char *answer, size_t size);

/* --- requests (remote access and invocation) ---------------------------------------- */

enum trk_op {
    TRK_OP_INJECT = 1,  /* payload: what the module calls code or data; name: what it binds */
    TRK_OP_CALL = 2,    /* object 0: name in the VM's name space; else a method of object */
    TRK_OP_GETATTR = 3,
    TRK_OP_SETATTR = 4,
    TRK_OP_DELETE = 5, /* drop one reference to object; has no reply worth waiting for */
    TRK_OP_FETCH = 6,  /* object by value */
};

enum trk_status {
    TRK_STATUS_OK = 0,        /* payload: the value, in the module's encoding */
    TRK_STATUS_EXCEPTION = 1, /* payload: the exception, in the module's encoding */
    TRK_STATUS_ERROR = 2,     /* payload: a sentence in UTF-8: Trickle could not do it */
};

/* Sends one request. Requests of one thread to one VM are executed in the order they were
 * sent, between elements of work, never inside one.
 *   name, payload  copied
 *   out  the call, for trk_call_free; NULL: no answer wanted
 * TRK_EVMLOST when the VM is lost; TRK_ETOOBIG over 1 GiB. */
TRK_API TRK_MUST_USE int trk_vm_request(struct trk_vm *vm, enum trk_op op, uint64_t object,
                                        const char *name, const void *payload, size_t size,
                                        struct trk_call **out);

/* Injects into every live VM of a list (list) or one VM (vm), and remembers it: a new
 * incarnation of the VM and VMs that join the list later get all injections, in order, before
 * anything else. Injecting the same name again replaces the remembered one.
 * Exactly one of list and vm is given. calls receives one call per VM (array for free(), each
 * for trk_call_free), vms the number. */
TRK_API TRK_MUST_USE int trk_inject(struct trk_vmlist *list, struct trk_vm *vm, const char *name,
                                    const void *payload, size_t size, struct trk_call ***calls,
                                    size_t *count);

/* The answer of a call, borrowed until trk_call_free. */
struct trk_reply {
    enum trk_status status;
    const void *payload;
    size_t size;
};

/* Waits for one call. 0: *reply is filled (again and again the same); TRK_AGAIN;
 * TRK_EVMLOST, TRK_ECLOSED, TRK_ECANCELLED: it will never be answered. timeout_ms < 0: until a
 * signal comes. */
TRK_API TRK_MUST_USE int trk_call_wait(struct trk_call *call, int timeout_ms,
                                       struct trk_reply *reply);
/* Waits until at least one of n calls is finished (answered or failed); *which is the one that
 * finished first. TRK_AGAIN as above. */
TRK_API TRK_MUST_USE int trk_call_wait_any(struct trk_call *const *calls, size_t n,
                                           int timeout_ms, size_t *which);
TRK_API bool trk_call_is_done(const struct trk_call *call);
TRK_API void trk_call_free(struct trk_call *call); /* NULL is fine; an answer due is dropped */

/* --- notices ------------------------------------------------------------------------- */

enum trk_notice_kind {
    TRK_NOTICE_OUTPUT = 1, /* text that user code printed on a VM; whole lines where possible */
    TRK_NOTICE_VM_LOST = 2,
    TRK_NOTICE_VM_JOINED = 3,
    TRK_NOTICE_MESSAGE = 4, /* anything a person should read */
    TRK_NOTICE_VM_LEAVING = 5, /* it ends after what it runs; while it does, it answers requests,
                                  and a drained one for a moment more. No text */
};

struct trk_notice {
    enum trk_notice_kind kind;
    uint32_t vm_pid; /* 0: no VM */
    uint32_t vm_index;
    char vm_host[64];
    size_t size;    /* bytes in text, without the terminator */
    char *text;     /* terminated; freed by trk_notice_free */
};

/* Takes the oldest notice. 0, or TRK_AGAIN when there is none within timeout_ms (0: look only;
 * <0: until one comes or a signal does), TRK_ECLOSED when the farm is closing and none is left. */
TRK_API TRK_MUST_USE int trk_farm_notice(struct trk_farm *farm, int timeout_ms,
                                         struct trk_notice *out);
TRK_API void trk_notice_free(struct trk_notice *notice);

#ifdef __cplusplus
}
#endif
#endif
