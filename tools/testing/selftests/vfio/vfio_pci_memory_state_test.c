// SPDX-License-Identifier: GPL-2.0-only
/*
 * When the memory of a device is disabled, the mappings of it are revoked, and
 * when it is enabled again they are restored: of each BAR, made through the
 * device's fd or through a DMABUF, before or meanwhile.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <sys/mman.h>
#include <sys/resource.h>

#include <linux/compiler.h>
#include <linux/pci_regs.h>
#include <linux/vfio.h>

#include <libvfio.h>

#include "kselftest_harness.h"

static const char *device_bdf;

struct mapping {
	struct mmap_target target;
	void *vaddr;
};

struct state {
	struct vfio_pci_device *device;
	struct mmap_target targets[MAX_MMAP_TARGETS];
	/* One of each, and one at the end that has no vaddr */
	struct mapping mappings[PCI_STD_NUM_BARS + 1];
	size_t page_size;
};

/* Map each BAR. Returns why the test cannot be done, or NULL. */
static const char *state_setup(struct state *state, const char *iommu_mode,
			       const struct vfio_pci_memory_event *event, bool dmabuf)
{
	struct mapping *mapping = state->mappings;
	struct mmap_target *target;
	const char *reason;

	state->page_size = getpagesize();
	state->device = vfio_pci_device_open(device_bdf, iommu_mode);

	reason = event->unsupported(state->device);
	if (reason)
		return reason;
	reason = mmap_targets_open(state->targets, state->device, dmabuf);
	if (reason)
		return reason;

	for (target = state->targets; target->size; target++) {
		mapping->target = *target;
		mapping->vaddr = mmap_target_map(target, 0, target->size);
		mapping++;
	}
	return NULL;
}

static void state_teardown(struct state *state)
{
	struct mapping *mapping;

	for (mapping = state->mappings; mapping->vaddr; mapping++)
		VFIO_ASSERT_EQ(munmap(mapping->vaddr, mapping->target.size), 0);
	mmap_targets_close(state->targets);
	vfio_pci_device_close(state->device);
}

static bool is_reachable(const struct mapping *mapping, u32 value)
{
	void *last = mapping->vaddr + mapping->target.size - sizeof(u32);

	return target_try_write(&mapping->target, mapping->vaddr, value) &&
	       target_try_check(&mapping->target, mapping->vaddr, value) &&
	       mmio_try_touch(last);
}

static bool is_unreachable(const struct mapping *mapping)
{
	void *last = mapping->vaddr + mapping->target.size - sizeof(u32);

	return !mmio_try_touch(mapping->vaddr + mapping->target.scratch.offset) &&
	       !mmio_try_write(mapping->vaddr + mapping->target.scratch.offset, 0) &&
	       !mmio_try_touch(last);
}

static void zap_and_refault(struct __test_metadata *_metadata, struct state *state,
			    const struct vfio_pci_memory_event *event)
{
	struct mapping *mapping;
	int round;

	for (round = 0; round < 2; round++) {
		for (mapping = state->mappings; mapping->vaddr; mapping++) {
			size_t last = mapping->target.size - state->page_size;

			ASSERT_TRUE(is_reachable(mapping, 0x12345678 + round));
			ASSERT_EQ(0, mmio_count_faults(mapping->vaddr, 1, 1));
			ASSERT_EQ(0, mmio_count_faults(mapping->vaddr + last, 1, 1));
		}

		event->disable(state->device);
		if (event->enable) {
			for (mapping = state->mappings; mapping->vaddr; mapping++) {
				ASSERT_TRUE(is_unreachable(mapping))
					TH_LOG("BAR%d", mapping->target.bar);
			}
			event->enable(state->device);
		}

		/* The old page table entries did not survive either. */
		for (mapping = state->mappings; mapping->vaddr; mapping++) {
			ASSERT_EQ(1, mmio_count_faults(mapping->vaddr, 1, 1))
				TH_LOG("BAR%d", mapping->target.bar);
			ASSERT_TRUE(is_reachable(mapping, 0x87654321 + round))
				TH_LOG("BAR%d", mapping->target.bar);
		}
	}
}

