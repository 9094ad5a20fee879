/* Power losses on ext4: a file system in a loop device is shut down without flushing its log, at
 * some call of a workload, mounted again and looked at. Data that was not synced is gone, renames
 * and removals that were not synced are undone. Needs root and loop devices, otherwise it says that
 * it was skipped and why. The long form: KITH_POWER_CYCLES=500. */
#include "tests/fault/fault_rig.h"

#include <errno.h>
#include <signal.h>
#include <unistd.h>

#include "shard/storage/store_testing.h"

static char folder[64], image[96], mounted[96], data[128];
static struct fault_shared *shared;

static int sh(const char *format, const char *a, const char *b)
{
    char command[512];
    (void)snprintf(command, sizeof command, format, a, b);
    return system(command);
}

static void mount_it(void)
{
    assert_int_equal(sh("mount -o loop '%s' '%s'", image, mounted), 0);
}

static void unmount(void)
{
    assert_int_equal(sh("umount '%s' %s", mounted, ""), 0);
}

/* NULL: it can be done here. */
static const char *why_not(void)
{
    if (geteuid() != 0)
        return "needs root";
    if (sh("truncate -s 24M '%s' && mkfs.ext4 -q -F '%s' 2>/dev/null", image, image) != 0)
        return "mkfs.ext4 does not work";
    if (sh("mount -o loop '%s' '%s' 2>/dev/null", image, mounted) != 0)
        return "loop devices cannot be mounted";
    unmount();
    return NULL;
}

/* Each cycle begins with an empty folder, so a loss in creation is seen, too. */
static void one_loss(const char *workload, uint64_t at)
{
    const struct fault fault = {.mode = FAULT_POWER, .at = at}, none = {0};
    mount_it();
    assert_int_equal(sh("rm -rf '%s' %s", data, ""), 0);
    assert_false(fault_run(workload, data, &fault, shared));
    unmount();
    mount_it();
    bool good = fault_check(workload, data, &none, shared);
    unmount();
    if (!good)
        fail_msg("%s: power loss at call %llu: see above", workload, (unsigned long long)at);
}

static void test_power_losses(void **state)
{
    (void)state;
    uint64_t n = test_env("KITH_POWER_CYCLES", 24), random = test_env("KITH_SEED", 1);
    uint64_t calls[8] = {0};
    const char *reason = why_not();
    if (reason != NULL) {
        print_message("SKIPPED (%s): power losses on ext4\n", reason);
        skip();
    }
    print_message("KITH_SEED=%llu\n", (unsigned long long)random);
    for (uint64_t i = 0; i < n; i++) {
        uint32_t w = 5 - (uint32_t)(i % 6);
        if (calls[w] == 0) { /* one whole run tells how many calls there are */
            one_loss(fault_workloads[w], UINT64_MAX);
            calls[w] = atomic_load(&shared->calls);
        }
        one_loss(fault_workloads[w], 1 + kith_random(&random) % calls[w]);
    }
    print_message("power losses: %llu\n", (unsigned long long)n);
}

/* Right behind an acknowledgement: of a creation, of writes, of a removal, of which only a synced
 * folder keeps the first and the last. */
static void test_power_loss_behind_an_acknowledgement(void **state)
{
    (void)state;
    if (why_not() != NULL)
        skip();
    one_loss("append", UINT64_MAX);
    one_loss("append", atomic_load(&shared->calls_of_creation) + 1);
    one_loss("delete", UINT64_MAX);
    assert_true(atomic_load(&shared->destroyed));
    uint64_t calls = atomic_load(&shared->calls);
    for (uint64_t i = 0; i < 4; i++)
        one_loss("delete", calls - i);
}

static int set_up(void **state)
{
    (void)state;
    (void)snprintf(folder, sizeof folder, "/tmp/kith-power-XXXXXX");
    if (mkdtemp(folder) == NULL)
        return -1;
    (void)snprintf(image, sizeof image, "%s/disk", folder);
    (void)snprintf(mounted, sizeof mounted, "%s/mnt", folder);
    (void)snprintf(data, sizeof data, "%s/data", mounted);
    shared = fault_shared_new();
    return sh("mkdir '%s' %s", mounted, "");
}

static int tear_down(void **state)
{
    (void)state;
    (void)sh("umount '%s' 2>/dev/null; rm -rf '%s'", mounted, folder);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_power_losses),
        cmocka_unit_test(test_power_loss_behind_an_acknowledgement),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
