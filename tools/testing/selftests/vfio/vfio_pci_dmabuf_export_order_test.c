// SPDX-License-Identifier: GPL-2.0-only
/*
 * The device's memory is disabled or enabled in the middle of an export. Whatever
 * happened meanwhile, the DMABUF is in the state that the memory is in after it.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include <linux/pci_regs.h>
#include <linux/userfaultfd.h>
#include <linux/vfio.h>

#include <libvfio.h>

#include "kselftest_harness.h"

static const char *device_bdf;

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

FIXTURE(vfio_pci_dmabuf_export_order_test) {
	struct vfio_pci_device *device;
	struct mmap_target target;
	struct held_export held;
};

FIXTURE_SETUP(vfio_pci_dmabuf_export_order_test)
{
	const char *reason;

	self->device = vfio_pci_device_open(device_bdf, default_iommu_mode);

	reason = mmap_target_open_largest(&self->target, self->device, true);
	if (reason)
		SKIP(return, "%s", reason);
}

FIXTURE_TEARDOWN(vfio_pci_dmabuf_export_order_test)
{
	mmap_target_close(&self->target);
	vfio_pci_device_close(self->device);
}

TEST_F(vfio_pci_dmabuf_export_order_test, disable_during_export)
{
	struct mmap_target late = self->target;
	const char *reason;

	reason = held_export_start(&self->held, self->device, self->target.bar);
	if (reason)
		SKIP(return, "%s", reason);
	vfio_pci_memory_decode.disable(self->device);
	late.fd = held_export_finish(&self->held);
	ASSERT_FALSE(mmap_target_try_touch(&late));

	vfio_pci_memory_decode.enable(self->device);
	ASSERT_TRUE(mmap_target_try_touch(&late));
	ASSERT_EQ(0, close(late.fd));
}

TEST_F(vfio_pci_dmabuf_export_order_test, enable_during_export)
{
	struct mmap_target late = self->target;
	const char *reason;

	vfio_pci_memory_decode.disable(self->device);
	reason = held_export_start(&self->held, self->device, self->target.bar);
	if (reason)
		SKIP(return, "%s", reason);
	vfio_pci_memory_decode.enable(self->device);
	late.fd = held_export_finish(&self->held);
	ASSERT_TRUE(mmap_target_try_touch(&late));

	vfio_pci_memory_decode.disable(self->device);
	ASSERT_FALSE(mmap_target_try_touch(&late));
	ASSERT_EQ(0, close(late.fd));
}

TEST_F(vfio_pci_dmabuf_export_order_test, reset_during_export)
{
	struct mmap_target late = self->target;
	const char *reason;

	reason = vfio_pci_function_reset.unsupported(self->device);
	if (!reason)
		reason = held_export_start(&self->held, self->device, self->target.bar);
	if (reason)
		SKIP(return, "%s", reason);
	vfio_pci_function_reset.disable(self->device);
	late.fd = held_export_finish(&self->held);
	ASSERT_TRUE(mmap_target_try_touch(&late));
	ASSERT_EQ(0, close(late.fd));
}

int main(int argc, char *argv[])
{
	device_bdf = vfio_selftests_get_bdf(&argc, argv);
	return test_harness_run(argc, argv);
}