/* A mapping in a place of its own: moved, and with a hole */
static void zap_moved_and_split(struct __test_metadata *_metadata, struct state *state,
				const struct vfio_pci_memory_event *event)
{
	struct mapping *mapping;

	if (mmap_targets_max_size(state->targets) < 3 * state->page_size)
		SKIP(return, "No BAR has 3 pages");

	for (mapping = state->mappings; mapping->vaddr; mapping++) {
		size_t size = mapping->target.size, last = size - state->page_size;
		void *to;

		if (size < 3 * state->page_size)
			continue;

		to = mmap_reserve(size, state->page_size, 0);
		ASSERT_EQ(to, mremap(mapping->vaddr, size, size,
				     MREMAP_MAYMOVE | MREMAP_FIXED, to));
		mapping->vaddr = to;
		ASSERT_TRUE(is_reachable(mapping, 0x01010101));
		ASSERT_EQ(0, munmap(to + state->page_size, state->page_size));

		event->disable(state->device);
		if (event->enable) {
			ASSERT_TRUE(is_unreachable(mapping));
			event->enable(state->device);
		}
		ASSERT_EQ(1, mmio_count_faults(to, 1, 1));
		ASSERT_EQ(1, mmio_count_faults(to + last, 1, 1));
		ASSERT_TRUE(is_reachable(mapping, 0x02020202));
	}
}

/* The memory is disabled until something enables it. */
FIXTURE(vfio_pci_memory_disabled_test) {
	struct state state;
};

FIXTURE_VARIANT(vfio_pci_memory_disabled_test) {
	const struct vfio_pci_memory_event *event;
	const char *iommu_mode;
	bool dmabuf;
};

/*
 * What disables the memory does not know how the device was opened. A hot reset
 * does, and of the others one each is enough.
 */
#define AWAY(_variant) FIXTURE_VARIANT_ADD(vfio_pci_memory_disabled_test, _variant)

AWAY(bar_memory_decode_group) { &vfio_pci_memory_decode, MODE_VFIO_TYPE1V2_IOMMU, false };
AWAY(bar_memory_decode_iommufd) { &vfio_pci_memory_decode, MODE_IOMMUFD, false };
AWAY(bar_d3hot_iommufd) { &vfio_pci_d3hot, MODE_IOMMUFD, false };
AWAY(bar_external_reset_iommufd) { &vfio_pci_external_reset, MODE_IOMMUFD, false };
AWAY(bar_low_power_iommufd) { &vfio_pci_low_power, MODE_IOMMUFD, false };
AWAY(dmabuf_memory_decode_iommufd) { &vfio_pci_memory_decode, MODE_IOMMUFD, true };
AWAY(dmabuf_d3hot_iommufd) { &vfio_pci_d3hot, MODE_IOMMUFD, true };
AWAY(dmabuf_external_reset_iommufd) { &vfio_pci_external_reset, MODE_IOMMUFD, true };
AWAY(dmabuf_low_power_iommufd) { &vfio_pci_low_power, MODE_IOMMUFD, true };

FIXTURE_SETUP(vfio_pci_memory_disabled_test)
{
	const char *reason = state_setup(&self->state, variant->iommu_mode, variant->event,
					 variant->dmabuf);

	if (reason)
		SKIP(return, "%s", reason);
}

FIXTURE_TEARDOWN(vfio_pci_memory_disabled_test)
{
	state_teardown(&self->state);
}

TEST_F(vfio_pci_memory_disabled_test, zap_and_refault)
{
	zap_and_refault(_metadata, &self->state, variant->event);
}

TEST_F(vfio_pci_memory_disabled_test, zap_moved_and_split)
{
	zap_moved_and_split(_metadata, &self->state, variant->event);
}

