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

/* The same with flags, which are those of struct vfio_device_feature_dma_buf */
int __vfio_pci_dmabuf_export_flags(struct vfio_pci_device *device, int bar, u32 open_flags,
				   u32 flags, const struct vfio_region_dma_range *ranges,
				   u32 nr_ranges);

/* The same with a single range, which a process may read and write. */
int __vfio_pci_dmabuf_export_range(struct vfio_pci_device *device, int bar,
				   u64 offset, u64 length);
int vfio_pci_dmabuf_export_range(struct vfio_pci_device *device, int bar,
				 u64 offset, u64 length);

/* The same, and it is to be mapped write-combining. */
int __vfio_pci_dmabuf_export_wc(struct vfio_pci_device *device, int bar,
				u64 offset, u64 length);
int vfio_pci_dmabuf_export_wc(struct vfio_pci_device *device, int bar,
			      u64 offset, u64 length);

/*
 * Take a DMABUF back for good. The variant without assertion returns a negative
 * errno where that fails.
 */
int __vfio_pci_dmabuf_revoke(struct vfio_pci_device *device, int dmabuf);
void vfio_pci_dmabuf_revoke(struct vfio_pci_device *device, int dmabuf);

/*
 * What this kernel, or this device, cannot do, in words, or NULL. None of these
 * is found out by trying: where they say that it can, a failure is one.
 */

/* Export DMABUFs */
const char *vfio_pci_no_dmabuf(struct vfio_pci_device *device);
/* Export this BAR as a DMABUF and let a process map that */
const char *vfio_pci_bar_no_dmabuf_mmap(struct vfio_pci_device *device, int bar);
/* The same with any BAR */
const char *vfio_pci_no_dmabuf_mmap(struct vfio_pci_device *device);
/* Ask for the memory attribute of a DMABUF */
const char *vfio_pci_no_dmabuf_attr(struct vfio_pci_device *device);
/* Export this BAR as a DMABUF and let a process map that write-combining */
const char *vfio_pci_bar_no_dmabuf_wc(struct vfio_pci_device *device, int bar);
/* Revoke DMABUFs */
const char *vfio_pci_no_dmabuf_revoke(struct vfio_pci_device *device);

#endif /* SELFTESTS_VFIO_LIB_INCLUDE_LIBVFIO_DMABUF_H */
