// SPDX-License-Identifier: GPL-2.0-only
/*
 * What the paths to a device's memory cost. In a guest whose time counts
 * instructions (QEMU -icount shift=0) a nanosecond is an instruction, and the
 * numbers are the same on every run and every machine. Those of the clock itself
 * are included.
 *
 * Prints "# bench NAME INSTRUCTIONS" for all that the kernel can do.
 */
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <linux/sizes.h>

#include <libvfio.h>

#include "kselftest_harness.h"

#define ROUNDS		64
#define MANY_RANGES	4096
#define MANY_BUFFERS	10000
#define MANY_PROCESSES	64
#define MANY_WC_BUFFERS	1000

static const char *device_bdf;

FIXTURE(map_bench) {
	struct iommu *iommu;
	struct vfio_pci_device *device;
	struct vfio_region_info bar;
	/* Address space of 2 GiB, aligned for any page */
	char *space;
};

FIXTURE_SETUP(map_bench)
{
	self->iommu = iommu_init(MODE_IOMMUFD);
	self->device = vfio_pci_device_init(device_bdf, self->iommu);
	vfio_pci_cmd_set(self->device, PCI_COMMAND_MEMORY);
	self->bar = self->device->bars[2].info;
	if (self->bar.size < SZ_1G)
		SKIP(return, "BAR 2 has less than 1 GiB");
	self->space = mmap_reserve(2UL * SZ_1G, SZ_1G, 0);
}

FIXTURE_TEARDOWN(map_bench)
{
	vfio_pci_device_cleanup(self->device);
	iommu_cleanup(self->iommu);
}

static u64 now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000000UL + ts.tv_nsec;
}

/* The least of all rounds: what is left when caches are warm. */
#define MEASURE(_name, _setup, _work, _undo) do {			\
	u64 __least = UINT64_MAX;					\
									\
	for (int __i = 0; __i < ROUNDS; __i++) {			\
		u64 __start, __time;					\
									\
		_setup;							\
		__start = now();					\
		_work;							\
		__time = now() - __start;				\
		_undo;							\
		__least = min(__least, __time);				\
	}								\
	printf("# bench %s %lu\n", _name, __least);			\
} while (0)

static void *map(int fd, void *addr, size_t size, off_t offset)
{
	void *p = mmap(addr, size, PROT_READ | PROT_WRITE,
		       MAP_SHARED | (addr ? MAP_FIXED : 0), fd, offset);

	VFIO_ASSERT_NE(p, MAP_FAILED);
	return p;
}

static void touch(void *p)
{
	*(volatile u32 *)p;
}

static int try_export(int device_fd, u32 flags, u32 bar, u32 nr, u64 first, u64 length, u64 step)
{
	size_t size = sizeof(struct vfio_device_feature) +
		      sizeof(struct vfio_device_feature_dma_buf) +
		      nr * sizeof(struct vfio_region_dma_range);
	struct vfio_device_feature_dma_buf *dma_buf;
	struct vfio_device_feature *feature;
	int fd;

	feature = calloc_assert(1, size);
	feature->argsz = size;
	feature->flags = VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_DMA_BUF;
	dma_buf = (void *)feature->data;
	dma_buf->region_index = bar;
	dma_buf->open_flags = O_RDWR | O_CLOEXEC;
	dma_buf->flags = flags;
	dma_buf->nr_ranges = nr;
	for (u32 i = 0; i < nr; i++) {
		dma_buf->dma_ranges[i].offset = first + i * step;
		dma_buf->dma_ranges[i].length = length;
	}
	fd = ioctl(device_fd, VFIO_DEVICE_FEATURE, feature);
	if (fd < 0)
		fd = -errno;
	free(feature);
	return fd;
}

static int export_ranges(int device_fd, u32 bar, u32 nr, u64 first, u64 length, u64 step)
{
	int fd = try_export(device_fd, 0, bar, nr, first, length, step);

	VFIO_ASSERT_GE(fd, 0);
	return fd;
}

static int export_wc(int device_fd, u64 first, u64 length)
{
	int fd = try_export(device_fd, VFIO_DEVICE_FEATURE_DMA_BUF_ATTR_WC, 2, 1, first, length, 0);

	VFIO_ASSERT_GE(fd, 0);
	return fd;
}

/*
 * A page fault at @offset of a mapping of @size at @addr, in a page table that
 * is there: the neighbour @next is faulted in first, where there is one.
 */
static void measure_fault(const char *name, int fd, off_t at, char *addr,
			  size_t size, size_t offset, ssize_t next)
{
	MEASURE(name,
		map(fd, addr, size, at);
		madvise(addr, size, MADV_HUGEPAGE);
		if (next >= 0)
			touch(addr + next),
		touch(addr + offset),
		munmap(addr, size));
}