/* What is mapped while the memory is disabled is no exception, but no error. */
TEST_F(vfio_pci_memory_disabled_test, mmap_while_disabled)
{
	const struct vfio_pci_memory_event *event = variant->event;
	struct state *state = &self->state;
	struct mapping *old, late;

	for (old = state->mappings; old->vaddr; old++) {
		event->disable(state->device);
		ASSERT_EQ(NULL, mmap_target_open(&late.target, state->device, old->target.bar,
						 variant->dmabuf));
		late.vaddr = mmap_target_map(&late.target, 0, late.target.size);
		ASSERT_TRUE(is_unreachable(&late));
		ASSERT_TRUE(is_unreachable(old));

		event->enable(state->device);
		ASSERT_TRUE(is_reachable(&late, 0x1a7e1a7e));
		ASSERT_TRUE(is_reachable(old, 0x01d01d01));
		ASSERT_EQ(0, munmap(late.vaddr, late.target.size));
		mmap_target_close(&late.target);
	}
}

/* The memory is disabled only for a while. */
FIXTURE(vfio_pci_reset_test) {
	struct state state;
};

FIXTURE_VARIANT(vfio_pci_reset_test) {
	const struct vfio_pci_memory_event *event;
	const char *iommu_mode;
	bool dmabuf;
};

#define RESET(_variant) FIXTURE_VARIANT_ADD(vfio_pci_reset_test, _variant)

RESET(bar_function_reset_group) { &vfio_pci_function_reset, MODE_VFIO_TYPE1V2_IOMMU, false };
RESET(bar_function_reset_iommufd) { &vfio_pci_function_reset, MODE_IOMMUFD, false };
RESET(bar_hot_reset_group) { &vfio_pci_hot_reset, MODE_VFIO_TYPE1V2_IOMMU, false };
RESET(bar_hot_reset_iommufd) { &vfio_pci_hot_reset, MODE_IOMMUFD, false };
RESET(bar_flr_iommufd) { &vfio_pci_flr, MODE_IOMMUFD, false };
RESET(dmabuf_function_reset_iommufd) { &vfio_pci_function_reset, MODE_IOMMUFD, true };
RESET(dmabuf_hot_reset_iommufd) { &vfio_pci_hot_reset, MODE_IOMMUFD, true };
RESET(dmabuf_flr_iommufd) { &vfio_pci_flr, MODE_IOMMUFD, true };

FIXTURE_SETUP(vfio_pci_reset_test)
{
	const char *reason = state_setup(&self->state, variant->iommu_mode, variant->event,
					 variant->dmabuf);

	if (reason)
		SKIP(return, "%s", reason);
}

FIXTURE_TEARDOWN(vfio_pci_reset_test)
{
	state_teardown(&self->state);
}

TEST_F(vfio_pci_reset_test, zap_and_refault)
{
	zap_and_refault(_metadata, &self->state, variant->event);
}

TEST_F(vfio_pci_reset_test, zap_moved_and_split)
{
	zap_moved_and_split(_metadata, &self->state, variant->event);
}

/* Touch a mapping until it is told to stop, and count what went wrong. */
struct toucher {
	const struct mapping *mapping;
	pid_t tid;
	u64 touched;
	u64 sigbus;
	bool stop;
};

static void *touch(void *arg)
{
	struct toucher *toucher = arg;

	toucher->tid = gettid();
	do {
		if (!mmio_try_touch(toucher->mapping->vaddr))
			toucher->sigbus++;
		WRITE_ONCE(toucher->touched, toucher->touched + 1);
	} while (!READ_ONCE(toucher->stop));

	return NULL;
}

/*
 * A guest may reset a device with one CPU and look at it with another. While
 * the memory is disabled for a reset only, whoever touches it has to wait.
 */
