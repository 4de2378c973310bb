// SPDX-License-Identifier: GPL-2.0-only
/*
 * Whatever fails on the way to a DMABUF, a mapping, a page fault or an import, and
 * on the way back when a DMABUF is revoked: the caller gets to know, nothing is left
 * behind, and the next try succeeds. The same for what the kernel maps of a BAR.
 *
 * See Documentation/fault-injection/fault-injection.rst for fail-nth.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include <linux/compiler.h>
#include <linux/iommufd.h>
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
	/* Nothing of the BAR is write-combined, whatever has failed. */
	bool no_wc;

	/* A DMABUF to be revoked, and what is made of it */
	int fd;
	void *vaddr;
	iova_t iova;
	int importer;
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
	self->fd = -1;
	self->importer = -1;
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
	if (self->importer >= 0)
		importer_close(self->importer);
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

/* Nothing is left of what has failed, or was undone. */
static void expect_nothing_left(struct __test_metadata *_metadata, fixture_data *self,
				int nr_before)
{
	ASSERT_EQ(nr_before, nr_dmabufs());
	if (self->no_wc) {
		struct sysfs_resource bar = sysfs_bar_resource(device_bdf, self->target.bar);
		int fd;

		ASSERT_EQ(0, memory_type_count(bar.start, bar.end, TYPE_WRITE_COMBINING));
		fd = vfio_pci_dmabuf_export_range(self->device, self->target.bar, 0,
						  self->target.size);
		ASSERT_EQ(0, close(fd));
	}
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
		expect_nothing_left(_metadata, self, nr_before);
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
	expect_nothing_left(_metadata, self, nr_before);
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

/* Write-combined memory, of which nothing may be uncached at the same time */
static const char *no_wc(fixture_data *self)
{
	const char *reason = vfio_pci_bar_no_dmabuf_wc(self->device, self->target.bar);

	if (reason)
		return reason;

	mmap_target_close(&self->target);
	self->target.dmabuf = false;
	self->export.dma_buf.flags = VFIO_DEVICE_FEATURE_DMA_BUF_ATTR_WC;
	return NULL;
}

TEST_F(vfio_pci_dmabuf_fail_nth_test, export_wc)
{
	const char *reason = no_wc(self);

	if (reason)
		SKIP(return, "%s", reason);

	self->no_wc = true;
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

TEST_F(vfio_pci_dmabuf_fail_nth_test, page_fault_wc)
{
	const char *reason = no_wc(self);

	if (reason)
		SKIP(return, "%s", reason);

	self->target.fd = export(self);
	ASSERT_LE(0, self->target.fd);
	self->target.offset = 0;
	fail_each(_metadata, self, touch_where_nothing_is, undo_map);
	ASSERT_EQ(0, close(self->target.fd));
}

/* A page of each type, which the kernel maps one after the other */
static long read_bar(fixture_data *self)
{
	static char data[SZ_16K];
	const u64 offset = self->device->bars[self->target.bar].info.offset;
	size_t size = min_t(size_t, 3 * self->page_size, sizeof(data));
	ssize_t ret = pread(self->device->fd, data, size, offset);

	if (ret < 0)
		return -errno;
	/* As far as it has come */
	return ret < size ? -ENOMEM : 0;
}

static void undo_nothing(fixture_data *self, long got)
{
}

TEST_F(vfio_pci_dmabuf_fail_nth_test, read_wc)
{
	const char *reason = no_wc(self);
	int fd;

	if (reason)
		SKIP(return, "%s", reason);

	fd = export(self);
	ASSERT_LE(0, fd);
	/* The memory that it is read into is there. */
	ASSERT_EQ(0, read_bar(self));
	fail_each(_metadata, self, read_bar, undo_nothing);
	ASSERT_EQ(0, close(fd));
}

static int set_ioeventfd(fixture_data *self, int fd)
{
	struct vfio_device_ioeventfd ioeventfd = {
		.argsz = sizeof(ioeventfd),
		.flags = sizeof(u32),
		.offset = self->device->bars[self->target.bar].info.offset +
			  self->target.scratch.offset,
		.fd = fd,
	};

	return ioctl(self->device->fd, VFIO_DEVICE_IOEVENTFD, &ioeventfd) ? -errno : 0;
}

static long add_ioeventfd(fixture_data *self)
{
	return set_ioeventfd(self, self->fd);
}

static void remove_ioeventfd(fixture_data *self, long got)
{
	VFIO_ASSERT_EQ(set_ioeventfd(self, -1), 0);
}

TEST_F(vfio_pci_dmabuf_fail_nth_test, ioeventfd)
{
	self->fd = eventfd(0, EFD_CLOEXEC);
	ASSERT_LE(0, self->fd);
	fail_each(_metadata, self, add_ioeventfd, remove_ioeventfd);
	ASSERT_EQ(0, close(self->fd));
}

/* A DMABUF, and a mapping that is in use */
static void prepare_revoke(fixture_data *self)
{
	self->fd = vfio_pci_dmabuf_export_range(self->device, self->target.bar, 0,
						self->page_size);
	self->vaddr = mmap(NULL, self->page_size, PROT_READ, MAP_SHARED, self->fd, 0);
	VFIO_ASSERT_NE(self->vaddr, MAP_FAILED);
	VFIO_ASSERT_TRUE(mmio_try_touch(self->vaddr));
}

static void end_revoke(fixture_data *self)
{
	VFIO_ASSERT_EQ(munmap(self->vaddr, self->page_size), 0);
	VFIO_ASSERT_EQ(close(self->fd), 0);
}

/* One that failed has taken nothing, or the next one would find it revoked. */
static long revoke_fd(fixture_data *self)
{
	return __vfio_pci_dmabuf_revoke(self->device, self->fd);
}

/* What was revoked cannot be given back, so go on with another one. */
static void undo_revoke(fixture_data *self, long got)
{
	VFIO_ASSERT_FALSE(mmio_try_touch(self->vaddr));
	VFIO_ASSERT_EQ(revoke_fd(self), -EBADFD);
	end_revoke(self);
	prepare_revoke(self);
}

TEST_F(vfio_pci_dmabuf_fail_nth_test, revoke)
{
	const char *reason = vfio_pci_no_dmabuf_revoke(self->device);

	if (reason)
		SKIP(return, "%s", reason);

	prepare_revoke(self);
	fail_each(_metadata, self, revoke_fd, undo_revoke);
	end_revoke(self);
}

/* iommufd as the importer */
static long unmap(fixture_data *self)
{
	struct iommu *iommu = self->device->iommu;
	struct iommu_ioas_unmap args = {
		.size = sizeof(args),
		.ioas_id = iommu->ioas_id,
		.iova = self->iova,
		.length = self->page_size,
	};

	return ioctl(iommu->iommufd, IOMMU_IOAS_UNMAP, &args) ? -errno : 0;
}

static long import(fixture_data *self)
{
	struct iommu *iommu = self->device->iommu;
	struct iommu_ioas_map_file args = {
		.size = sizeof(args),
		.flags = IOMMU_IOAS_MAP_READABLE | IOMMU_IOAS_MAP_WRITEABLE |
			 IOMMU_IOAS_MAP_FIXED_IOVA,
		.ioas_id = iommu->ioas_id,
		.fd = self->fd,
		.length = self->page_size,
		.iova = self->iova,
	};
	long ret = ioctl(iommu->iommufd, IOMMU_IOAS_MAP_FILE, &args) ? -errno : 0;

	/* If it was the answer that failed iommufd has it mapped. */
	if (ret == -EFAULT)
		unmap(self);
	return ret;
}

static void undo_import(fixture_data *self, long got)
{
	VFIO_ASSERT_EQ(unmap(self), 0);
}

static void undo_revoke_imported(fixture_data *self, long got)
{
	undo_import(self, 0);
	VFIO_ASSERT_EQ(import(self), -ENODEV);
	undo_revoke(self, got);
	VFIO_ASSERT_EQ(import(self), 0);
}

static void find_iova(fixture_data *self)
{
	struct iova_allocator *iova_allocator = iova_allocator_init(self->device->iommu);

	self->iova = iova_allocator_alloc(iova_allocator, self->page_size);
	iova_allocator_cleanup(iova_allocator);
}

TEST_F(vfio_pci_dmabuf_fail_nth_test, import)
{
	find_iova(self);
	prepare_revoke(self);
	fail_each(_metadata, self, import, undo_import);
	end_revoke(self);
}

TEST_F(vfio_pci_dmabuf_fail_nth_test, revoke_imported)
{
	const char *reason = vfio_pci_no_dmabuf_revoke(self->device);

	if (reason)
		SKIP(return, "%s", reason);

	find_iova(self);
	prepare_revoke(self);
	ASSERT_EQ(0, import(self));
	fail_each(_metadata, self, revoke_fd, undo_revoke_imported);
	undo_import(self, 0);
	end_revoke(self);
}

/* An importer of the ordinary kind */
static long attach_and_map(fixture_data *self)
{
	int ret;

	ret = importer_attach(self->importer, self->fd, device_bdf,
			      VFIO_DMABUF_IMPORTER_UNMAP_DELAYED, 0);
	if (ret)
		return ret;
	ret = importer_map(self->importer);
	if (!ret)
		ret = importer_add_fence(self->importer);
	if (ret)
		VFIO_ASSERT_EQ(importer_detach(self->importer), 0);
	return ret;
}

static void undo_attach_and_map(fixture_data *self, long got)
{
	VFIO_ASSERT_EQ(importer_mapped(self->importer), self->page_size);
	VFIO_ASSERT_EQ(importer_detach(self->importer), 0);
}

TEST_F(vfio_pci_dmabuf_fail_nth_test, attach_and_map)
{
	const char *reason = importer_missing();

	if (reason)
		SKIP(return, "%s", reason);

	self->importer = importer_open();
	prepare_revoke(self);
	fail_each(_metadata, self, attach_and_map, undo_attach_and_map);
	end_revoke(self);
}

/* Without a fence, or somebody would have to signal it. */
static void attach_and_map_for_revoke(fixture_data *self)
{
	VFIO_ASSERT_EQ(importer_attach(self->importer, self->fd, device_bdf,
				       VFIO_DMABUF_IMPORTER_UNMAP_DELAYED, 0), 0);
	VFIO_ASSERT_EQ(importer_map(self->importer), 0);
}

static void undo_revoke_mapped(fixture_data *self, long got)
{
	VFIO_ASSERT_EQ(importer_mapped(self->importer), 0);
	VFIO_ASSERT_EQ(importer_map(self->importer), -ENODEV);
	VFIO_ASSERT_EQ(importer_detach(self->importer), 0);
	undo_revoke(self, got);
	attach_and_map_for_revoke(self);
}

TEST_F(vfio_pci_dmabuf_fail_nth_test, revoke_mapped)
{
	const char *reason = vfio_pci_no_dmabuf_revoke(self->device);

	if (!reason)
		reason = importer_missing();
	if (reason)
		SKIP(return, "%s", reason);

	self->importer = importer_open();
	prepare_revoke(self);
	attach_and_map_for_revoke(self);
	fail_each(_metadata, self, revoke_fd, undo_revoke_mapped);
	ASSERT_EQ(0, importer_detach(self->importer));
	end_revoke(self);
}

int main(int argc, char *argv[])
{
	device_bdf = vfio_selftests_get_bdf(&argc, argv);
	return test_harness_run(argc, argv);
}