TEST_F(map_bench, bar)
{
	int fd = self->device->fd;
	off_t at = self->bar.offset;
	char *p;

	MEASURE("bar-map-unmap", (void)0,
		p = map(fd, NULL, SZ_4K, at); munmap(p, SZ_4K), (void)0);
	MEASURE("bar-map-touch-unmap", (void)0,
		p = map(fd, NULL, SZ_4K, at); touch(p); munmap(p, SZ_4K), (void)0);

	/* Addresses at which nothing larger fits */
	measure_fault("bar-fault-4k", fd, at, self->space + SZ_4K, SZ_64K, SZ_4K, 0);
	measure_fault("bar-fault-2m", fd, at, self->space + SZ_2M, SZ_8M, SZ_2M, 0);
	measure_fault("bar-fault-1g", fd, at, self->space, SZ_1G, 0, -1);
}

TEST_F(map_bench, export)
{
	int fd;

	MEASURE("export-close", (void)0,
		fd = export_ranges(self->device->fd, 2, 1, 0, SZ_4K, 0); close(fd), (void)0);
}

TEST_F(map_bench, delegated)
{
	const size_t last = (MANY_RANGES - 1) * SZ_4K;
	char *addr = self->space + SZ_4K, *p;
	int one, many, row;
	u64 least;

	one = export_ranges(self->device->fd, 2, 1, 0, SZ_64K, 0);
	p = mmap(NULL, SZ_4K, PROT_READ, MAP_SHARED, one, 0);
	if (p == MAP_FAILED && errno == EINVAL)
		SKIP(return, "this kernel cannot map a DMABUF of vfio-pci");
	ASSERT_NE(MAP_FAILED, p);
	ASSERT_EQ(0, munmap(p, SZ_4K));

	measure_fault("delegated-fault-1-range", one, 0, addr, SZ_64K, SZ_4K, 0);

	many = export_ranges(self->device->fd, 2, MANY_RANGES, 0, SZ_4K, SZ_8K);
	measure_fault("delegated-fault-4096-ranges", many, 0, addr,
		      MANY_RANGES * SZ_4K, last, last - SZ_4K);

	/*
	 * 512 ranges in a row: one fault is all there is. What the others cost
	 * beyond a touch must not add up to another one.
	 */
	row = export_ranges(self->device->fd, 2, 512, 0, SZ_4K, SZ_4K);
	map(row, self->space, SZ_2M, 0);
	madvise(self->space, SZ_2M, MADV_HUGEPAGE);
	touch(self->space);
	least = now();
	for (int i = 1; i < 512; i++)
		touch(self->space + i * SZ_4K);
	least = now() - least;
	printf("# bench row-511-touches-fault %lu\n", least > 511 * 20 ? least - 511 * 20 : 1);
	ASSERT_EQ(0, munmap(self->space, SZ_2M));

	ASSERT_EQ(0, close(one));
	ASSERT_EQ(0, close(many));
	ASSERT_EQ(0, close(row));
}

/*
 * A revoke of a buffer of @size that is mapped at @addr, touched in steps of
 * @page; or not mapped, where there is no @addr.
 */
static void measure_revoke(const char *name, int device_fd, char *addr, size_t size,
			   size_t page)
{
	struct vfio_pci_dmabuf_revoke revoke = { .argsz = sizeof(revoke) };

	MEASURE(name,
		revoke.dmabuf_fd = export_ranges(device_fd, 2, 1, 0, size, 0);
		if (addr) {
			map(revoke.dmabuf_fd, addr, size, 0);
			madvise(addr, size, MADV_HUGEPAGE);
			for (size_t i = 0; i < size; i += page)
				touch(addr + i);
		},
		ioctl_assert(device_fd, VFIO_DEVICE_PCI_DMABUF_REVOKE, &revoke),
		if (addr)
			munmap(addr, size);
		close(revoke.dmabuf_fd));
}

static bool can_revoke(int device_fd)
{
	return !ioctl(device_fd, VFIO_DEVICE_PCI_DMABUF_REVOKE, NULL) || errno != ENOTTY;
}

TEST_F(map_bench, revoke)
{
	int fd = self->device->fd;

	if (!can_revoke(fd))
		SKIP(return, "this kernel cannot revoke a DMABUF");

	measure_revoke("revoke-0-pages", fd, NULL, SZ_4K, 0);
	/* Addresses at which nothing larger fits */
	measure_revoke("revoke-1-page", fd, self->space + SZ_4K, SZ_4K, SZ_4K);
	measure_revoke("revoke-512-pages", fd, self->space + SZ_4K, SZ_2M, SZ_4K);
	measure_revoke("revoke-2m", fd, self->space, SZ_2M, SZ_2M);
	measure_revoke("revoke-1g", fd, self->space, SZ_1G, SZ_1G);
}

TEST_F(map_bench, revoke_others)
{
	struct rlimit files = { .rlim_cur = 2 * MANY_BUFFERS, .rlim_max = 2 * MANY_BUFFERS };
	int fd = self->device->fd, others = 0, wanted;
	char name[64];

	if (!can_revoke(fd))
		SKIP(return, "this kernel cannot revoke a DMABUF");
	ASSERT_EQ(0, setrlimit(RLIMIT_NOFILE, &files));

	for (wanted = 1; wanted <= MANY_BUFFERS; wanted *= 100) {
		for (; others < wanted; others++)
			export_ranges(fd, 2, 1, others * SZ_4K, SZ_4K, 0);
		snprintf_assert(name, sizeof(name), "revoke-0-pages-%d-others", others);
		measure_revoke(name, fd, NULL, SZ_4K, 0);
		snprintf_assert(name, sizeof(name), "revoke-1-page-%d-others", others);
		measure_revoke(name, fd, self->space + SZ_4K, SZ_4K, SZ_4K);
	}
}

