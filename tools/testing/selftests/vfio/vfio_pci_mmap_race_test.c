// SPDX-License-Identifier: GPL-2.0-only
/*
 * Accesses, mmap() and exports race with what disables and enables the device's
 * memory. It is never reachable when it has been disabled, and always when it has
 * been enabled.
 */
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <sys/mman.h>

#include <linux/compiler.h>
#include <linux/kernel.h>
#include <linux/pci_regs.h>
#include <linux/vfio.h>

#include <asm/barrier.h>

#include <libvfio.h>

#include "kselftest_harness.h"

#define DRIVER		"vfio-pci"

/* How often each race is run: VFIO_SELFTESTS_RACE_ROUNDS asks for more, or less. */
#define RACE_ROUNDS	100

/* Seconds, to end a hang and nothing else: a round may take a second, or two. */
#define RACE_TIMEOUT	3600

static const char *device_bdf;

static int race_rounds(void)
{
	const char *rounds = getenv("VFIO_SELFTESTS_RACE_ROUNDS");

	return rounds ? max(atoi(rounds), 1) : RACE_ROUNDS;
}

static void race_report(const char *name, int rounds, bool dmabuf)
{
	fprintf(TH_LOG_STREAM, "# races: %s %d rounds of a %s\n", name, rounds,
		dmabuf ? "DMABUF" : "BAR");
}

/*
 * What is known about the memory. A phase is published when it has become true,
 * and the next one before it may cease to be so.
 */
enum phase {
	ENABLED,
	DISABLING,
	DISABLED,
	ENABLING,
	NR_PHASES,
};

enum racer_type {
	TOUCH,		/* a mapping that all share */
	TOUCH_CHILD,	/* the same, from another process */
	MAP,		/* a new mapping each time */
	EXPORT,		/* a new DMABUF and a new mapping of it each time */
	NR_RACERS,
};

struct race;

struct racer {
	struct race *race;
	enum racer_type type;
	pthread_t thread;
	bool running;
	u64 rounds;
	/* Accesses that did not find what the phase said, and the others */
	u64 wrong[NR_PHASES];
	u64 right[NR_PHASES];
};

/* Shared with the child */
struct race {
	struct mmap_target target;
	void *vaddr;
	u64 seq;	/* goes through the phases, again and again */
	bool stop;
	struct racer racers[NR_RACERS];
	struct client child;
};

static bool try_new_dmabuf(struct mmap_target *target)
{
	struct mmap_target new = *target;
	bool ret;

	new.fd = vfio_pci_dmabuf_export_range(target->device, target->bar, 0, getpagesize());
	ret = mmap_target_try_touch(&new);
	VFIO_ASSERT_EQ(close(new.fd), 0);
	return ret;
}

static void *racer(void *arg)
{
	struct racer *racer = arg;
	struct race *race = racer->race;
	u64 seq;
	bool ok;

	while (!READ_ONCE(race->stop)) {
		seq = READ_ONCE(race->seq);
		/* The access comes after this ... */
		mb();
		switch (racer->type) {
		case MAP:
			ok = mmap_target_try_touch(&race->target);
			break;
		case EXPORT:
			ok = try_new_dmabuf(&race->target);
			break;
		default:
			ok = mmio_try_touch(race->vaddr);
			break;
		}
		/* ... and before that. Nothing is known if the phase changed. */
		mb();
		if (READ_ONCE(race->seq) == seq) {
			enum phase phase = seq % NR_PHASES;
			bool wrong = (phase == ENABLED && !ok) || (phase == DISABLED && ok);

			if (wrong)
				racer->wrong[phase]++;
			else
				racer->right[phase]++;
		}
		WRITE_ONCE(racer->rounds, racer->rounds + 1);
	}
	return NULL;
}

static int racer_main(int sock, void *arg)
{
	struct race *race = arg;

	racer(&race->racers[TOUCH_CHILD]);
	return 0;
}

static struct race *race_start(const struct mmap_target *target, unsigned int types)
{
	struct race *race;
	int i;