TEST_F(vfio_pci_reset_test, fault_waits_for_reset)
{
	struct state *state = &self->state;
	struct mapping *mapping;
	pthread_t thread;
	int i;

	for (mapping = state->mappings; mapping->vaddr; mapping++) {
		struct toucher toucher = {
			.mapping = mapping,
		};
		u64 before;

		ASSERT_EQ(0, pthread_create(&thread, NULL, touch, &toucher));
		for (i = 0; i < 2; i++) {
			before = READ_ONCE(toucher.touched);
			while (READ_ONCE(toucher.touched) == before)
				sched_yield();
			variant->event->disable(state->device);
		}
		WRITE_ONCE(toucher.stop, true);
		ASSERT_EQ(0, pthread_join(thread, NULL));
		ASSERT_EQ(0, toucher.sigbus) TH_LOG("BAR%d", mapping->target.bar);
		ASSERT_TRUE(is_reachable(mapping, 0x70c4ed));
	}
}

/* How often this thread has gone to sleep */
static long nr_sleeps(void)
{
	struct rusage usage;

	VFIO_ASSERT_EQ(getrusage(RUSAGE_THREAD, &usage), 0);
	return usage.ru_nvcsw;
}

/* After so many resets that were over before they went to sleep none will. */
#define MAX_WITHOUT_SLEEP 10

/* Send a signal to a thread each time it waits during a reset. */
struct signaller {
	pid_t tid;
	bool stop;
};

static bool resetting;
/* How many of these signals were handled, and how many of them during a reset */
static u64 nr_signals, nr_signals_in_reset;

static void count_signal(int sig)
{
	if (READ_ONCE(resetting))
		WRITE_ONCE(nr_signals_in_reset, nr_signals_in_reset + 1);
	WRITE_ONCE(nr_signals, nr_signals + 1);
}

/* The wait of a page fault that no signal interrupts is an uninterruptible one. */
static bool thread_sleeps_interruptibly(int stat_fd)
{
	char stat[512] = {}, *state;

	VFIO_ASSERT_GT(pread(stat_fd, stat, sizeof(stat) - 1, 0), 0);
	/* "TID (NAME) STATE ..." */
	state = strrchr(stat, ')');
	VFIO_ASSERT_NOT_NULL(state);
	return state[2] == 'S';
}

static void *send_signals(void *arg)
{
	struct signaller *signaller = arg;
	char path[64];
	u64 before;
	int fd;

	snprintf_assert(path, sizeof(path), "/proc/self/task/%d/stat", signaller->tid);
	fd = open(path, O_RDONLY);
	VFIO_ASSERT_GE(fd, 0);

	while (!READ_ONCE(signaller->stop)) {
		if (READ_ONCE(resetting) && thread_sleeps_interruptibly(fd)) {
			before = READ_ONCE(nr_signals);
			VFIO_ASSERT_EQ(tgkill(getpid(), signaller->tid, SIGUSR1), 0);
			while (READ_ONCE(nr_signals) == before)
				usleep(100);
		}
		usleep(100);
	}
	VFIO_ASSERT_EQ(close(fd), 0);
	return NULL;
}

/*
 * Signals are how a VMM gets hold of the thread of a vCPU, and one that waits for
 * the end of a reset in a page fault has to handle them, and then waits again.
 */
#define MIN_SIGNALS 5

