// SPDX-License-Identifier: GPL-2.0-only
/*
 * Accesses, mmap() and exports race with what takes the device's memory away
 * and gives it back. The memory is never there when it has been taken, always
 * when it has been given back, and none of the two makes the other wait.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include <linux/compiler.h>
#include <linux/pci_regs.h>
#include <linux/userfaultfd.h>
#include <linux/vfio.h>

#include <asm/barrier.h>

#include <libvfio.h>

#include "kselftest_harness.h"

#define DRIVER		"vfio-pci"
#define NSEC_PER_SEC	1000000000ULL
#define NSEC_PER_MSEC	1000000ULL

/* Time for each race, and more rounds on request */
#define RACE_SECONDS	1

static const char *device_bdf;

static u64 now_ns(void)
{
	struct timespec ts;

	VFIO_ASSERT_EQ(clock_gettime(CLOCK_MONOTONIC, &ts), 0);
	return ts.tv_sec * NSEC_PER_SEC + ts.tv_nsec;
}

static u64 race_end(void)
{
	const char *seconds = getenv("VFIO_SELFTESTS_RACE_SECONDS");

	return now_ns() + (seconds ? atoi(seconds) : RACE_SECONDS) * NSEC_PER_SEC;
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

static bool try_new_mapping(const struct bar_source *source)
{
	const size_t page_size = getpagesize();
	void *vaddr;
	bool ret;

	vaddr = mmap(NULL, page_size, PROT_READ | PROT_WRITE, MAP_SHARED, source->fd,
		     source->offset);
	if (vaddr == MAP_FAILED) {
		VFIO_ASSERT_EQ(errno, ENODEV);
		return false;
	}
	ret = mmio_try_touch(vaddr);
	VFIO_ASSERT_EQ(munmap(vaddr, page_size), 0);
	return ret;
}

static bool try_new_dmabuf(struct bar_source *source)
{
	struct bar_source new = *source;
	bool ret;

	new.fd = vfio_pci_dmabuf_export_range(source->device, source->bar, 0, getpagesize());
	ret = try_new_mapping(&new);
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
			ok = try_new_mapping(&race->source);
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

FIXTURE(vfio_pci_mmap_race_test) {
	struct iommu *iommu;
	struct vfio_pci_device *device;
	struct bar_source source;
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

#define fixture_data		FIXTURE_DATA(vfio_pci_mmap_race_test)

/* Open the device and its largest BAR. Returns why there is none, or NULL. */
static const char *race_open(fixture_data *self, bool delegated)
{
	const char *reason = "The device has no BAR", *missing;
	u64 size = 0;
	int bar;

	self->iommu = iommu_init(default_iommu_mode);
	self->device = vfio_pci_device_init(device_bdf, self->iommu);
	vfio_pci_bar_unmap_all(self->device);
	vfio_pci_cmd_set(self->device, PCI_COMMAND_MEMORY);

	for (bar = 0; bar < PCI_STD_NUM_BARS; bar++) {
		if (self->device->bars[bar].info.size <= size)
			continue;
		if (size)
			bar_source_close(&self->source);
		missing = bar_source_open(&self->source, self->device, bar, delegated);
		if (missing) {
			if (size)
				return missing;
			reason = missing;
			continue;
		}
		size = self->device->bars[bar].info.size;
	}
	return size ? NULL : reason;
}

static void race_close_device(fixture_data *self)
{
	vfio_pci_device_cleanup(self->device);
	iommu_cleanup(self->iommu);
}

FIXTURE_SETUP(vfio_pci_mmap_race_test)
{
	const char *reason = race_open(self, variant->delegated);

	if (reason)
		SKIP(return, "%s", reason);
}

FIXTURE_TEARDOWN(vfio_pci_mmap_race_test)
{
	bar_source_close(&self->source);
	race_close_device(self);
}

static unsigned int racer_types(bool delegated)
{
	unsigned int types = 1U << TOUCH | 1U << TOUCH_CHILD | 1U << MAP;

	return delegated ? types | 1U << EXPORT : types;
}

TEST_F_TIMEOUT(vfio_pci_mmap_race_test, memory_decode, 1800)
{
	struct race *race = race_start(&self->source, racer_types(variant->delegated));
	u64 end = race_end();
	int rounds = 0;

	do {
		race_wait(race);
		race_phase(race, GOING);
		vfio_pci_memory_decode.take(self->device);
		race_phase(race, AWAY);
		race_wait(race);
		race_phase(race, COMING);
		vfio_pci_memory_decode.give(self->device);
		race_phase(race, THERE);
		rounds++;
	} while (now_ns() < end);
	race_wait(race);
	race_stop(race);
	TH_LOG("%d rounds", rounds);
	race_check(_metadata, race, true);
}

/* It takes no longer than it has to, and nobody gets to see it. */
TEST_F_TIMEOUT(vfio_pci_mmap_race_test, reset, 1800)
{
	const char *reason = vfio_pci_function_reset.missing(self->device);
	u64 end = race_end();
	struct race *race;
	int rounds = 0;

	if (reason)
		SKIP(return, "%s", reason);

	race = race_start(&self->source, racer_types(variant->delegated));
	do {
		race_wait(race);
		vfio_pci_function_reset.take(self->device);
		rounds++;
	} while (now_ns() < end);
	race_wait(race);
	race_stop(race);
	TH_LOG("%d rounds", rounds);
	race_check(_metadata, race, false);
}

/*
 * The last close is for good: right after it nobody can reach the memory, be
 * the device opened once more or not.
 */
static void race_with_close(struct __test_metadata *_metadata, fixture_data *self, bool unbind)
{
	unsigned int types = 1U << TOUCH | 1U << TOUCH_CHILD | 1U << MAP;
	u64 end = race_end();
	struct race *race;
	int rounds = 0;

	do {
		race = race_start(&self->source, types);
		race_wait(race);
		race_phase(race, GOING);
		race_close_device(self);
		race_phase(race, AWAY);
		race_wait(race);
		if (unbind) {
			sysfs_driver_unbind(DRIVER, device_bdf);
			sysfs_driver_bind(DRIVER, device_bdf);
		}
		/* That is another source, race->source is the old one. */
		ASSERT_EQ(NULL, race_open(self, true));
		race_wait(race);
		race_stop(race);
		bar_source_close(&race->source);
		race_check(_metadata, race, true);
		rounds++;
	} while (now_ns() < end);
	TH_LOG("%d rounds", rounds);
}

TEST_F_TIMEOUT(vfio_pci_mmap_race_test, close, 1800)
{
	if (!variant->delegated)
		SKIP(return, "A mapping of the device's fd keeps the device open");
	race_with_close(_metadata, self, false);
}

TEST_F_TIMEOUT(vfio_pci_mmap_race_test, unbind, 1800)
{
	if (!variant->delegated)
		SKIP(return, "A mapping of the device's fd keeps the device open");
	race_with_close(_metadata, self, true);
}

/* A thread that maps and unmaps, and how long that took it at most */
struct mapper {
	const struct bar_source *source;
	u64 longest;
	u64 rounds;
	bool stop;
};

static void *map_and_unmap(void *arg)
{
	const size_t page_size = getpagesize();
	struct mapper *mapper = arg;
	void *vaddr;
	u64 start;

	while (!READ_ONCE(mapper->stop)) {
		start = now_ns();
		vaddr = bar_source_mmap(mapper->source, 0, page_size);
		VFIO_ASSERT_EQ(munmap(vaddr, page_size), 0);
		mapper->longest = max(mapper->longest, now_ns() - start);
		WRITE_ONCE(mapper->rounds, mapper->rounds + 1);
	}
	return NULL;
}

/*
 * A reset holds memory_lock. A mmap() that takes it waits for the reset, in any
 * try; one that does not take it waits for the CPU at worst.
 */
TEST_F_TIMEOUT(vfio_pci_mmap_race_test, mmap_does_not_wait, 300)
{
	const char *reason = vfio_pci_function_reset.missing(self->device);
	u64 start, took;
	pthread_t thread;
	int try;

	if (reason)
		SKIP(return, "%s", reason);

	for (try = 0; try < 50; try++) {
		struct mapper mapper = {
			.source = &self->source,
		};

		ASSERT_EQ(0, pthread_create(&thread, NULL, map_and_unmap, &mapper));
		while (READ_ONCE(mapper.rounds) < 2)
			sched_yield();
		start = now_ns();
		ASSERT_EQ(0, __vfio_pci_device_reset(self->device));
		took = now_ns() - start;
		WRITE_ONCE(mapper.stop, true);
		ASSERT_EQ(0, pthread_join(thread, NULL));

		TH_LOG("%lu mmaps, of at most %lu us, while a reset took %lu us",
		       mapper.rounds, mapper.longest / 1000, took / 1000);
		if (took < 2 * NSEC_PER_MSEC)
			SKIP(return, "The reset is too fast to tell");
		if (mapper.longest < took / 2)
			return;
	}
	ASSERT_TRUE(false) TH_LOG("mmap() waits for the reset");
}

/* An export that waits for its ranges, in the middle of the system call */
struct held_export {
	struct vfio_pci_device *device;
	struct vfio_device_feature *feature;
	struct vfio_region_dma_range range;
	void *pages;
	int uffd;
	int ret;
	pthread_t thread;
};

static void *do_export(void *arg)
{
	struct held_export *held = arg;

	held->ret = ioctl(held->device->fd, VFIO_DEVICE_FEATURE, held->feature);
	if (held->ret < 0)
		held->ret = -errno;
	return NULL;
}

/* Returns why it cannot be held, or NULL with the export being there. */
static const char *held_export_start(struct held_export *held, struct vfio_pci_device *device,
				     int bar)
{
	const size_t page_size = getpagesize();
	struct vfio_device_feature_dma_buf *dma_buf;
	struct uffdio_register reg = {
		.mode = UFFDIO_REGISTER_MODE_MISSING,
	};
	struct uffdio_api api = {
		.api = UFFD_API,
	};
	struct uffd_msg msg;

	held->device = device;
	held->range = (struct vfio_region_dma_range) { .length = page_size };

	held->uffd = syscall(SYS_userfaultfd, O_CLOEXEC);
	if (held->uffd < 0)
		return "The kernel has no userfaultfd";
	ioctl_assert(held->uffd, UFFDIO_API, &api);

	/* The ranges start with the second page, which is missing. */
	held->pages = mmap(NULL, 2 * page_size, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	VFIO_ASSERT_NE(held->pages, MAP_FAILED);
	reg.range.start = (u64)held->pages + page_size;
	reg.range.len = page_size;
	ioctl_assert(held->uffd, UFFDIO_REGISTER, &reg);

	held->feature = held->pages + page_size - sizeof(*held->feature) - sizeof(*dma_buf);
	held->feature->argsz = sizeof(*held->feature) + sizeof(*dma_buf) + sizeof(held->range);
	held->feature->flags = VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_DMA_BUF;
	dma_buf = (void *)held->feature->data;
	dma_buf->region_index = bar;
	dma_buf->open_flags = O_RDWR | O_CLOEXEC;
	dma_buf->nr_ranges = 1;

	VFIO_ASSERT_EQ(pthread_create(&held->thread, NULL, do_export, held), 0);
	VFIO_ASSERT_EQ(read(held->uffd, &msg, sizeof(msg)), sizeof(msg));
	VFIO_ASSERT_EQ(msg.event, UFFD_EVENT_PAGEFAULT);
	return NULL;
}

static int held_export_finish(struct held_export *held)
{
	const size_t page_size = getpagesize();
	struct uffdio_copy copy = {
		.dst = (u64)held->pages + page_size,
		.len = page_size,
	};
	void *page = calloc_assert(1, page_size);

	memcpy(page, &held->range, sizeof(held->range));
	copy.src = (u64)page;
	ioctl_assert(held->uffd, UFFDIO_COPY, &copy);
	VFIO_ASSERT_EQ(pthread_join(held->thread, NULL), 0);

	free(page);
	VFIO_ASSERT_EQ(munmap(held->pages, 2 * page_size), 0);
	VFIO_ASSERT_EQ(close(held->uffd), 0);
	VFIO_ASSERT_GE(held->ret, 0);
	return held->ret;
}

FIXTURE(vfio_pci_export_order_test) {
	struct iommu *iommu;
	struct vfio_pci_device *device;
	struct bar_source source;
	struct held_export held;
};

FIXTURE_SETUP(vfio_pci_export_order_test)
{
	const char *reason = "The device has no BAR";
	int bar;

	self->iommu = iommu_init(default_iommu_mode);
	self->device = vfio_pci_device_init(device_bdf, self->iommu);
	vfio_pci_bar_unmap_all(self->device);
	vfio_pci_cmd_set(self->device, PCI_COMMAND_MEMORY);

	for (bar = 0; bar < PCI_STD_NUM_BARS; bar++) {
		if (!self->device->bars[bar].info.size)
			continue;
		reason = bar_source_open(&self->source, self->device, bar, true);
		if (!reason)
			break;
	}
	if (reason)
		SKIP(return, "%s", reason);
}

FIXTURE_TEARDOWN(vfio_pci_export_order_test)
{
	bar_source_close(&self->source);
	vfio_pci_device_cleanup(self->device);
	iommu_cleanup(self->iommu);
}

TEST_F(vfio_pci_export_order_test, memory_goes_meanwhile)
{
	struct bar_source late = self->source;
	const char *reason;

	reason = held_export_start(&self->held, self->device, self->source.bar);
	if (reason)
		SKIP(return, "%s", reason);
	vfio_pci_memory_decode.take(self->device);
	late.fd = held_export_finish(&self->held);
	ASSERT_FALSE(try_new_mapping(&late));

	vfio_pci_memory_decode.give(self->device);
	ASSERT_TRUE(try_new_mapping(&late));
	ASSERT_EQ(0, close(late.fd));
}

TEST_F(vfio_pci_export_order_test, memory_comes_meanwhile)
{
	struct bar_source late = self->source;
	const char *reason;

	vfio_pci_memory_decode.take(self->device);
	reason = held_export_start(&self->held, self->device, self->source.bar);
	if (reason)
		SKIP(return, "%s", reason);
	vfio_pci_memory_decode.give(self->device);
	late.fd = held_export_finish(&self->held);
	ASSERT_TRUE(try_new_mapping(&late));

	vfio_pci_memory_decode.take(self->device);
	ASSERT_FALSE(try_new_mapping(&late));
	ASSERT_EQ(0, close(late.fd));
}

TEST_F(vfio_pci_export_order_test, reset_meanwhile)
{
	struct bar_source late = self->source;
	const char *reason;

	reason = vfio_pci_function_reset.missing(self->device);
	if (!reason)
		reason = held_export_start(&self->held, self->device, self->source.bar);
	if (reason)
		SKIP(return, "%s", reason);
	vfio_pci_function_reset.take(self->device);
	late.fd = held_export_finish(&self->held);
	ASSERT_TRUE(try_new_mapping(&late));
	ASSERT_EQ(0, close(late.fd));
}

int main(int argc, char *argv[])
{
	device_bdf = vfio_selftests_get_bdf(&argc, argv);
	return test_harness_run(argc, argv);
}
