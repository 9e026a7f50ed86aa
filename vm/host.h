/* SPDX-License-Identifier: MIT */
/* host.h - what the supervisor hands to a VM process: TRICKLE_VM_FDS in the environment.
 *
 *   "listen=3,tcp=4,control=5,page=6,index=0,cores=2,tcpport=4711,tls=1,supervisor=HEX"
 * listen: listening unix socket; tcp: listening TCP socket or -1; control: socketpair to the
 * supervisor (its end of file means that the supervisor has gone); page: memfd of struct vm_page;
 * tls: TCP is TLS with the keys that come by control (0: plain, --insecure).
 * Control bytes, VM -> supervisor: 'R' ready (accepting), 'E' lease ended, about to exit;
 * supervisor -> VM: 'D' drain (end after the running element), 'S' stop now, 'K' and a byte n:
 * n bytes follow, the text of the keys that count from now on (auth/keys.h), 'J' and a byte n: n
 * bytes follow, "TOKEN ADDRESS": dial in there with that (32 hex digits; wire/msg.h). stdout and
 * stderr are the output pipe already.
 *
 * What user code can know of the keys: they are in no argument, environment, file or shared
 * memory of a VM, and its net thread has read them before user code runs. But that code runs in
 * the VM's process: whoever means to can search its memory, and unless the VM is in a sandbox
 * read the user's key file. Nothing is lost by that: only who has a key can send code to a VM of
 * another machine, and on this one code comes from the same user. A key is not for code from
 * others.
 *
 * TRICKLE_VM_OWNER is the supervisor's id: all that a VM starts inherits it, and can be found by
 * it when the supervisor is gone. What a command starts (the module "exec") has TRICKLE_EXEC_ID
 * too, with the same id in its name: one for each farm inside another that it belongs to. */
#ifndef VM_HOST_H
#define VM_HOST_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#define VM_FDS_ENV "TRICKLE_VM_FDS"
#define VM_OWNER_ENV "TRICKLE_VM_OWNER"
#define VM_COMMAND_MARK "TRICKLE_EXEC_"
#define HOST_DIAL_MAX 165 /* bytes of a token and an address, terminated */
#define VM_FD_FLOOR 10 /* a VM's own descriptors are not below: user code closes and reuses those */

struct vm_fds {
    int listen, tcp, control, page;
    uint32_t index, cores;
    uint16_t tcp_port;
    bool is_tls; /* TCP waits for keys */
    uint8_t supervisor[16];
};
int vm_fds_parse(struct vm_fds *out, const char *text); /* 0 or TRK_EINVAL */
int vm_fds_format(const struct vm_fds *fds, char *text, unsigned size);

bool vm_hex_parse(uint8_t out[16], const char *hex); /* 32 digits */

/* Moves a descriptor to VM_FD_FLOOR or above (CLOEXEC); as it was when there is no room. */
int vm_fd_raise(int fd);
/* Fills all numbers below VM_FD_FLOOR, so that what is opened next lies above; and frees those
 * again that it took. */
void vm_fd_fill(bool taken[VM_FD_FLOOR]);
void vm_fd_unfill(const bool taken[VM_FD_FLOOR]);

/* Bytes of memory that a process has in RAM (0: this one); 0: it cannot be read. */
uint64_t vm_rss_bytes(pid_t pid);

#endif