TEST_F(vfio_pci_reset_test, fault_is_interruptible)
{
	const char *reason = vfio_pci_no_dmabuf_mmap(self->state.device);
	struct sigaction action = {
		.sa_handler = count_signal,
	};
	struct toucher toucher = {
		.mapping = &self->state.mappings[0],
	};
	struct signaller signaller = {};
	pthread_t touching, sending;
	long before, sleeps = 0;
	int try;

	/* This came with the mappings of DMABUFs. */
	if (reason)
		SKIP(return, "%s", reason);

	ASSERT_EQ(0, sigaction(SIGUSR1, &action, NULL));
	ASSERT_EQ(0, pthread_create(&touching, NULL, touch, &toucher));
	while (!READ_ONCE(toucher.touched))
		sched_yield();
	signaller.tid = toucher.tid;
	ASSERT_EQ(0, pthread_create(&sending, NULL, send_signals, &signaller));

	/* A machine that is slow or busy may not get far in one short reset. */
	for (try = 0; try < 100 && READ_ONCE(nr_signals_in_reset) < MIN_SIGNALS; try++) {
		before = nr_sleeps();
		WRITE_ONCE(resetting, true);
		variant->event->disable(self->state.device);
		WRITE_ONCE(resetting, false);
		sleeps += nr_sleeps() - before;
		TH_LOG("%lu signals in resets so far, which slept %ld times",
		       READ_ONCE(nr_signals_in_reset), sleeps);
		if (try >= MAX_WITHOUT_SLEEP && !sleeps)
			break;
	}

	WRITE_ONCE(signaller.stop, true);
	ASSERT_EQ(0, pthread_join(sending, NULL));
	WRITE_ONCE(toucher.stop, true);
	ASSERT_EQ(0, pthread_join(touching, NULL));
	ASSERT_EQ(0, toucher.sigbus);
	if (!sleeps)
		SKIP(return, "The reset does not sleep");
	ASSERT_LE(MIN_SIGNALS, READ_ONCE(nr_signals_in_reset));
}

/* Map and unmap until told to stop, and count what was done during a reset. */
struct mapper {
	const struct mmap_target *target;
	u64 rounds;
	u64 rounds_in_reset;
	bool resetting;
	bool stop;
};

static void *map_and_unmap(void *arg)
{
	const size_t page_size = getpagesize();
	struct mapper *mapper = arg;
	bool resetting;
	void *vaddr;

	while (!READ_ONCE(mapper->stop)) {
		resetting = READ_ONCE(mapper->resetting);
		vaddr = mmap_target_map(mapper->target, 0, page_size);
		VFIO_ASSERT_EQ(munmap(vaddr, page_size), 0);
		if (resetting && READ_ONCE(mapper->resetting))
			mapper->rounds_in_reset++;
		WRITE_ONCE(mapper->rounds, mapper->rounds + 1);
	}
	return NULL;
}

/*
 * A reset holds memory_lock, and mmap() must not take it. Count what another
 * thread maps during a reset: on the same CPU and with less priority, so that it
 * is the sleeps of the reset in which it runs, and no moment before or after. If
 * mmap() took the lock it could not get through a single one.
 */
TEST_F(vfio_pci_reset_test, mmap_does_not_wait)
{
	struct sched_param fifo = { .sched_priority = 1 };
	struct sched_param other = {};
	struct mapper mapper = {
		.target = &self->state.mappings[0].target,
	};
	pthread_t thread;
	cpu_set_t cpus;
	u64 rounds = 0;
	long before, sleeps = 0;
	int try;

	CPU_ZERO(&cpus);
	CPU_SET(sched_getcpu(), &cpus);
	ASSERT_EQ(0, sched_setaffinity(0, sizeof(cpus), &cpus));
	ASSERT_EQ(0, pthread_create(&thread, NULL, map_and_unmap, &mapper));
	ASSERT_EQ(0, sched_setscheduler(0, SCHED_FIFO, &fifo));

	/* A machine that is slow or busy may not get far in one short reset. */
	for (try = 0; try < 100 && rounds < 2; try++) {
		/* It is there, and not in the middle of something that takes long. */
		do {
			usleep(1000);
		} while (!READ_ONCE(mapper.rounds));

		before = nr_sleeps();
		WRITE_ONCE(mapper.resetting, true);
		variant->event->disable(self->state.device);
		WRITE_ONCE(mapper.resetting, false);
		sleeps += nr_sleeps() - before;
		rounds = READ_ONCE(mapper.rounds_in_reset);
		TH_LOG("%lu times mmap() so far, in resets that slept %ld times", rounds, sleeps);
		if (try >= MAX_WITHOUT_SLEEP && !sleeps)
			break;
	}

	ASSERT_EQ(0, sched_setscheduler(0, SCHED_OTHER, &other));
	WRITE_ONCE(mapper.stop, true);
	ASSERT_EQ(0, pthread_join(thread, NULL));
	if (!sleeps)
		SKIP(return, "The reset does not sleep");
	ASSERT_LE(2, rounds);
}