	race = mmap(NULL, sizeof(*race), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	VFIO_ASSERT_NE(race, MAP_FAILED);
	race->target = *target;
	race->vaddr = mmap_target_map(target, 0, getpagesize());

	for (i = 0; i < NR_RACERS; i++) {
		race->racers[i].race = race;
		race->racers[i].type = i;
		race->racers[i].running = types & (1U << i);
	}
	/* No threads yet, so there is no lock that one of them could have. */
	if (race->racers[TOUCH_CHILD].running)
		race->child = client_start(racer_main, race);
	for (i = 0; i < NR_RACERS; i++) {
		if (race->racers[i].running && i != TOUCH_CHILD)
			VFIO_ASSERT_EQ(pthread_create(&race->racers[i].thread, NULL, racer,
						      &race->racers[i]), 0);
	}
	return race;
}

static void race_phase(struct race *race, enum phase phase)
{
	u64 seq = race->seq + 1;
	enum phase next = seq % NR_PHASES;

	VFIO_ASSERT_EQ(next, phase);
	/* What makes it true comes before, what ends it comes after. */
	mb();
	WRITE_ONCE(race->seq, seq);
	/* Pairs with those of racer() */
	mb();
}

/*
 * Racers have done what takes place in this phase only: each of them at first,
 * and later any, as there would be few rounds if all had to be waited for.
 */
static void race_wait(struct race *race)
{
	bool all = race->seq < 4 * NR_PHASES;
	u64 rounds[NR_RACERS];
	int i, waiting;

	for (i = 0; i < NR_RACERS; i++)
		rounds[i] = READ_ONCE(race->racers[i].rounds);
	for (;;) {
		bool any = false;

		for (i = 0, waiting = 0; i < NR_RACERS; i++) {
			if (!race->racers[i].running)
				continue;
			/* The first one may have begun before. */
			if (READ_ONCE(race->racers[i].rounds) < rounds[i] + 2)
				waiting++;
			else
				any = true;
		}
		if (!waiting || (any && !all))
			break;
		sched_yield();
	}
}

static void race_stop(struct race *race)
{
	int i;

	WRITE_ONCE(race->stop, true);
	for (i = 0; i < NR_RACERS; i++) {
		if (race->racers[i].running && i != TOUCH_CHILD)
			VFIO_ASSERT_EQ(pthread_join(race->racers[i].thread, NULL), 0);
	}
	if (race->racers[TOUCH_CHILD].running)
		VFIO_ASSERT_EQ(client_wait(&race->child), 0);
	VFIO_ASSERT_EQ(munmap(race->vaddr, getpagesize()), 0);
}

static void race_check(struct __test_metadata *_metadata, struct race *race, bool disabled)
{
	int i;

	for (i = 0; i < NR_RACERS; i++) {
		struct racer *racer = &race->racers[i];

		if (!racer->running)
			continue;
		EXPECT_EQ(0, racer->wrong[ENABLED]) TH_LOG("racer %d", i);
		EXPECT_EQ(0, racer->wrong[DISABLED]) TH_LOG("racer %d", i);
		/* Or there was no race */
		EXPECT_NE(0, racer->right[ENABLED]) TH_LOG("racer %d", i);
		if (disabled)
			EXPECT_NE(0, racer->right[DISABLED]) TH_LOG("racer %d", i);
	}
	ASSERT_EQ(0, munmap(race, sizeof(*race)));
}

/* The largest BAR of the device */
struct race_test {
	struct vfio_pci_device *device;
	struct mmap_target target;
};

static const char *race_test_open(struct race_test *test, bool dmabuf)
{
	test->device = vfio_pci_device_open(device_bdf, default_iommu_mode);

	return mmap_target_open_largest(&test->target, test->device, dmabuf);
}

static void race_test_close_device(struct race_test *test)
{
	vfio_pci_device_close(test->device);
	test->device = NULL;
}

FIXTURE(vfio_pci_mmap_race_test) {
	struct race_test test;
};

FIXTURE_VARIANT(vfio_pci_mmap_race_test) {
	bool dmabuf;
};

FIXTURE_VARIANT_ADD(vfio_pci_mmap_race_test, bar) {
	.dmabuf = false,
};

FIXTURE_VARIANT_ADD(vfio_pci_mmap_race_test, dmabuf) {
	.dmabuf = true,
};

FIXTURE_SETUP(vfio_pci_mmap_race_test)
{
	const char *reason = race_test_open(&self->test, variant->dmabuf);

	if (reason)
		SKIP(return, "%s", reason);
}

FIXTURE_TEARDOWN(vfio_pci_mmap_race_test)
{
	mmap_target_close(&self->test.target);
	race_test_close_device(&self->test);
}

static unsigned int racer_types(bool dmabuf)
{
	unsigned int types = 1U << TOUCH | 1U << TOUCH_CHILD | 1U << MAP;

	return dmabuf ? types | 1U << EXPORT : types;
}

TEST_F_TIMEOUT(vfio_pci_mmap_race_test, memory_decode, RACE_TIMEOUT)
{
	struct race *race = race_start(&self->test.target, racer_types(variant->dmabuf));
	int round, rounds = race_rounds();

	for (round = 0; round < rounds; round++) {
		race_wait(race);
		race_phase(race, DISABLING);
		vfio_pci_memory_decode.disable(self->test.device);
		race_phase(race, DISABLED);
		race_wait(race);
		race_phase(race, ENABLING);
		vfio_pci_memory_decode.enable(self->test.device);
		race_phase(race, ENABLED);
	}
	race_wait(race);
	race_stop(race);
	race_check(_metadata, race, true);
	race_report("memory_decode", rounds, variant->dmabuf);
}

/* It takes no longer than it has to, and nobody gets to see it. */
TEST_F_TIMEOUT(vfio_pci_mmap_race_test, reset, RACE_TIMEOUT)
{
	const char *reason = vfio_pci_function_reset.unsupported(self->test.device);
	int round, rounds = race_rounds();
	struct race *race;

	if (reason)
		SKIP(return, "%s", reason);

	race = race_start(&self->test.target, racer_types(variant->dmabuf));
	for (round = 0; round < rounds; round++) {
		race_wait(race);
		vfio_pci_function_reset.disable(self->test.device);
	}
	race_wait(race);
	race_stop(race);
	race_check(_metadata, race, false);
	race_report("reset", rounds, variant->dmabuf);
}

/*
 * The last close is for good: right after it nobody can reach the memory, be
 * the device opened once more or not. Of a DMABUF only, as a mapping of the BAR
 * keeps the device open.
 */
FIXTURE(vfio_pci_last_close_race_test) {
	struct race_test test;
};

FIXTURE_SETUP(vfio_pci_last_close_race_test)
{
	const char *reason;

	sysfs_driver_restore(DRIVER, device_bdf);
	reason = race_test_open(&self->test, true);
	if (reason)
		SKIP(return, "%s", reason);
}

FIXTURE_TEARDOWN(vfio_pci_last_close_race_test)
{
	mmap_target_close(&self->test.target);
	if (self->test.device)
		race_test_close_device(&self->test);
	sysfs_driver_restore(DRIVER, device_bdf);
}

static void race_with_close(struct __test_metadata *_metadata, struct race_test *test,
			    int rounds, bool unbind)
{
	unsigned int types = 1U << TOUCH | 1U << TOUCH_CHILD | 1U << MAP;
	struct race *race;
	int round;

	for (round = 0; round < rounds; round++) {
		race = race_start(&test->target, types);
		race_wait(race);
		race_phase(race, DISABLING);
		race_test_close_device(test);
		race_phase(race, DISABLED);
		race_wait(race);
		if (unbind) {
			sysfs_driver_unbind(DRIVER, device_bdf);
			sysfs_driver_bind(DRIVER, device_bdf);
			race_wait(race);
		}
		/* That is another DMABUF, race->target is the old one. */
		ASSERT_EQ(NULL, race_test_open(test, true));
		race_wait(race);
		race_stop(race);
		mmap_target_close(&race->target);
		race_check(_metadata, race, true);
	}
}

/* A close takes a second on a slow kernel: those before an unbind count, too. */
TEST_F_TIMEOUT(vfio_pci_last_close_race_test, close_and_unbind, RACE_TIMEOUT)
{
	int rounds = race_rounds();

	race_with_close(_metadata, &self->test, rounds, true);
	race_report("close", rounds, true);
	race_report("unbind", rounds, true);
}

TEST_F_TIMEOUT(vfio_pci_last_close_race_test, close_and_open, RACE_TIMEOUT)
{
	int rounds = (race_rounds() + 9) / 10;

	race_with_close(_metadata, &self->test, rounds, false);
	race_report("close without unbind", rounds, true);
}

int main(int argc, char *argv[])
{
	device_bdf = vfio_selftests_get_bdf(&argc, argv);
	return test_harness_run(argc, argv);
}
