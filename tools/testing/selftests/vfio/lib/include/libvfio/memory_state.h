/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef SELFTESTS_VFIO_LIB_INCLUDE_LIBVFIO_MEMORY_STATE_H
#define SELFTESTS_VFIO_LIB_INCLUDE_LIBVFIO_MEMORY_STATE_H

#include <stdbool.h>

struct vfio_pci_device;

/**
 * struct vfio_pci_memory_event - Something that takes a device's memory away
 * @name: Its name
 * @missing: Why this device, or this kernel, does not have it; NULL if it has
 * @take: The memory is gone when this returns
 * @give: The memory is back when this returns. If there is none, the memory was
 *	gone for a while, and is back when @take returns.
 */
struct vfio_pci_memory_event {
	const char *name;
	const char *(*missing)(struct vfio_pci_device *device);
	void (*take)(struct vfio_pci_device *device);
	void (*give)(struct vfio_pci_device *device);
};

extern const struct vfio_pci_memory_event vfio_pci_memory_decode;
extern const struct vfio_pci_memory_event vfio_pci_d3hot;
extern const struct vfio_pci_memory_event vfio_pci_low_power;
extern const struct vfio_pci_memory_event vfio_pci_function_reset;
extern const struct vfio_pci_memory_event vfio_pci_hot_reset;
extern const struct vfio_pci_memory_event vfio_pci_flr;

#endif /* SELFTESTS_VFIO_LIB_INCLUDE_LIBVFIO_MEMORY_STATE_H */
