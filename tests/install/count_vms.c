/* SPDX-License-Identifier: MIT */
/* count_vms.c - a C program as a user of the installed library writes it: connects to all VMs,
 * prints how many there are and of which module, or a sentence when there is none. */
#include <stdio.h>
#include <trickle/trickle.h>

int main(void)
{
    struct trk_farm_options options = {.size = sizeof options, .program = "count_vms"};
    struct trk_farm *farm = NULL;
    struct trk_vmlist *vms = NULL;
    int rc = trk_farm_new(&farm, &options);
    if (rc == 0) {
        rc = trk_connect_start(farm, 0, false, 0, &vms);
    }
    while (rc == 0 && (rc = trk_connect_wait(vms, 1000)) == TRK_AGAIN) {
        rc = 0;
    }
    if (rc != 0) {
        fprintf(stderr, "%s\n", trk_last_error());
    } else {
        struct trk_vm *vm = trk_vmlist_get(vms, 0);
        struct trk_vm_info info;
        trk_vm_get_info(vm, &info);
        trk_vm_unref(vm);
        printf("%zu %s\n", trk_vmlist_length(vms), info.module);
    }
    trk_vmlist_free(vms);
    trk_farm_close(farm, 1000);
    return rc == 0 ? 0 : 1;
}
