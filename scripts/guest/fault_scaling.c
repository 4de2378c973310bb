// SPDX-License-Identifier: GPL-2.0-only
/*
 * How much more two threads get done than one when both take page faults on
 * the same buffer, each in its own part of it. Two is all there is to gain.
 *
 * This is about time, so it has to run in a guest with two CPUs that really run
 * at once. The best of many rounds is what counts: whatever disturbs a round
 * makes it longer.
 *
 * Prints "# bench NAME PERCENT" for all that the kernel can map.
 */
#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>
#include <time.h>

#include <linux/sizes.h>

#include <libvfio.h>

#include "kselftest_harness.h"

#define ROUNDS		100
#define THREADS		2
/* What a thread touches, page by page, in a round: page tables of its own */
#define PART		SZ_16M

static const char *device_bdf;

struct worker {
	pthread_t thread;
	int cpu;
	char *part;
	u64 time;
};

static pthread_barrier_t barrier;
/* How many of the workers are to work in this round; none: it was the last. */
static int active;
/* How many of them are on their CPU: what is measured is work side by side. */
static int ready;

FIXTURE(fault_scaling) {
	struct iommu *iommu;
	struct vfio_pci_device *device;
	char *space;
	struct worker workers[THREADS];
};

static u64 now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000000UL + ts.tv_nsec;
}

static void *work(void *arg)
{
	struct worker *worker = arg;
	cpu_set_t cpus;
	u64 start;

	CPU_ZERO(&cpus);
	CPU_SET(worker->cpu, &cpus);
	VFIO_ASSERT_EQ(sched_setaffinity(0, sizeof(cpus), &cpus), 0);

	for (;;) {
		pthread_barrier_wait(&barrier);
		if (!active)
			return NULL;
		if (worker->cpu < active) {
			__atomic_add_fetch(&ready, 1, __ATOMIC_SEQ_CST);
			while (__atomic_load_n(&ready, __ATOMIC_SEQ_CST) < active)
				;
			start = now();
			for (size_t i = 0; i < PART; i += SZ_4K)
				*(volatile u32 *)(worker->part + i);
			worker->time = now() - start;
		}
		pthread_barrier_wait(&barrier);
	}
}

FIXTURE_SETUP(fault_scaling)
{
	if (sysconf(_SC_NPROCESSORS_ONLN) < THREADS)
		SKIP(return, "This machine has one CPU");

	self->iommu = iommu_init(MODE_IOMMUFD);
	self->device = vfio_pci_device_init(device_bdf, self->iommu);
	vfio_pci_cmd_set(self->device, PCI_COMMAND_MEMORY);
	if (self->device->bars[2].info.size < THREADS * PART)
		SKIP(return, "BAR 2 is too small");

	/* Shifted against the memory by a page, so that no huge page fits */
	self->space = mmap_reserve(THREADS * PART + SZ_2M, SZ_2M, SZ_4K);
	VFIO_ASSERT_EQ(pthread_barrier_init(&barrier, NULL, THREADS + 1), 0);
	for (int i = 0; i < THREADS; i++) {
		struct worker *worker = &self->workers[i];

		worker->cpu = i;
		worker->part = self->space + i * PART;
		VFIO_ASSERT_EQ(pthread_create(&worker->thread, NULL, work, worker), 0);
	}
}

FIXTURE_TEARDOWN(fault_scaling)
{
	active = 0;
	pthread_barrier_wait(&barrier);
	for (int i = 0; i < THREADS; i++)
		VFIO_ASSERT_EQ(pthread_join(self->workers[i].thread, NULL), 0);
	vfio_pci_device_cleanup(self->device);
	iommu_cleanup(self->iommu);
}

static void measure(const char *name, struct worker *workers, char *space, int fd, off_t at)
{
	u64 least[THREADS + 1] = { 0, UINT64_MAX, UINT64_MAX };

	for (int i = 0; i < ROUNDS * THREADS; i++) {
		u64 time = 0;

		VFIO_ASSERT_NE(mmap(space, THREADS * PART, PROT_READ, MAP_SHARED | MAP_FIXED,
				    fd, at), MAP_FAILED);
		active = 1 + i % THREADS;
		ready = 0;
		pthread_barrier_wait(&barrier);
		pthread_barrier_wait(&barrier);
		for (int t = 0; t < active; t++)
			time = max(time, workers[t].time);
		least[active] = min(least[active], time);
	}
	VFIO_ASSERT_NE(mmap(space, THREADS * PART, PROT_NONE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0), MAP_FAILED);
	printf("# %s: %lu us for one thread, %lu us for two\n", name,
	       least[1] / 1000, least[2] / 1000);
	printf("# bench %s %lu\n", name, THREADS * 100 * least[1] / least[2]);
}

TEST_F_TIMEOUT(fault_scaling, bar, 600)
{
	measure("bar-two-threads", self->workers, self->space, self->device->fd,
		self->device->bars[2].info.offset);
}

TEST_F_TIMEOUT(fault_scaling, delegated, 600)
{
	struct {
		struct vfio_device_feature feature;
		struct vfio_device_feature_dma_buf dma_buf;
		struct vfio_region_dma_range range;
	} export = {
		.feature.argsz = sizeof(export),
		.feature.flags = VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_DMA_BUF,
		.dma_buf.region_index = 2,
		.dma_buf.open_flags = O_RDWR | O_CLOEXEC,
		.dma_buf.nr_ranges = 1,
		.range.length = THREADS * PART,
	};
	int fd = ioctl(self->device->fd, VFIO_DEVICE_FEATURE, &export);
	void *p;

	ASSERT_LE(0, fd);
	p = mmap(NULL, SZ_4K, PROT_READ, MAP_SHARED, fd, 0);
	if (p == MAP_FAILED && errno == EINVAL)
		SKIP(return, "this kernel cannot map a DMABUF of vfio-pci");
	ASSERT_NE(MAP_FAILED, p);
	ASSERT_EQ(0, munmap(p, SZ_4K));

	measure("delegated-two-threads", self->workers, self->space, fd, 0);
	ASSERT_EQ(0, close(fd));
}

int main(int argc, char *argv[])
{
	device_bdf = vfio_selftests_get_bdf(&argc, argv);
	return test_harness_run(argc, argv);
}
