// SPDX-License-Identifier: GPL-2.0-only
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <sys/ioctl.h>
#include <sys/mman.h>

#include <linux/align.h>

#include <libvfio.h>

int __vfio_pci_dmabuf_export_flags(struct vfio_pci_device *device, int bar, u32 open_flags,
				   u32 flags, const struct vfio_region_dma_range *ranges,
				   u32 nr_ranges)
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
	dma_buf->flags = flags;
	dma_buf->nr_ranges = nr_ranges;
	memcpy(dma_buf->dma_ranges, ranges, ranges_size);

	ret = ioctl(device->fd, VFIO_DEVICE_FEATURE, feature);
	if (ret < 0)
		ret = -errno;
	free(feature);

	return ret;
}

int __vfio_pci_dmabuf_export(struct vfio_pci_device *device, int bar, u32 open_flags,
			     const struct vfio_region_dma_range *ranges, u32 nr_ranges)
{
	return __vfio_pci_dmabuf_export_flags(device, bar, open_flags,
					      VFIO_DEVICE_FEATURE_DMA_BUF_ATTR_UC,
					      ranges, nr_ranges);
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

int __vfio_pci_dmabuf_export_wc(struct vfio_pci_device *device, int bar,
				u64 offset, u64 length)
{
	struct vfio_region_dma_range range = {
		.offset = offset,
		.length = length,
	};

	return __vfio_pci_dmabuf_export_flags(device, bar, O_RDWR | O_CLOEXEC,
					      VFIO_DEVICE_FEATURE_DMA_BUF_ATTR_WC, &range, 1);
}

int vfio_pci_dmabuf_export_wc(struct vfio_pci_device *device, int bar,
			      u64 offset, u64 length)
{
	int fd = __vfio_pci_dmabuf_export_wc(device, bar, offset, length);

	VFIO_ASSERT_GE(fd, 0, "Failed to export %#lx of BAR%d at %#lx write-combining: %s\n",
		       length, bar, offset, strerror(-fd));
	return fd;
}

int __vfio_pci_dmabuf_revoke(struct vfio_pci_device *device, int dmabuf)
{
	struct vfio_pci_dmabuf_revoke revoke = {
		.argsz = sizeof(revoke),
		.dmabuf_fd = dmabuf,
	};

	return ioctl(device->fd, VFIO_DEVICE_PCI_DMABUF_REVOKE, &revoke) ? -errno : 0;
}

void vfio_pci_dmabuf_revoke(struct vfio_pci_device *device, int dmabuf)
{
	int ret = __vfio_pci_dmabuf_revoke(device, dmabuf);

	VFIO_ASSERT_EQ(ret, 0, "Failed to revoke a DMABUF: %s\n", strerror(-ret));
}

const char *vfio_pci_no_dmabuf(struct vfio_pci_device *device)
{
	struct vfio_device_feature feature = {
		.argsz = sizeof(feature),
		.flags = VFIO_DEVICE_FEATURE_PROBE | VFIO_DEVICE_FEATURE_GET |
			 VFIO_DEVICE_FEATURE_DMA_BUF,
	};

	if (!ioctl(device->fd, VFIO_DEVICE_FEATURE, &feature))
		return NULL;

	VFIO_ASSERT_TRUE(errno == ENOTTY || errno == EOPNOTSUPP);
	return errno == ENOTTY ? "The kernel does not export DMABUFs" :
				 "The driver does not export DMABUFs";
}

/*
 * A kernel that lets a process map DMABUFs of a device backs mappings of its
 * BARs with DMABUFs as well, unless the driver maps in a way of its own. So the
 * one tells of the other, and a DMABUF that cannot be mapped is a failure. Any
 * BAR will do: what is true for one has to be true for all.
 */
static bool bars_are_mapped_as_dmabufs(struct vfio_pci_device *device)
{
	struct mmap_target targets[MAX_MMAP_TARGETS], *target;
	const size_t page_size = getpagesize();
	bool ret = false;
	char line[512];
	void *vaddr;

	if (mmap_targets_open(targets, device, false))
		return false;

	for (target = targets; target->size && !ret; target++) {
		vaddr = mmap_target_map(target, 0, page_size);
		ret = proc_maps_line(vaddr, line, sizeof(line)) && strstr(line, "/dmabuf:");
		VFIO_ASSERT_EQ(munmap(vaddr, page_size), 0);
	}
	return ret;
}

const char *vfio_pci_bar_no_dmabuf_mmap(struct vfio_pci_device *device, int bar)
{
	struct vfio_region_info *info = &device->bars[bar].info;
	const char *reason;

	if (!(info->flags & VFIO_REGION_INFO_FLAG_MMAP))
		return "There is no such BAR to map";
	if (!IS_ALIGNED(info->size, getpagesize()))
		return "The BAR is not of whole pages, which is what can be exported";

	reason = vfio_pci_no_dmabuf(device);
	if (reason)
		return reason;
	if (!bars_are_mapped_as_dmabufs(device))
		return "The kernel, or the driver, does not map DMABUFs";

	return NULL;
}

const char *vfio_pci_no_dmabuf_mmap(struct vfio_pci_device *device)
{
	struct mmap_target targets[MAX_MMAP_TARGETS], *target;
	const char *reason;

	reason = mmap_targets_open(targets, device, false);
	if (reason)
		return reason;

	for (target = targets; target->size; target++) {
		reason = vfio_pci_bar_no_dmabuf_mmap(device, target->bar);
		if (!reason)
			break;
	}
	return reason;
}

const char *vfio_pci_no_dmabuf_attr(struct vfio_pci_device *device)
{
	struct vfio_region_dma_range range = {
		.length = getpagesize(),
	};
	const char *reason = vfio_pci_no_dmabuf(device);
	int ret;

	if (reason)
		return reason;

	/* Config space is no memory, so it is this that it fails for where it is known. */
	ret = __vfio_pci_dmabuf_export_flags(device, VFIO_PCI_CONFIG_REGION_INDEX,
					     O_RDWR | O_CLOEXEC,
					     VFIO_DEVICE_FEATURE_DMA_BUF_ATTR_WC, &range, 1);
	VFIO_ASSERT_TRUE(ret == -EINVAL || ret == -ENODEV, "%s\n", strerror(-ret));
	return ret == -EINVAL ? "The kernel knows no memory attributes of DMABUFs" : NULL;
}

/*
 * The PCI core maps a BAR write-combining for root under the same conditions: it is
 * prefetchable, and the platform can do it.
 */
const char *vfio_pci_bar_no_dmabuf_wc(struct vfio_pci_device *device, int bar)
{
	const char *reason = vfio_pci_bar_no_dmabuf_mmap(device, bar);

	if (!reason)
		reason = vfio_pci_no_dmabuf_attr(device);
	if (reason)
		return reason;
	if (!sysfs_bar_resource(device->bdf, bar).prefetchable)
		return "The BAR is not prefetchable";
	if (!sysfs_bar_has_wc(device->bdf, bar))
		return "The platform has no write-combining";
	return NULL;
}

const char *vfio_pci_no_dmabuf_revoke(struct vfio_pci_device *device)
{
	struct vfio_pci_dmabuf_revoke revoke = {};
	const char *reason = vfio_pci_no_dmabuf(device);

	if (reason)
		return reason;

	/* Of no size, so it is this that it fails for where there is one. */
	VFIO_ASSERT_EQ(ioctl(device->fd, VFIO_DEVICE_PCI_DMABUF_REVOKE, &revoke), -1);
	return errno == ENOTTY ? "The kernel does not revoke DMABUFs" : NULL;
}
