/* SPDX-License-Identifier: MIT */
/* What trk_vm_serve takes, and what vm/fds.c does with descriptors. */
#include <check.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/suite.h"
#include "trickle/vm.h"
#include "vm/host.h"

/* Its table ends before what later versions have added, or lacks what was there from the start;
 * without a supervisor a module that is taken comes no further than to its descriptors. */
static const struct {
    uint32_t abi;
    size_t size;
    int error;
} module_table[] = {
    {TRK_RAI_ABI, sizeof(struct trk_rai_module), TRK_EINVAL},
    {TRK_RAI_ABI, sizeof(struct trk_rai_module) + 64, TRK_EINVAL},
    {TRK_RAI_ABI, offsetof(struct trk_rai_module, dump), TRK_EINVAL},
    {TRK_RAI_ABI, offsetof(struct trk_rai_module, interrupt), TRK_EVERSION},
    {TRK_RAI_ABI + 1, sizeof(struct trk_rai_module), TRK_EVERSION},
};

static int open_stage(void *state, uint32_t stage, const void *function, size_t size,
                      struct trk_rai_reply *reply)
{
    return TRK_STATUS_OK;
}

static int run(void *state, const struct trk_rai_element *element, struct trk_rai_reply *reply)
{
    return TRK_STATUS_OK;
}

START_TEST(modules_may_be_older_or_newer)
{
    struct {
        struct trk_rai_module module;
        char later[64];
    } m = {.module = {.abi = module_table[_i].abi, .name = "test", .version = "1",
                     .stage_open = open_stage, .run = run}};
    /* All that is behind its end is not the module's. */
    struct trk_rai_module *own = malloc(module_table[_i].size);
    m.module.size = (uint32_t)module_table[_i].size;
    memcpy(own, &m, module_table[_i].size);
    unsetenv(VM_FDS_ENV);
    ck_assert_int_eq(trk_vm_serve(own, NULL), module_table[_i].error);
    free(own);
}
END_TEST

START_TEST(low_descriptors_are_raised)
{
    int low = open("/dev/null", O_RDWR | O_CLOEXEC);
    ck_assert_int_lt(low, VM_FD_FLOOR);
    int high = vm_fd_raise(low);
    ck_assert_int_ge(high, VM_FD_FLOOR);
    ck_assert_int_eq(fcntl(low, F_GETFD), -1);
    ck_assert_int_eq(fcntl(high, F_GETFD), FD_CLOEXEC);
    ck_assert_int_eq(vm_fd_raise(high), high);
    ck_assert_int_eq(vm_fd_raise(-1), -1);
    close(high);
}
END_TEST

START_TEST(filled_descriptors_are_freed_again)
{
    bool taken[VM_FD_FLOOR], before[VM_FD_FLOOR];
    for (int fd = 0; fd < VM_FD_FLOOR; fd++) {
        before[fd] = fcntl(fd, F_GETFD) >= 0;
    }
    vm_fd_fill(taken);
    int fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    ck_assert_int_ge(fd, VM_FD_FLOOR);
    vm_fd_unfill(taken);
    close(fd);
    for (fd = 0; fd < VM_FD_FLOOR; fd++) {
        ck_assert_int_eq(fcntl(fd, F_GETFD) >= 0, before[fd]);
    }
}
END_TEST

START_TEST(memory_in_use_is_read)
{
    ck_assert_uint_gt(vm_rss_bytes(0), 100000);
    ck_assert_uint_gt(vm_rss_bytes(getpid()), 100000);
    ck_assert_uint_eq(vm_rss_bytes(0x7ffffff0), 0);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("serve");
    TCase *tc = tcase_create("serve");
    tcase_add_loop_test(tc, modules_may_be_older_or_newer, 0,
                        sizeof(module_table) / sizeof(module_table[0]));
    tcase_add_test(tc, low_descriptors_are_raised);
    tcase_add_test(tc, filled_descriptors_are_freed_again);
    tcase_add_test(tc, memory_in_use_is_read);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
