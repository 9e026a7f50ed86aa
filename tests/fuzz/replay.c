/* SPDX-License-Identifier: MIT */
/* replay.c - a main for the fuzz entry points without a fuzzer: runs each file named, and each file
 * in each folder named, once; in the order of their names. Fails when there is nothing to run: a
 * corpus that was not found would look like one that passed. */
#include <dirent.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "fuzz.h"

static unsigned runs;

/* false: said why. */
static bool run_file(const char *name, size_t size)
{
    FILE *file = fopen(name, "rb");
    uint8_t *bytes = malloc(size + (size == 0)); /* exact, for the sanitizer */
    bool is_good = file != NULL && bytes != NULL && fread(bytes, 1, size, file) == size;

    if (is_good) {
        LLVMFuzzerTestOneInput(bytes, size);
        runs++;
    } else {
        fprintf(stderr, "%s: %s\n", name, strerror(errno));
    }
    if (file != NULL) {
        fclose(file);
    }
    free(bytes);
    return is_good;
}

static bool run_path(const char *path);

static bool run_folder(const char *folder)
{
    struct dirent **entries;
    int count = scandir(folder, &entries, NULL, alphasort);
    bool is_good = count >= 0;

    if (count < 0) {
        fprintf(stderr, "%s: %s\n", folder, strerror(errno));
        return false;
    }
    for (int i = 0; i < count; i++) {
        char path[4096];

        if (entries[i]->d_name[0] != '.') {
            snprintf(path, sizeof(path), "%s/%s", folder, entries[i]->d_name);
            is_good = run_path(path) && is_good;
        }
        free(entries[i]);
    }
    free(entries);
    return is_good;
}

static bool run_path(const char *path)
{
    struct stat st;

    if (stat(path, &st) < 0) {
        fprintf(stderr, "%s: %s\n", path, strerror(errno));
        return false;
    }
    return S_ISDIR(st.st_mode) ? run_folder(path) : run_file(path, (size_t)st.st_size);
}

int main(int argc, char **argv)
{
    bool is_good = true;

    for (int i = 1; i < argc; i++) {
        is_good = run_path(argv[i]) && is_good;
    }
    printf("%u inputs\n", runs);
    return is_good && runs > 0 ? 0 : 1;
}
