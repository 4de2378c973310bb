// SPDX-License-Identifier: GPL-2.0-only
/*
 * Revoking a DMABUF races with everything that could get at its memory: as soon as
 * it is done, nothing does.
 */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <sys/mman.h>
#include <sys/wait.h>

#include <linux/compiler.h>
#include <linux/kernel.h>
#include <linux/pci_regs.h>
#include <linux/sizes.h>
#include <linux/vfio.h>

#include <asm/barrier.h>

#include <libvfio.h>

#include "kselftest_harness.h"

#define DRIVER		"vfio-pci"

/* How often each race is run: VFIO_SELFTESTS_RACE_ROUNDS asks for more, or less. */
#define RACE_ROUNDS	100

/* Seconds, to end a hang and nothing else: a round may take a second, or two. */
#define RACE_TIMEOUT	3600

/* As much as one huge page, where the BAR has that */
#define MAX_SIZE	SZ_2M

static const char *device_bdf;

static int race_rounds(void)
{
	const char *rounds = getenv("VFIO_SELFTESTS_RACE_ROUNDS");

	return rounds ? max(atoi(rounds), 1) : RACE_ROUNDS;
}

static void race_report(const char *name, int rounds)
{
	fprintf(TH_LOG_STREAM, "# races: revoke and %s %d rounds of a DMABUF\n", name, rounds);
}

/* What is known about the DMABUF, published as in vfio_pci_mmap_race_test */
enum phase {
	THERE,
	REVOKING,
	REVOKED,
	NR_PHASES,
};

enum racer_type {
	/* Threads */
	TOUCH,		/* a mapping that all share */
	MAP,		/* a new mapping each time */
	IMPORT,		/* have an importer map it and unmap it */
	RESET,		/* reset the device */
	DECODE,		/* switch its memory off and on */
	NR_THREADS,
	/* Processes, as they do something to their address space */
	TOUCH_CHILD = NR_THREADS,
	FORK,		/* have a child touch it */
	MREMAP,		/* move a mapping and touch it there */
	MUNMAP,		/* touch what is left of a mapping */
	NR_RACERS,
};

static bool is_event(enum racer_type type)
{
	return type == RESET || type == DECODE;
}

struct race;

struct racer {
	struct race *race;
	enum racer_type type;
	pthread_t thread;
	struct client client;
	/* Its own fd of the DMABUF, and a range of addresses for its mappings */
	struct mmap_target target;
	void *areas[2];
	bool running;
	u64 rounds;
	/* Accesses that did not find what the phase said, and the others */
	u64 wrong[NR_PHASES];
	u64 right[NR_PHASES];
};

/* Shared with the processes */
struct race {
	struct mmap_target target;
	void *vaddr;
	int importer;
	enum phase phase;
	bool stop;
	struct racer racers[NR_RACERS];
};

/* A mapping of its own, in the first of its areas */
static void map_area(struct racer *racer)
{
	const struct mmap_target *target = &racer->target;
	void *vaddr;
	int i;

	for (i = 0; i < ARRAY_SIZE(racer->areas); i++)
		racer->areas[i] = mmap_reserve(target->size, target->size, 0);
	vaddr = mmap(racer->areas[0], target->size, PROT_READ | PROT_WRITE,
		     MAP_SHARED | MAP_FIXED, target->fd, target->offset);
	VFIO_ASSERT_EQ(vaddr, racer->areas[0]);
}

static bool try_fork(void *vaddr)
{
	int status;
	pid_t pid;

	pid = fork();
	VFIO_ASSERT_GE(pid, 0);
	if (!pid)
		_exit(mmio_try_touch(vaddr));

	VFIO_ASSERT_EQ(waitpid(pid, &status, 0), pid);
	VFIO_ASSERT_TRUE(WIFEXITED(status));
	return WEXITSTATUS(status);
}

static bool try_mremap(struct racer *racer)
{
	const u64 size = racer->target.size;
	void *vaddr;

	vaddr = mremap(racer->areas[0], size, size, MREMAP_MAYMOVE | MREMAP_FIXED,
		       racer->areas[1]);
	VFIO_ASSERT_EQ(vaddr, racer->areas[1]);
	racer->areas[1] = racer->areas[0];
	racer->areas[0] = vaddr;
	return mmio_try_touch(vaddr + size - sizeof(u32));
}

