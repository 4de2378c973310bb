// SPDX-License-Identifier: GPL-2.0-only
/*
 * Accesses, mmap() and exports race with what takes the device's memory away
 * and gives it back. The memory is never there when it has been taken, and always
 * when it has been given back.
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

static void race_report(const char *name, int rounds, bool delegated)
{
	fprintf(TH_LOG_STREAM, "# races: %s %d rounds of a %s\n", name, rounds,
		delegated ? "DMABUF" : "BAR");
}

/*
 * What is known about the memory. It is published when it has become true, and
 * taken back before it may cease to be so.
 */
enum phase {
	THERE,
	GOING,
	AWAY,
	COMING,
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
	struct bar_source source;
	void *vaddr;
	u64 seq;	/* goes through the phases, again and again */
	bool stop;
	struct racer racers[NR_RACERS];
	struct client child;
};

static bool try_new_dmabuf(struct bar_source *source)
{
	struct bar_source new = *source;
	bool ret;

	new.fd = vfio_pci_dmabuf_export_range(source->device, source->bar, 0, getpagesize());
	ret = bar_source_try_touch(&new);
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
			ok = bar_source_try_touch(&race->source);
			break;
		case EXPORT:
			ok = try_new_dmabuf(&race->source);
			break;
		default:
			ok = mmio_try_touch(race->vaddr);
			break;
		}
		/* ... and before that. Nothing is known if the phase changed. */
		mb();
		if (READ_ONCE(race->seq) == seq) {
			enum phase phase = seq % NR_PHASES;
			bool wrong = (phase == THERE && !ok) || (phase == AWAY && ok);

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

static struct race *race_start(const struct bar_source *source, unsigned int types)
{
	struct race *race;
	int i;

	race = mmap(NULL, sizeof(*race), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	VFIO_ASSERT_NE(race, MAP_FAILED);
	race->source = *source;
	race->vaddr = bar_source_mmap(source, 0, getpagesize());

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

static void race_check(struct __test_metadata *_metadata, struct race *race, bool away)
{
	int i;

	for (i = 0; i < NR_RACERS; i++) {
		struct racer *racer = &race->racers[i];

		if (!racer->running)
			continue;
		EXPECT_EQ(0, racer->wrong[THERE]) TH_LOG("racer %d", i);
		EXPECT_EQ(0, racer->wrong[AWAY]) TH_LOG("racer %d", i);
		/* Or there was no race */
		EXPECT_NE(0, racer->right[THERE]) TH_LOG("racer %d", i);
		if (away)
			EXPECT_NE(0, racer->right[AWAY]) TH_LOG("racer %d", i);
	}
	ASSERT_EQ(0, munmap(race, sizeof(*race)));
}

/* The largest BAR of the device */
struct race_test {
	struct iommu *iommu;
	struct vfio_pci_device *device;
	struct bar_source source;
};

static const char *race_test_open(struct race_test *test, bool delegated)
{
	test->iommu = iommu_init(default_iommu_mode);
	test->device = vfio_pci_device_init(device_bdf, test->iommu);
	vfio_pci_bar_unmap_all(test->device);
	vfio_pci_cmd_set(test->device, PCI_COMMAND_MEMORY);

	return bar_source_open_largest(&test->source, test->device, delegated);
}

static void race_test_close_device(struct race_test *test)
{
	vfio_pci_device_cleanup(test->device);
	iommu_cleanup(test->iommu);
	test->device = NULL;
}

FIXTURE(vfio_pci_mmap_race_test) {
	struct race_test test;
};

FIXTURE_VARIANT(vfio_pci_mmap_race_test) {
	bool delegated;
};

FIXTURE_VARIANT_ADD(vfio_pci_mmap_race_test, bar) {
	.delegated = false,
};

FIXTURE_VARIANT_ADD(vfio_pci_mmap_race_test, dmabuf) {
	.delegated = true,
};

FIXTURE_SETUP(vfio_pci_mmap_race_test)
{
	const char *reason = race_test_open(&self->test, variant->delegated);

	if (reason)
		SKIP(return, "%s", reason);
}

FIXTURE_TEARDOWN(vfio_pci_mmap_race_test)
{
	bar_source_close(&self->test.source);
	race_test_close_device(&self->test);
}

static unsigned int racer_types(bool delegated)
{
	unsigned int types = 1U << TOUCH | 1U << TOUCH_CHILD | 1U << MAP;

	return delegated ? types | 1U << EXPORT : types;
}

TEST_F_TIMEOUT(vfio_pci_mmap_race_test, memory_decode, RACE_TIMEOUT)
{
	struct race *race = race_start(&self->test.source, racer_types(variant->delegated));
	int round, rounds = race_rounds();

	for (round = 0; round < rounds; round++) {
		race_wait(race);
		race_phase(race, GOING);
		vfio_pci_memory_decode.take(self->test.device);
		race_phase(race, AWAY);
		race_wait(race);
		race_phase(race, COMING);
		vfio_pci_memory_decode.give(self->test.device);
		race_phase(race, THERE);
	}
	race_wait(race);
	race_stop(race);
	race_check(_metadata, race, true);
	race_report("memory_decode", rounds, variant->delegated);
}

/* It takes no longer than it has to, and nobody gets to see it. */
TEST_F_TIMEOUT(vfio_pci_mmap_race_test, reset, RACE_TIMEOUT)
{
	const char *reason = vfio_pci_function_reset.missing(self->test.device);
	int round, rounds = race_rounds();
	struct race *race;

	if (reason)
		SKIP(return, "%s", reason);

	race = race_start(&self->test.source, racer_types(variant->delegated));
	for (round = 0; round < rounds; round++) {
		race_wait(race);
		vfio_pci_function_reset.take(self->test.device);
	}
	race_wait(race);
	race_stop(race);
	race_check(_metadata, race, false);
	race_report("reset", rounds, variant->delegated);
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
	bar_source_close(&self->test.source);
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
		race = race_start(&test->source, types);
		race_wait(race);
		race_phase(race, GOING);
		race_test_close_device(test);
		race_phase(race, AWAY);
		race_wait(race);
		if (unbind) {
			sysfs_driver_unbind(DRIVER, device_bdf);
			sysfs_driver_bind(DRIVER, device_bdf);
			race_wait(race);
		}
		/* That is another source, race->source is the old one. */
		ASSERT_EQ(NULL, race_test_open(test, true));
		race_wait(race);
		race_stop(race);
		bar_source_close(&race->source);
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
