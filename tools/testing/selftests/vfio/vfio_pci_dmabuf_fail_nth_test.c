// SPDX-License-Identifier: GPL-2.0-only
/*
 * Whatever fails on the way to a DMABUF, a mapping or a page fault: the caller
 * gets to know, nothing is left behind, and the next try succeeds.
 *
 * See Documentation/fault-injection/fault-injection.rst for fail-nth.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <sys/ioctl.h>
#include <sys/mman.h>

#include <linux/compiler.h>
#include <linux/pci_regs.h>
#include <linux/sizes.h>
#include <linux/vfio.h>

#include <libvfio.h>

#include "kselftest_harness.h"

#define DEBUGFS		"/sys/kernel/debug/"
#define NR_RANGES	16

/* More than can fail in any of this: an end for what fails for ever */
#define MAX_NTH		1000

static const char *device_bdf;

struct export {
	struct vfio_device_feature feature;
	struct vfio_device_feature_dma_buf dma_buf;
	struct vfio_region_dma_range ranges[NR_RANGES];
};

FIXTURE(vfio_pci_dmabuf_fail_nth_test) {
	struct vfio_pci_device *device;
	struct mmap_target target;
	struct export export;
	int fail_fd;
	size_t page_size;
};

#define fixture_data		FIXTURE_DATA(vfio_pci_dmabuf_fail_nth_test)

/* Whether the kernel can be told: all kinds, wherever they are, without a word */
static bool fault_injection_setup(void)
{
	static const struct {
		const char *file;
		const char *value;
	} settings[] = {
		{ "failslab/ignore-gfp-wait", "N" },
		{ "failslab/verbose", "0" },
		{ "fail_page_alloc/ignore-gfp-wait", "N" },
		{ "fail_page_alloc/min-order", "0" },
		{ "fail_page_alloc/verbose", "0" },
		{ "fail_usercopy/verbose", "0" },
	};
	char path[128];
	int fd, i;

	for (i = 0; i < ARRAY_SIZE(settings); i++) {
		snprintf_assert(path, sizeof(path), DEBUGFS "%s", settings[i].file);
		fd = open(path, O_WRONLY);
		if (fd < 0)
			return false;
		VFIO_ASSERT_EQ(write(fd, settings[i].value, 1), 1);
		VFIO_ASSERT_EQ(close(fd), 0);
	}
	return true;
}

/* How many DMABUFs there are, whosever they are */
static int nr_dmabufs(void)
{
	int total = -1;
	char line[256];
	FILE *file;

	file = fopen(DEBUGFS "dma_buf/bufinfo", "r");
	VFIO_ASSERT_NOT_NULL(file);
	while (fgets(line, sizeof(line), file))
		sscanf(line, "Total %d objects", &total);
	VFIO_ASSERT_EQ(fclose(file), 0);
	VFIO_ASSERT_GE(total, 0);
	return total;
}

FIXTURE_SETUP(vfio_pci_dmabuf_fail_nth_test)
{
	const char *reason;
	int i;

	self->page_size = getpagesize();
	self->fail_fd = open("/proc/thread-self/fail-nth", O_RDWR);
	if (self->fail_fd < 0 || !fault_injection_setup())
		SKIP(return, "The kernel has no fault injection");

	self->device = vfio_pci_device_open(device_bdf, default_iommu_mode);
	reason = mmap_target_open_largest(&self->target, self->device, true);
	if (reason)
		SKIP(return, "%s", reason);
	if (self->target.size < 2 * NR_RANGES * self->page_size)
		SKIP(return, "No BAR has %d pages", 2 * NR_RANGES);

	self->export = (struct export){
		.feature.argsz = sizeof(self->export),
		.feature.flags = VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_DMA_BUF,
		.dma_buf.region_index = self->target.bar,
		.dma_buf.open_flags = O_RDWR | O_CLOEXEC,
		.dma_buf.nr_ranges = NR_RANGES,
	};
	/* With gaps, or they are one range. */
	for (i = 0; i < NR_RANGES; i++) {
		self->export.ranges[i].offset = 2 * i * self->page_size;
		self->export.ranges[i].length = self->page_size;
	}
}

FIXTURE_TEARDOWN(vfio_pci_dmabuf_fail_nth_test)
{
	mmap_target_close(&self->target);
	vfio_pci_device_close(self->device);
	VFIO_ASSERT_EQ(close(self->fail_fd), 0);
}

static void fail_nth(fixture_data *self, int nth)
{
	char buf[16];
	int len = snprintf(buf, sizeof(buf), "%d", nth);

	/* This may be what fails. */
	if (pwrite(self->fail_fd, buf, len, 0) < 0)
		VFIO_ASSERT_EQ(pwrite(self->fail_fd, buf, len, 0), len);
}