/* Once the DMABUF is revoked there is no new mapping, and the last one stays as it is. */
static bool try_munmap(struct racer *racer)
{
	const u64 size = racer->target.size, half = size / 2;
	void *vaddr;
	bool ret;

	vaddr = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, racer->target.fd,
		     racer->target.offset);
	if (vaddr == MAP_FAILED) {
		VFIO_ASSERT_EQ(errno, ENODEV);
		return false;
	}
	mmio_try_touch(vaddr);
	VFIO_ASSERT_EQ(munmap(vaddr + half, half), 0);
	ret = mmio_try_touch(vaddr);
	VFIO_ASSERT_EQ(munmap(vaddr, half), 0);
	return ret;
}

static bool try_import(int importer)
{
	int ret = importer_map(importer);

	VFIO_ASSERT_TRUE(!ret || ret == -ENODEV);
	if (ret)
		return false;

	/* It may have been told to unmap meanwhile, and has done so. */
	ret = importer_unmap(importer);
	VFIO_ASSERT_TRUE(!ret || ret == -EINVAL);
	return true;
}

static bool racer_try(struct racer *racer)
{
	struct race *race = racer->race;

	switch (racer->type) {
	case MAP:
		return mmap_target_try_touch(&race->target);
	case IMPORT:
		return try_import(race->importer);
	case FORK:
		return try_fork(race->vaddr);
	case MREMAP:
		return try_mremap(racer);
	case MUNMAP:
		return try_munmap(racer);
	default:
		return mmio_try_touch(race->vaddr);
	}
}

static void *racer(void *arg)
{
	struct racer *racer = arg;
	struct race *race = racer->race;
	enum phase phase;
	bool ok;

	while (!READ_ONCE(race->stop)) {
		phase = READ_ONCE(race->phase);
		/* The access comes after this ... */
		mb();
		ok = racer_try(racer);
		/* ... and before that. Nothing is known if the phase changed. */
		mb();
		if (READ_ONCE(race->phase) == phase) {
			bool wrong = (phase == THERE && !ok) || (phase == REVOKED && ok);

			if (wrong)
				racer->wrong[phase]++;
			else
				racer->right[phase]++;
		}
		WRITE_ONCE(racer->rounds, racer->rounds + 1);
	}
	return NULL;
}

/* Do something with the device, again and again. */
static void *event_racer(void *arg)
{
	struct racer *racer = arg;
	struct vfio_pci_device *device = racer->target.device;

	while (!READ_ONCE(racer->race->stop)) {
		if (racer->type == RESET) {
			vfio_pci_function_reset.disable(device);
		} else {
			vfio_pci_memory_decode.disable(device);
			vfio_pci_memory_decode.enable(device);
		}
		WRITE_ONCE(racer->rounds, racer->rounds + 1);
	}
	return NULL;
}

static int racer_main(int sock, void *arg)
{
	struct racer *child = arg;

	child->target.fd = recv_fd(sock);
	if (child->type == MREMAP)
		map_area(child);
	racer(child);
	return 0;
}

static struct race *race_start(const struct mmap_target *target, unsigned int types, int importer)
{
	struct race *race;
	int i;

