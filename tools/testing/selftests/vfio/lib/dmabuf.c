// SPDX-License-Identifier: GPL-2.0-only
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <sys/ioctl.h>
#include <sys/mman.h>

#include <libvfio.h>

int __vfio_pci_dmabuf_export(struct vfio_pci_device *device, int bar, u32 open_flags,
			     const struct vfio_region_dma_range *ranges, u32 nr_ranges)
{
	const size_t ranges_size = nr_ranges * sizeof(*ranges);
	struct vfio_device_feature_dma_buf *dma_buf;
	struct vfio_device_feature *feature;
	size_t argsz;
	int ret;

	argsz = sizeof(*feature) + sizeof(*dma_buf) + ranges_size;
	feature = calloc_assert(1, argsz);
	feature->argsz = argsz;
	feature->flags = VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_DMA_BUF;

	dma_buf = (void *)feature->data;
	dma_buf->region_index = bar;
	dma_buf->open_flags = open_flags;
	dma_buf->nr_ranges = nr_ranges;
	memcpy(dma_buf->dma_ranges, ranges, ranges_size);

	ret = ioctl(device->fd, VFIO_DEVICE_FEATURE, feature);
	if (ret < 0)
		ret = -errno;
	free(feature);

	return ret;
}

int vfio_pci_dmabuf_export(struct vfio_pci_device *device, int bar, u32 open_flags,
			   const struct vfio_region_dma_range *ranges, u32 nr_ranges)
{
	int fd = __vfio_pci_dmabuf_export(device, bar, open_flags, ranges, nr_ranges);

	VFIO_ASSERT_GE(fd, 0, "Failed to export %u ranges of BAR%d: %s\n",
		       nr_ranges, bar, strerror(-fd));
	return fd;
}

int __vfio_pci_dmabuf_export_range(struct vfio_pci_device *device, int bar,
				   u64 offset, u64 length)
{
	struct vfio_region_dma_range range = {
		.offset = offset,
		.length = length,
	};

	return __vfio_pci_dmabuf_export(device, bar, O_RDWR | O_CLOEXEC, &range, 1);
}

int vfio_pci_dmabuf_export_range(struct vfio_pci_device *device, int bar,
				 u64 offset, u64 length)
{
	struct vfio_region_dma_range range = {
		.offset = offset,
		.length = length,
	};

	return vfio_pci_dmabuf_export(device, bar, O_RDWR | O_CLOEXEC, &range, 1);
}

const char *vfio_pci_bar_no_dmabuf_mmap(struct vfio_pci_device *device, int bar)
{
	const size_t page_size = getpagesize();
	void *vaddr;
	int fd;

	if (!device->bars[bar].info.size)
		return "There is no such BAR";
	if (device->bars[bar].info.size < page_size)
		return "The BAR is smaller than a page, which cannot be exported";

	fd = __vfio_pci_dmabuf_export_range(device, bar, 0, page_size);
	switch (fd) {
	case -ENOTTY:
		return "The kernel does not export DMABUFs";
	case -EOPNOTSUPP:
		return "The driver does not export DMABUFs";
	case -ENODEV:
	case -EINVAL:
		return "The BAR cannot be exported";
	}
	VFIO_ASSERT_GE(fd, 0, "Failed to export a page of BAR%d: %s\n", bar, strerror(-fd));

	vaddr = mmap(NULL, page_size, PROT_READ, MAP_SHARED, fd, 0);
	VFIO_ASSERT_EQ(close(fd), 0);
	if (vaddr == MAP_FAILED) {
		VFIO_ASSERT_TRUE(errno == EINVAL || errno == EOPNOTSUPP);
		return errno == EINVAL ? "The kernel does not map DMABUFs of vfio-pci" :
					 "The driver does not map DMABUFs";
	}
	VFIO_ASSERT_EQ(munmap(vaddr, page_size), 0);

	return NULL;
}

const char *vfio_pci_no_dmabuf_mmap(struct vfio_pci_device *device)
{
	const char *reason = NULL;
	int i;

	for (i = 0; i < PCI_STD_NUM_BARS; i++) {
		if (!device->bars[i].info.size)
			continue;
		reason = vfio_pci_bar_no_dmabuf_mmap(device, i);
		if (!reason)
			return NULL;
	}
	return reason ?: "The device has no BAR";
}