TEST_F_TIMEOUT(map_bench, revoke_processes, 600)
{
	struct vfio_pci_dmabuf_revoke revoke = { .argsz = sizeof(revoke) };
	char *addr = self->space + SZ_4K, name[64];
	int fd = self->device->fd, nr, i;
	pid_t children[MANY_PROCESSES];

	if (!can_revoke(fd))
		SKIP(return, "this kernel cannot revoke a DMABUF");

	for (nr = 1; nr <= MANY_PROCESSES; nr *= 4) {
		snprintf_assert(name, sizeof(name), "revoke-1-page-%d-processes", nr);
		MEASURE(name,
			revoke.dmabuf_fd = export_ranges(fd, 2, 1, 0, SZ_4K, 0);
			map(revoke.dmabuf_fd, addr, SZ_4K, 0);
			touch(addr);
			/* fork() copies the page table entry */
			for (i = 1; i < nr; i++) {
				children[i] = fork();
				VFIO_ASSERT_GE(children[i], 0);
				while (!children[i]) {
					prctl(PR_SET_PDEATHSIG, SIGKILL);
					pause();
				}
			}
			/* for all of them to sleep */
			usleep(10000),
			ioctl_assert(fd, VFIO_DEVICE_PCI_DMABUF_REVOKE, &revoke),
			for (i = 1; i < nr; i++) {
				kill(children[i], SIGKILL);
				VFIO_ASSERT_EQ(waitpid(children[i], NULL, 0), children[i]);
			}
			munmap(addr, SZ_4K);
			close(revoke.dmabuf_fd));
	}
}

/* What both types of memory cost. Nobody else may have any of it. */
static void measure_attr(char *space, const char *attr, int device_fd,
			 int (*export)(int device_fd, u64 first, u64 length))
{
	struct vfio_pci_dmabuf_revoke revoke = { .argsz = sizeof(revoke) };
	int fd = export(device_fd, 0, SZ_1G);
	char name[64];

#define NAME(_what) ({ snprintf_assert(name, sizeof(name), "%s-" _what, attr); name; })
	measure_fault(NAME("fault-4k"), fd, 0, space + SZ_4K, SZ_64K, SZ_4K, 0);
	measure_fault(NAME("fault-2m"), fd, 0, space + SZ_2M, SZ_8M, SZ_2M, 0);
	measure_fault(NAME("fault-1g"), fd, 0, space, SZ_1G, 0, -1);
	close(fd);

	MEASURE(NAME("export-close"), (void)0,
		fd = export(device_fd, 0, SZ_4K); close(fd), (void)0);
	MEASURE(NAME("export-revoke"), (void)0,
		revoke.dmabuf_fd = export(device_fd, 0, SZ_4K);
		ioctl_assert(device_fd, VFIO_DEVICE_PCI_DMABUF_REVOKE, &revoke),
		close(revoke.dmabuf_fd));
#undef NAME
}

static int export_uc(int device_fd, u64 first, u64 length)
{
	return export_ranges(device_fd, 2, 1, first, length, 0);
}

TEST_F(map_bench, write_combined)
{
	struct rlimit files = { .rlim_cur = 2 * MANY_BUFFERS, .rlim_max = 2 * MANY_BUFFERS };
	int device_fd = self->device->fd, fd;

	/* Of config space nothing can be exported, so what fails for this knows the flag. */
	if (try_export(device_fd, VFIO_DEVICE_FEATURE_DMA_BUF_ATTR_WC,
		       VFIO_PCI_CONFIG_REGION_INDEX, 1, 0, SZ_4K, 0) != -ENODEV)
		SKIP(return, "this kernel has no write-combined DMABUFs");

	/* A BAR that is mapped is uncached. */
	vfio_pci_bar_unmap_all(self->device);
	measure_attr(self->space, "uc", device_fd, export_uc);
	measure_attr(self->space, "wc", device_fd, export_wc);

	ASSERT_EQ(0, setrlimit(RLIMIT_NOFILE, &files));
	for (int i = 0; i < MANY_WC_BUFFERS; i++)
		export_wc(device_fd, 2 * i * SZ_4K, SZ_4K);
	MEASURE("uc-export-close-1000-wc", (void)0,
		fd = export_uc(device_fd, SZ_4K, SZ_4K); close(fd), (void)0);
	MEASURE("wc-export-close-1000-wc", (void)0,
		fd = export_wc(device_fd, SZ_512M, SZ_4K); close(fd), (void)0);
	MEASURE("bar-map-unmap-1000-wc", (void)0,
		munmap(map(device_fd, NULL, SZ_4K, self->bar.offset + SZ_4K), SZ_4K), (void)0);
}

int main(int argc, char *argv[])
{
	device_bdf = vfio_selftests_get_bdf(&argc, argv);
	return test_harness_run(argc, argv);
}
