/* SPDX-License-Identifier: MIT */
/* run.cpp - a C++ program as a user of the installed library writes it: squares of a vector's
 * numbers by VMs that echo, in order, as a durable job. Prints their sum and how the job stands. */
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include <trickle/trickle.h>

namespace {

struct free_farm {
    void operator()(trk_farm *farm) const { trk_farm_close(farm, 1000); }
};
struct free_list {
    void operator()(trk_vmlist *list) const { trk_vmlist_free(list); }
};
struct free_work {
    void operator()(trk_work *work) const { trk_work_free(work); }
};

int failed(int rc)
{
    std::fprintf(stderr, "%s: %s\n", trk_strerror(rc), trk_last_error());
    return rc;
}

int compute(trk_job *job, long &sum, trk_progress &progress)
{
    trk_farm_options farm_options = {};
    farm_options.size = sizeof(farm_options);
    farm_options.job = job;
    trk_farm *farm = nullptr;
    int rc = trk_farm_new(&farm, &farm_options);
    if (rc != 0) {
        return failed(rc);
    }
    std::unique_ptr<trk_farm, free_farm> farm_owner(farm);

    trk_vmlist *vms = nullptr;
    rc = trk_connect_start(farm, 0, false, 10000, &vms);
    std::unique_ptr<trk_vmlist, free_list> vms_owner(vms);
    while (rc == 0 && (rc = trk_connect_wait(vms, 1000)) == TRK_AGAIN) {
        rc = 0;
    }
    trk_work_options options = {};
    options.size = sizeof(options);
    options.function = "echo";
    options.function_size = 4;
    options.list = vms;
    options.ordered = true;
    options.key = "squares";
    trk_work *work = nullptr;
    if (rc != 0 || (rc = trk_work_new(farm, &options, &work)) != 0) {
        return failed(rc);
    }
    std::unique_ptr<trk_work, free_work> work_owner(work);

    std::vector<std::string> squares;
    for (int i = 0; i < 1000; i++) {
        squares.push_back(std::to_string(i * i));
    }
    trk_run run = {};
    run.size = sizeof(run);
    run.source = [](void *ctx, uint64_t index, const void **element, size_t *size) -> int {
        const auto &all = *static_cast<std::vector<std::string> *>(ctx);
        if (index == all.size()) {
            return TRK_END;
        }
        *element = all[index].data();
        *size = all[index].size();
        return 0;
    };
    run.source_ctx = &squares;
    run.sink = [](void *ctx, const trk_result *result) -> int {
        *static_cast<long *>(ctx) += std::stol(
            std::string(static_cast<const char *>(result->payload), result->size));
        return result->status == TRK_STATUS_OK ? 0 : TRK_EIO;
    };
    run.sink_ctx = &sum;
    while ((rc = trk_work_run(work, &run, 1000)) == TRK_AGAIN) {
    }
    trk_work_progress(work, &progress);
    return rc == 0 ? 0 : failed(rc);
}

} /* namespace */

int main(int argc, char **argv)
{
    trk_job_options options = {};
    options.size = sizeof(options);
    options.name = "squares";
    options.argc = argc;
    options.argv = argv;
    trk_job *job = nullptr;
    trk_job_opened opened;
    int rc = trk_signals_catch();
    if (rc != 0 || (rc = trk_job_open(&job, &options, &opened)) != 0) {
        failed(rc);
        return trk_job_finish(nullptr, rc);
    }
    long sum = 0;
    trk_progress progress = {};
    rc = compute(job, sum, progress);
    std::printf("%ld of %llu, %llu restored\n", sum, (unsigned long long)progress.done,
                (unsigned long long)progress.restored);
    return trk_job_finish(job, rc);
}
