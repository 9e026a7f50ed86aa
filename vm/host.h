/* SPDX-License-Identifier: MIT */
/* host.h - what the supervisor hands to a VM process: TRICKLE_VM_FDS in the environment.
 *
 *   "listen=3,tcp=4,control=5,page=6,index=0,cores=2,tcpport=4711,supervisor=HEX"
 * listen: listening unix socket; tcp: listening TCP socket or -1; control: socketpair to the
 * supervisor (its end of file means that the supervisor has gone); page: memfd of struct vm_page.
 * Control bytes, VM -> supervisor: 'R' ready (accepting), 'E' lease ended, about to exit;
 * supervisor -> VM: 'D' drain (end after the running element), 'S' stop now. stdout and stderr
 * are the output pipe already. */
#ifndef VM_HOST_H
#define VM_HOST_H

#include <stdint.h>

#define VM_FDS_ENV "TRICKLE_VM_FDS"

struct vm_fds {
    int listen, tcp, control, page;
    uint32_t index, cores;
    uint16_t tcp_port;
    uint8_t supervisor[16];
};
int vm_fds_parse(struct vm_fds *out, const char *text); /* 0 or TRK_EINVAL */
int vm_fds_format(const struct vm_fds *fds, char *text, unsigned size);

#endif