/* Memory decode is disabled and something else happens, whose end is not enough. */
FIXTURE(vfio_pci_memory_disabled_twice_test) {
	struct state state;
};

FIXTURE_VARIANT(vfio_pci_memory_disabled_twice_test) {
	const struct vfio_pci_memory_event *event;
	const char *iommu_mode;
	bool dmabuf;
};

#define DISABLED_TWICE(_variant) FIXTURE_VARIANT_ADD(vfio_pci_memory_disabled_twice_test, _variant)

DISABLED_TWICE(bar_d3hot_iommufd) { &vfio_pci_d3hot, MODE_IOMMUFD, false };
DISABLED_TWICE(bar_low_power_iommufd) { &vfio_pci_low_power, MODE_IOMMUFD, false };
DISABLED_TWICE(bar_function_reset_iommufd) { &vfio_pci_function_reset, MODE_IOMMUFD, false };
DISABLED_TWICE(bar_hot_reset_iommufd) { &vfio_pci_hot_reset, MODE_IOMMUFD, false };
DISABLED_TWICE(bar_flr_iommufd) { &vfio_pci_flr, MODE_IOMMUFD, false };
DISABLED_TWICE(dmabuf_d3hot_iommufd) { &vfio_pci_d3hot, MODE_IOMMUFD, true };
DISABLED_TWICE(dmabuf_low_power_iommufd) { &vfio_pci_low_power, MODE_IOMMUFD, true };
DISABLED_TWICE(dmabuf_function_reset_iommufd) { &vfio_pci_function_reset, MODE_IOMMUFD, true };
DISABLED_TWICE(dmabuf_hot_reset_iommufd) { &vfio_pci_hot_reset, MODE_IOMMUFD, true };
DISABLED_TWICE(dmabuf_flr_iommufd) { &vfio_pci_flr, MODE_IOMMUFD, true };

FIXTURE_SETUP(vfio_pci_memory_disabled_twice_test)
{
	const char *reason = state_setup(&self->state, variant->iommu_mode, variant->event,
					 variant->dmabuf);

	if (reason)
		SKIP(return, "%s", reason);
}

FIXTURE_TEARDOWN(vfio_pci_memory_disabled_twice_test)
{
	state_teardown(&self->state);
}

TEST_F(vfio_pci_memory_disabled_twice_test, stays_disabled_until_both_end)
{
	const struct vfio_pci_memory_event *decode = &vfio_pci_memory_decode;
	const struct vfio_pci_memory_event *event = variant->event;
	struct state *state = &self->state;
	struct mapping *mapping;

	for (mapping = state->mappings; mapping->vaddr; mapping++)
		ASSERT_TRUE(is_reachable(mapping, 0x11223344));

	decode->disable(state->device);
	event->disable(state->device);
	for (mapping = state->mappings; mapping->vaddr; mapping++)
		ASSERT_TRUE(is_unreachable(mapping));
	if (event->enable)
		event->enable(state->device);
	for (mapping = state->mappings; mapping->vaddr; mapping++) {
		ASSERT_TRUE(is_unreachable(mapping))
			TH_LOG("BAR%d", mapping->target.bar);
	}

	decode->enable(state->device);
	for (mapping = state->mappings; mapping->vaddr; mapping++) {
		ASSERT_TRUE(is_reachable(mapping, 0x44332211))
			TH_LOG("BAR%d", mapping->target.bar);
	}
}

int main(int argc, char *argv[])
{
	device_bdf = vfio_selftests_get_bdf(&argc, argv);
	return test_harness_run(argc, argv);
}