/* Whether what fail_nth() asked for has come to pass. No more failures. */
static bool has_failed(fixture_data *self)
{
	char buf[16] = {};
	bool failed;
	ssize_t len;

	len = pread(self->fail_fd, buf, sizeof(buf) - 1, 0);
	/* It may have come to pass only just now. */
	if (len < 0 && errno == EFAULT)
		failed = false;
	else
		failed = atoi(buf) == 0;
	fail_nth(self, 0);
	return failed;
}

/*
 * Fail the first, the second, ... of what can fail in @work, which returns what
 * it got or a negative errno; @undo takes back what it got.
 */
static void fail_each(struct __test_metadata *_metadata, fixture_data *self,
		      long (*work)(fixture_data *self), void (*undo)(fixture_data *self, long got))
{
	int nr_before = nr_dmabufs(), nth, nr_errors = 0;
	bool failed;
	long got;

	for (nth = 1;; nth++) {
		ASSERT_GT(MAX_NTH, nth);
		fail_nth(self, nth);
		got = work(self);
		failed = has_failed(self);

		if (got < 0) {
			ASSERT_TRUE(failed) TH_LOG("%d: %s", nth, strerror(-got));
			ASSERT_TRUE(got == -ENOMEM || got == -EFAULT)
				TH_LOG("%d: %s", nth, strerror(-got));
			nr_errors++;
		} else {
			undo(self, got);
		}
		ASSERT_EQ(nr_before, nr_dmabufs()) TH_LOG("%d", nth);
		/* Nothing is left to fail. */
		if (!failed)
			break;
	}
	TH_LOG("%d failures, %d of them were errors", nth - 1, nr_errors);
	ASSERT_LE(0, got);
	ASSERT_LT(1, nth);
	/* Each of these allocates something that it cannot do without. */
	ASSERT_LT(0, nr_errors);

	got = work(self);
	ASSERT_LE(0, got);
	undo(self, got);
	ASSERT_EQ(nr_before, nr_dmabufs());
}

static long export(fixture_data *self)
{
	int fd = ioctl(self->device->fd, VFIO_DEVICE_FEATURE, &self->export);

	return fd < 0 ? -errno : fd;
}

static void undo_export(fixture_data *self, long fd)
{
	void *vaddr = mmap(NULL, NR_RANGES * self->page_size, PROT_READ, MAP_SHARED, fd, 0);
	int i;

	VFIO_ASSERT_NE(vaddr, MAP_FAILED);
	VFIO_ASSERT_EQ(close(fd), 0);
	for (i = 0; i < NR_RANGES; i++)
		VFIO_ASSERT_TRUE(mmio_try_touch(vaddr + i * self->page_size));
	VFIO_ASSERT_EQ(munmap(vaddr, NR_RANGES * self->page_size), 0);
}

TEST_F(vfio_pci_dmabuf_fail_nth_test, export)
{
	fail_each(_metadata, self, export, undo_export);
}

static long map(fixture_data *self, int fd, u64 offset)
{
	void *vaddr = mmap(NULL, self->page_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, offset);

	return vaddr == MAP_FAILED ? -errno : (long)vaddr;
}

static void undo_map(fixture_data *self, long vaddr)
{
	VFIO_ASSERT_TRUE(mmio_try_touch((void *)vaddr));
	VFIO_ASSERT_EQ(munmap((void *)vaddr, self->page_size), 0);
}

static long map_bar(fixture_data *self)
{
	return map(self, self->device->fd, self->device->bars[self->target.bar].info.offset);
}

TEST_F(vfio_pci_dmabuf_fail_nth_test, map_bar)
{
	fail_each(_metadata, self, map_bar, undo_map);
}

static long map_dmabuf(fixture_data *self)
{
	return map(self, self->target.fd, self->target.offset);
}

TEST_F(vfio_pci_dmabuf_fail_nth_test, map_dmabuf)
{
	fail_each(_metadata, self, map_dmabuf, undo_map);
}

/* A page fault that has to allocate page tables tries until it gets them. */
static long touch_where_nothing_is(fixture_data *self)
{
	/* Nothing else is in this range of 1 GiB. */
	void *vaddr = (void *)SZ_1G;

	vaddr = mmap(vaddr, self->page_size, PROT_READ, MAP_SHARED | MAP_FIXED_NOREPLACE,
		     self->target.fd, self->target.offset);
	if (vaddr == MAP_FAILED)
		return -errno;
	/* Nothing else here, where it could fail instead. */
	READ_ONCE(*(u32 *)vaddr);
	return (long)vaddr;
}

TEST_F(vfio_pci_dmabuf_fail_nth_test, page_fault)
{
	fail_each(_metadata, self, touch_where_nothing_is, undo_map);
}

int main(int argc, char *argv[])
{
	device_bdf = vfio_selftests_get_bdf(&argc, argv);
	return test_harness_run(argc, argv);
}
