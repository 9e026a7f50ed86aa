/* SPDX-License-Identifier: MIT */
/* exec_rig.h - for tests of the module "exec": specs from short texts, elements, results.
 *
 * In a text {0} is field 0, {q0} the same quoted, {#} the element's number, {o0} output 0, {f} the
 * file under check; "{.0}", "{/0}", "{//0}", "{/.0}" are transforms. */
#ifndef TESTS_RAI_EXEC_RIG_H
#define TESTS_RAI_EXEC_RIG_H

#include "rai/exec_impl.h"
#include "rai/modules.h"
#include "rai/rai.h"

extern struct trk_exec_spec rig_spec;     /* to be filled in before rig_open */
extern struct trk_exec_result rig_result; /* of the last rig_run */
extern uint32_t rig_attempt;

void rig_setup(void);    /* a folder of its own, which is the working directory */
void rig_teardown(void); /* checks that nothing is left: memory, descriptors, processes */

/* Words of texts, the last one NULL. */
const struct trk_exec_word *rig_words(size_t *count, ...);
struct trk_exec_word rig_word(const char *text);
void rig_argv(const char *first, ...); /* NULL at the end */
void rig_shell(const char *script);
void rig_open(void);
/* Runs an element of these fields (texts, NULL at the end). Its status. */
int rig_run(const char *first, ...);
int rig_run_field(const void *bytes, size_t size);
/* What was kept of stdout, and the sentence, as terminated texts. */
const char *rig_out(void);
const char *rig_why(void);
size_t rig_list(char *text, size_t size); /* names in the folder, sorted, one space behind each */
void rig_write(const char *name, const char *text);
const char *rig_read(const char *name); /* "?": there is no such file */

#endif
