/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef SELFTESTS_VFIO_LIB_INCLUDE_LIBVFIO_DMABUF_H
#define SELFTESTS_VFIO_LIB_INCLUDE_LIBVFIO_DMABUF_H

#include <stdbool.h>

#include <linux/types.h>
#include <linux/vfio.h>

struct vfio_pci_device;

/*
 * Export ranges of a BAR as one DMABUF. Returns its fd, and the variant without
 * assertion a negative errno where there is none.
 */
int __vfio_pci_dmabuf_export(struct vfio_pci_device *device, int bar, u32 open_flags,
			     const struct vfio_region_dma_range *ranges, u32 nr_ranges);
int vfio_pci_dmabuf_export(struct vfio_pci_device *device, int bar, u32 open_flags,
			   const struct vfio_region_dma_range *ranges, u32 nr_ranges);

/* The same with a single range, which a process may read and write. */
int __vfio_pci_dmabuf_export_range(struct vfio_pci_device *device, int bar,
				   u64 offset, u64 length);
int vfio_pci_dmabuf_export_range(struct vfio_pci_device *device, int bar,
				 u64 offset, u64 length);

/*
 * Why a process cannot map a DMABUF of this BAR: it is no BAR to export, or the
 * kernel does not have it. NULL if it can.
 */
const char *vfio_pci_bar_no_dmabuf_mmap(struct vfio_pci_device *device, int bar);

/* The same for the device: NULL if a DMABUF of any of its BARs can be mapped */
const char *vfio_pci_no_dmabuf_mmap(struct vfio_pci_device *device);

#endif /* SELFTESTS_VFIO_LIB_INCLUDE_LIBVFIO_DMABUF_H */