	race = mmap(NULL, sizeof(*race), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	VFIO_ASSERT_NE(race, MAP_FAILED);
	race->target = *target;
	race->target.fd = vfio_pci_dmabuf_export_range(target->device, target->bar, 0,
						       target->size);
	race->vaddr = mmap_target_map(&race->target, 0, target->size);
	race->importer = importer;
	if (types & 1U << IMPORT)
		VFIO_ASSERT_EQ(importer_attach(importer, race->target.fd, device_bdf,
					       VFIO_DMABUF_IMPORTER_UNMAP_DELAYED, 0), 0);

	/* No threads yet, so there is no lock that one of them could have. */
	for (i = NR_RACERS - 1; i >= 0; i--) {
		struct racer *new = &race->racers[i];

		new->race = race;
		new->type = i;
		new->target = race->target;
		new->running = types & (1U << i);
		if (!new->running)
			continue;

		if (i >= NR_THREADS) {
			new->client = client_start(racer_main, new);
			send_fd(new->client.sock, race->target.fd);
		} else {
			VFIO_ASSERT_EQ(pthread_create(&new->thread, NULL,
						      is_event(i) ? event_racer : racer,
						      new), 0);
		}
	}
	return race;
}

static void race_phase(struct race *race, enum phase phase)
{
	VFIO_ASSERT_EQ(race->phase + 1, phase);
	/* What makes it true comes before, what ends it comes after. */
	mb();
	WRITE_ONCE(race->phase, phase);
	/* Pairs with those of racer() */
	mb();
}

/* Each of the racers has done what takes place in this phase only, but for events. */
static void race_wait(struct race *race)
{
	u64 rounds[NR_RACERS];
	int i;

	for (i = 0; i < NR_RACERS; i++)
		rounds[i] = READ_ONCE(race->racers[i].rounds);

	for (i = 0; i < NR_RACERS; i++) {
		/* The first one may have begun before. A reset takes its time. */
		u64 nr = is_event(i) ? 1 : rounds[i] + 2;

		while (race->racers[i].running && READ_ONCE(race->racers[i].rounds) < nr)
			sched_yield();
	}
}

static void race_stop(struct race *race)
{
	int i;

	WRITE_ONCE(race->stop, true);
	for (i = 0; i < NR_RACERS; i++) {
		struct racer *racer = &race->racers[i];

		if (!racer->running)
			continue;
		if (i >= NR_THREADS)
			VFIO_ASSERT_EQ(client_wait(&racer->client), 0);
		else
			VFIO_ASSERT_EQ(pthread_join(racer->thread, NULL), 0);
	}
	VFIO_ASSERT_EQ(munmap(race->vaddr, race->target.size), 0);
	mmap_target_close(&race->target);
}

static void race_check(struct __test_metadata *_metadata, struct race *race)
{
	bool sometimes_there = race->racers[DECODE].running;
	int i;

	for (i = 0; i < NR_RACERS; i++) {
		struct racer *racer = &race->racers[i];

		if (!racer->running || is_event(i))
			continue;
		EXPECT_EQ(0, racer->wrong[REVOKED]) TH_LOG("racer %d", i);
		/* Or there was no race */
		EXPECT_NE(0, racer->right[REVOKED]) TH_LOG("racer %d", i);
		if (sometimes_there)
			continue;
		EXPECT_EQ(0, racer->wrong[THERE]) TH_LOG("racer %d", i);
		EXPECT_NE(0, racer->right[THERE]) TH_LOG("racer %d", i);
	}
	ASSERT_EQ(0, munmap(race, sizeof(*race)));
}

struct race_test {
	struct vfio_pci_device *device;
	/* The largest BAR, or the start of it */
	struct mmap_target target;
};

static const char *race_test_open(struct race_test *test)
{
	const char *reason;

	test->device = vfio_pci_device_open(device_bdf, default_iommu_mode);
	reason = vfio_pci_no_dmabuf_revoke(test->device);
	if (!reason)
		reason = mmap_target_open_largest(&test->target, test->device, true);
	if (reason)
		return reason;

	mmap_target_close(&test->target);
	test->target.size = min_t(u64, test->target.size, MAX_SIZE);
	return NULL;
}

static void race_test_close(struct race_test *test)
{
	vfio_pci_device_close(test->device);
	test->device = NULL;
}

FIXTURE(vfio_pci_dmabuf_revoke_race_test) {
	struct race_test test;
	int importer;
};

FIXTURE_VARIANT(vfio_pci_dmabuf_revoke_race_test) {
	const char *name;
	enum racer_type racer;
};

#define RACE(_name, _racer)							\
FIXTURE_VARIANT_ADD(vfio_pci_dmabuf_revoke_race_test, _name) {			\
	.name = #_name,								\
	.racer = _racer,							\
}

RACE(fault, TOUCH);
RACE(mmap, MAP);
RACE(fork, FORK);
RACE(mremap, MREMAP);
RACE(munmap, MUNMAP);
RACE(import, IMPORT);
RACE(reset, RESET);
RACE(memory_decode, DECODE);

FIXTURE_SETUP(vfio_pci_dmabuf_revoke_race_test)
{
	const char *reason = race_test_open(&self->test);

	if (!reason && variant->racer == IMPORT)
		reason = importer_missing();
	if (!reason && variant->racer == RESET)
		reason = vfio_pci_function_reset.unsupported(self->test.device);
	if (reason)
		SKIP(return, "%s", reason);

	self->importer = -1;
	if (variant->racer == IMPORT)
		self->importer = importer_open();
}

FIXTURE_TEARDOWN(vfio_pci_dmabuf_revoke_race_test)
{
	if (self->importer >= 0)
		importer_close(self->importer);
	race_test_close(&self->test);
}

TEST_F_TIMEOUT(vfio_pci_dmabuf_revoke_race_test, revoke, RACE_TIMEOUT)
{
	const unsigned int types = 1U << TOUCH | 1U << TOUCH_CHILD | 1U << variant->racer;
	int round, rounds = race_rounds();
	struct race *race;

	for (round = 0; round < rounds; round++) {
		race = race_start(&self->test.target, types, self->importer);
		race_wait(race);
		race_phase(race, REVOKING);
		vfio_pci_dmabuf_revoke(self->test.device, race->target.fd);
		race_phase(race, REVOKED);
		if (self->importer >= 0)
			ASSERT_EQ(0, importer_mapped(self->importer));
		race_wait(race);
		race_stop(race);
		if (self->importer >= 0)
			ASSERT_EQ(0, importer_detach(self->importer));
		race_check(_metadata, race);
	}
	race_report(variant->name, rounds);
}

/* Two that begin at the same time, one of them in a thread */
struct contender {
	struct vfio_pci_device *device;
	struct vfio_pci_device *close_device;
	pthread_barrier_t barrier;
	pthread_t thread;
	int fd;
	void *vaddr;
	int ret;
	bool touched;
};

static void contender_start(struct contender *contender, void *(*main)(void *arg))
{
	VFIO_ASSERT_EQ(pthread_barrier_init(&contender->barrier, NULL, 2), 0);
	VFIO_ASSERT_EQ(pthread_create(&contender->thread, NULL, main, contender), 0);
	pthread_barrier_wait(&contender->barrier);
}

static void contender_finish(struct contender *contender)
{
	VFIO_ASSERT_EQ(pthread_join(contender->thread, NULL), 0);
	VFIO_ASSERT_EQ(pthread_barrier_destroy(&contender->barrier), 0);
}

static void *revoke_contender(void *arg)
{
	struct contender *contender = arg;

	pthread_barrier_wait(&contender->barrier);
	contender->ret = __vfio_pci_dmabuf_revoke(contender->device, contender->fd);
	contender->touched = mmio_try_touch(contender->vaddr);
	return NULL;
}

static void *close_contender(void *arg)
{
	struct contender *contender = arg;

	pthread_barrier_wait(&contender->barrier);
	VFIO_ASSERT_EQ(close(contender->fd), 0);
	return NULL;
}

static void *close_device_contender(void *arg)
{
	struct contender *contender = arg;

	pthread_barrier_wait(&contender->barrier);
	vfio_pci_device_close(contender->close_device);
	return NULL;
}

FIXTURE(vfio_pci_dmabuf_revoke_contest_test) {
	struct race_test test;
	struct contender contender;
	struct client unbinder;
};

FIXTURE_SETUP(vfio_pci_dmabuf_revoke_contest_test)
{
	const char *reason;

	sysfs_driver_restore(DRIVER, device_bdf);
	reason = race_test_open(&self->test);
	if (reason)
		SKIP(return, "%s", reason);
}

FIXTURE_TEARDOWN(vfio_pci_dmabuf_revoke_contest_test)
{
	if (self->test.device)
		race_test_close(&self->test);
	if (self->unbinder.pid)
		client_finish(&self->unbinder);
	sysfs_driver_restore(DRIVER, device_bdf);
}

#define contest_data		FIXTURE_DATA(vfio_pci_dmabuf_revoke_contest_test)

/* A new DMABUF, mapped */
static void contest_prepare(contest_data *self)
{
	const struct mmap_target *target = &self->test.target;

	self->contender = (struct contender) {
		.device = self->test.device,
		.fd = vfio_pci_dmabuf_export_range(self->test.device, target->bar, 0,
						   target->size),
	};
	self->contender.vaddr = mmap(NULL, target->size, PROT_READ, MAP_SHARED,
				     self->contender.fd, 0);
	VFIO_ASSERT_NE(self->contender.vaddr, MAP_FAILED);
	VFIO_ASSERT_TRUE(mmio_try_touch(self->contender.vaddr));
}

static void contest_end(contest_data *self)
{
	VFIO_ASSERT_EQ(munmap(self->contender.vaddr, self->test.target.size), 0);
}

TEST_F_TIMEOUT(vfio_pci_dmabuf_revoke_contest_test, revoke, RACE_TIMEOUT)
{
	struct contender *contender = &self->contender;
	int round, rounds = race_rounds(), ret;

	for (round = 0; round < rounds; round++) {
		contest_prepare(self);
		contender_start(contender, revoke_contender);
		ret = __vfio_pci_dmabuf_revoke(self->test.device, contender->fd);
		ASSERT_FALSE(mmio_try_touch(contender->vaddr));
		contender_finish(contender);

		ASSERT_FALSE(contender->touched);
		ASSERT_TRUE((!ret && contender->ret == -EBADFD) ||
			    (ret == -EBADFD && !contender->ret));
		ASSERT_EQ(0, close(contender->fd));
		contest_end(self);
	}
	race_report("revoke", rounds);
}

/* The fd of the DMABUF is closed, and in every other round that is the end of it. */
TEST_F_TIMEOUT(vfio_pci_dmabuf_revoke_contest_test, close, RACE_TIMEOUT)
{
	struct contender *contender = &self->contender;
	int round, rounds = race_rounds(), ret;

	for (round = 0; round < rounds; round++) {
		contest_prepare(self);
		if (round % 2)
			contest_end(self);
		contender_start(contender, close_contender);
		ret = __vfio_pci_dmabuf_revoke(self->test.device, contender->fd);
		ASSERT_TRUE(!ret || ret == -EBADF);
		if (!(round % 2)) {
			ASSERT_EQ(ret == -EBADF, mmio_try_touch(contender->vaddr));
			contest_end(self);
		}
		contender_finish(contender);
	}
	race_report("close", rounds);
}

static int unbind_main(int sock, void *arg)
{
	/* It has closed what it was started with, the device among that. */
	client_sync(sock);
	sysfs_driver_unbind(DRIVER, device_bdf);
	return 0;
}

/*
 * The device is closed, by which the DMABUF is revoked as well. Where a driver is
 * waiting to be unbound, all of the device is gone then.
 */
static void race_with_last_close(struct __test_metadata *_metadata, contest_data *self,
				 int rounds, bool unbind)
{
	struct contender *contender = &self->contender;
	struct vfio_pci_device copy = {};
	int round, ret;

	for (round = 0; round < rounds; round++) {
		if (unbind) {
			self->unbinder = client_start(unbind_main, NULL);
			client_sync(self->unbinder.sock);
		}
		contest_prepare(self);
		/* The other one frees what it closes. */
		copy.fd = self->test.device->fd;
		contender->close_device = self->test.device;
		self->test.device = NULL;

		contender_start(contender, close_device_contender);
		ret = __vfio_pci_dmabuf_revoke(&copy, contender->fd);
		ASSERT_TRUE(!ret || ret == -EBADF);
		if (!ret)
			ASSERT_FALSE(mmio_try_touch(contender->vaddr));
		contender_finish(contender);
		ASSERT_FALSE(mmio_try_touch(contender->vaddr));

		if (unbind) {
			ASSERT_EQ(0, client_finish(&self->unbinder));
			ASSERT_FALSE(mmio_try_touch(contender->vaddr));
			sysfs_driver_bind(DRIVER, device_bdf);
		}
		ASSERT_EQ(NULL, race_test_open(&self->test));
		ASSERT_EQ(-ENODEV, __vfio_pci_dmabuf_revoke(self->test.device, contender->fd));
		ASSERT_FALSE(mmio_try_touch(contender->vaddr));
		ASSERT_EQ(0, close(contender->fd));
		contest_end(self);
	}
}

/* A close takes a second on a slow kernel, so there are fewer rounds of these. */
TEST_F_TIMEOUT(vfio_pci_dmabuf_revoke_contest_test, last_close, RACE_TIMEOUT)
{
	int rounds = DIV_ROUND_UP(race_rounds(), 10);

	race_with_last_close(_metadata, self, rounds, false);
	race_report("last close", rounds);
}

TEST_F_TIMEOUT(vfio_pci_dmabuf_revoke_contest_test, unbind, RACE_TIMEOUT)
{
	int rounds = DIV_ROUND_UP(race_rounds(), 4);

	race_with_last_close(_metadata, self, rounds, true);
	race_report("unbind", rounds);
}

int main(int argc, char *argv[])
{
	device_bdf = vfio_selftests_get_bdf(&argc, argv);
	return test_harness_run(argc, argv);
}
